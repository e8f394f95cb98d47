"""The training loop: `fit` trains by a Config and yields nothing half-done, `evaluate` measures.

A finished epoch is kept in a checkpoint; a run resumed from it ends in the same weights, bit for bit, on the
same machine with the same number of threads, on the CPU.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel
from torchmetrics.functional.classification import multiclass_accuracy
from tqdm import tqdm

from handler.preprocessing import to_input
from training.augment import augment
from training.data import DataSet, Pictures
from training.export import write_whole
from training.model import CLASSES, DigitCNN

EVALUATION_BATCH = 500


class ConfigError(Exception):
    """An option out of its range; the message names option, value and range."""


class ResumeError(Exception):
    """A checkpoint that does not belong to this run; the message names what differs."""


@dataclass(frozen=True)
class Config:
    """One training run; the defaults are the best recipe found on the validation split."""

    recipe: str = "default"
    epochs: int = 30
    batch: int = 50
    lr: float = 0.003  # Adam's; the peak where the schedule is onecycle
    dropout: float = 0.0  # Dropout2d after the second convolution
    schedule: str = "onecycle"  # or constant
    average: float = 0.999  # decay of the weights' moving average (EMA), 0 for none
    augment: bool = True  # slightly changed pictures in every epoch
    held_out: str = "validation"  # or test: what each epoch is measured on
    seed: int = 0
    threads: int = 2  # of the CPU; part of what makes a run repeatable

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1, 100_000), "batch": (1, 60_000), "lr": (1e-9, 10), "dropout": (0, 0.99),
            "average": (0, 0.999999), "seed": (0, 2**63 - 1), "threads": (1, 1024),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"--{name} {getattr(self, name)}; expected {low} to {high}")


RECIPES: Final = {
    "default": Config(),
    "original": Config(
        "original", lr=0.01, dropout=0.5, schedule="constant", average=0.0, augment=False, held_out="test"
    ),
}


@dataclass(frozen=True)
class Epoch:
    """Mean cross-entropy and accuracy (0..1) of one epoch, on the training and on the held-out pictures."""

    number: int
    train_loss: float
    train_acc: float
    held_loss: float
    held_acc: float

    def line(self, held_out: str) -> str:
        held = "Test" if held_out == "test" else "Val"
        return (
            f"Epoch : {self.number} | Train_loss : {self.train_loss:.3f} | Train_acc : {self.train_acc:.0%}"
            f" | {held}_loss : {self.held_loss:.3f} | {held}_acc : {self.held_acc:.0%}"
        )


@dataclass(frozen=True)
class Measures:
    """What a model gives on N pictures: logits [N,10] and labels [N], on the CPU."""

    logits: Tensor
    labels: Tensor

    @property
    def loss(self) -> float:
        return float(F.cross_entropy(self.logits, self.labels))

    @property
    def accuracy(self) -> float:
        return accuracy(self.logits, self.labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the N pictures whose largest logit is the label's, by torchmetrics."""
    return float(multiclass_accuracy(logits, labels, CLASSES, average="micro"))


def evaluate(model: nn.Module, pictures: Pictures) -> Measures:
    """The model's logits on the pictures, in evaluation mode; the mode it came in is put back."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with torch.inference_mode():
        logits = [
            model(to_input(pictures.frames[start : start + EVALUATION_BATCH]).to(device)).cpu()
            for start in range(0, len(pictures), EVALUATION_BATCH)
        ]
    model.train(training)
    return Measures(torch.cat(logits), torch.from_numpy(pictures.labels))


def parts(config: Config, data: DataSet) -> tuple[Pictures, Pictures, str]:
    """Training pictures, held-out pictures, and which part of the data set the latter are."""
    if config.held_out == "test" and data.test is not None:
        return data.all_training, data.test, "test"
    return data.train, data.validation, "validation"


def run_id(config: Config, data: DataSet) -> str:
    """Names the run by what determines it: configuration, data and torch's version."""
    given = json.dumps([asdict(config), data.sha256, torch.__version__], sort_keys=True)
    return hashlib.sha256(given.encode()).hexdigest()[:12]


class Run:
    """A training run between two epochs: all that has to be kept for it to go on to the same result."""

    def __init__(self, config: Config, data: DataSet, device: torch.device) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.device, self.identity = config, device, run_id(config, data)
        self.train, self.held, self.held_out = parts(config, data)
        self.frames = torch.from_numpy(self.train.frames).to(device)  # uint8 [N,64,64]
        self.labels = torch.from_numpy(self.train.labels).to(device)
        self.model = DigitCNN(config.dropout).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.lr, fused=True)
        self.scheduler = _scheduler(config, self.optimizer, len(self.train))
        self.average = AveragedModel(self.model, avg_fn=_moving_average(config.average))
        self.order = torch.Generator().manual_seed(config.seed)
        self.history: list[Epoch] = []

    @property
    def best(self) -> DigitCNN:
        """The weights that the run answers with: their average where the recipe keeps one."""
        best = self.average.module if self.config.average else self.model
        assert isinstance(best, DigitCNN)
        return best

    def epoch(self) -> Epoch:
        """One pass over the training pictures, then the measures; appends to the history."""
        self.model.train()
        batches = torch.randperm(len(self.train), generator=self.order).split(self.config.batch)
        outputs = [self.step(rows) for rows in tqdm(batches, f"epoch {len(self.history)}", leave=False, disable=None)]
        losses, logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
        held = evaluate(self.best, self.held)
        seen = float(losses.mean()), accuracy(logits, labels)
        self.history.append(Epoch(len(self.history), *seen, held.loss, held.accuracy))
        return self.history[-1]

    def step(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One batch; returns loss [n], logits [n,10] and labels [n], detached."""
        rows = rows.to(self.device)
        grey = to_input(self.frames[rows])[:, :1]  # [n,1,64,64]
        if self.config.augment:
            grey = augment(grey)
        labels = self.labels[rows]
        logits = self.model.forward_grey(grey)
        losses = F.cross_entropy(logits, labels, reduction="none")
        self.optimizer.zero_grad()
        losses.mean().backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.config.average:
            self.average.update_parameters(self.model)
        return losses.detach(), logits.detach(), labels

    def save(self, path: Path) -> None:
        write_whole(path, lambda file: torch.save(self._state(), file))

    def load(self, path: Path) -> None:
        """Goes back to the epoch of the checkpoint; ResumeError if it is another run's or damaged."""
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            found = state["identity"]
        except FileNotFoundError:
            return  # nothing to go on from: the run starts
        except Exception as error:  # a damaged checkpoint fails by whatever type its reader has
            raise ResumeError(f"{path}: no checkpoint of ours ({error}); remove it to start anew") from error
        if found != self.identity:
            raise ResumeError(
                f"{path}: belongs to run {found}, this one is {self.identity}: its options or its data differ; "
                "repeat those of the run that was stopped, or leave out --resume"
            )
        self._restore(state)

    def _stateful(self) -> dict[str, Any]:
        named = {"model": self.model, "optimizer": self.optimizer, "average": self.average}
        return named | ({"scheduler": self.scheduler} if self.scheduler else {})

    def _state(self) -> dict[str, Any]:
        return {
            "identity": self.identity,
            "history": [asdict(epoch) for epoch in self.history],
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            **{name: part.state_dict() for name, part in self._stateful().items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])


def _scheduler(config: Config, optimizer: torch.optim.Optimizer, pictures: int) -> LRScheduler | None:
    if config.schedule == "constant":
        return None
    steps = config.epochs * -(-pictures // config.batch)
    return OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """EMA whose decay grows to `decay` with the steps taken, so that the initial weights do not linger."""

    def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
        return torch.lerp(averaged, current, max(1 - decay, 9 / (9 + int(steps))))

    return average


def fit(
    config: Config,
    data: DataSet,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> Run:
    """Trains to the last epoch, reporting a line each and keeping each in `checkpoint`; returns the run."""
    run = Run(config, data, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if resume and checkpoint:
        run.load(checkpoint)
    for done in run.history:
        report(done.line(run.held_out))
    while len(run.history) < config.epochs:
        report(run.epoch().line(run.held_out))
        if checkpoint:
            run.save(checkpoint)
    return run


def configure(recipe: str, **changes: Any) -> Config:
    """The recipe's Config with the given fields changed; None leaves the recipe's own."""
    return replace(RECIPES[recipe], **{name: value for name, value in changes.items() if value is not None})
