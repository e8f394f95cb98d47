"""The training loop: `fit` trains by a Config and leaves nothing half-done.

A recipe with a teacher trains that first, by the same loop. A finished epoch of either is kept in a checkpoint; a run
resumed from it ends in the same weights, bit for bit, on the same machine with the same number of threads, on the CPU.
"""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from tqdm import tqdm

from common.errors import UserError
from handler.preprocessing import to_input
from training.data import DataSet, Pictures
from training.export import write_whole
from training.measures import Epoch, accuracy, evaluate
from training.model import DigitCNN
from training.normalised import NormalisedDigitCNN
from training.recipe import TEACHER, Config
from training.rounds import Rounds
from training.teacher import Teacher

METHOD = 3  # of training: another number wherever the same options come to train other weights
OUTLIER_WEIGHT = 0.06  # of the pictures of no digit in the loss; 0.5, as Hendrycks et al. have it, costs accuracy


class ResumeError(UserError):
    """A checkpoint that does not belong to this run; the message names what differs."""


def parts(config: Config, data: DataSet) -> tuple[Pictures, Pictures, str]:
    """Training pictures, held-out pictures, and which part of the data set the latter are."""
    if config.held_out == "test" and data.test is not None:
        return data.all_training, data.test, "test"
    return data.train, data.validation, "validation"


def run_id(config: Config, data: DataSet) -> str:
    """Names the run by what determines it: method, configuration, data and torch's version."""
    given = json.dumps([METHOD, asdict(config), data.sha256, torch.__version__], sort_keys=True)
    return hashlib.sha256(given.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Material:
    """An epoch's pictures: frames uint8 [N,64,64] of digits, [M,64,64] of none, the teacher's logits [N,10]."""

    digits: Tensor
    outliers: Tensor | None = None
    logits: Tensor | None = None


def make_rounds(config: Config, pictures: Pictures, device: torch.device) -> Rounds:
    """The rounds of a recipe; a teacher and its pupil share them."""
    count = config.rounds if config.augment else 0
    outliers = max(1, round(len(pictures) * config.outliers)) if config.outliers else 0
    return Rounds(pictures, count, outliers, config.seed, device, config.threads)


def _digit_network(config: Config) -> nn.Module:
    return NormalisedDigitCNN(config.dropout) if config.normalise else DigitCNN(config.dropout)


class Run:
    """A training run between two epochs: all that has to be kept for it to go on to the same result.

    It trains the teacher itself if `network` says so, else the digit model, with the teacher's help if there is one.
    """

    def __init__(
        self,
        config: Config,
        data: DataSet,
        device: torch.device,
        rounds: Rounds | None = None,
        teacher: nn.Module | None = None,
        network: Callable[[Config], nn.Module] | None = None,
    ) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.device, self.identity = config, device, run_id(config, data)
        self.train, self.held, self.held_out = parts(config, data)
        self.rounds = rounds or make_rounds(config, self.train, device)
        self.teacher = teacher
        self.labels = torch.from_numpy(self.train.labels).to(device)
        self.model = (network or _digit_network)(config).to(device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.lr, fused=True)
        self.scheduler = _scheduler(config, self.optimizer, len(self.train))
        self.average = MovingAverage(self.model, config.average)
        self.order = torch.Generator().manual_seed(config.seed)
        self.history: list[Epoch] = []

    @property
    def best(self) -> DigitCNN | Teacher:
        """What the run answers with: averaged weights where the recipe keeps them, normalisation folded into them."""
        best = self.average.module if self.config.average else self.model
        if isinstance(best, NormalisedDigitCNN):
            return best.folded()
        assert isinstance(best, DigitCNN | Teacher)
        return best

    def epoch(self) -> Epoch:
        """One pass over the training pictures, then the measures; appends to the history."""
        self.model.train()
        number = len(self.history)
        material = self.material(number)
        batches = torch.randperm(len(self.train), generator=self.order).split(self.config.batch)
        bar = tqdm(batches, f"epoch {number}", leave=False, disable=None)
        outputs = [self.step(rows, material) for rows in bar]
        losses, logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
        held = evaluate(self.best, self.held)
        seen = float(losses.mean()), accuracy(logits, labels)
        self.history.append(Epoch(number, *seen, held.loss, held.accuracy))
        return self.history[-1]

    def material(self, number: int) -> "Material":
        return Material(
            self.rounds.digits(number),
            self.rounds.outliers(number) if self.config.outliers else None,
            self.rounds.logits(number, self.teacher) if self.teacher else None,
        )

    def step(self, rows: Tensor, material: "Material") -> tuple[Tensor, Tensor, Tensor]:
        """One batch; returns loss [n], logits [n,10] and labels [n] of its digits, detached."""
        frames = material.digits.index_select(0, rows)
        if material.outliers is not None:
            drawn = torch.randint(len(material.outliers), (round(len(rows) * self.config.outliers),))
            frames = torch.cat((frames, material.outliers.index_select(0, drawn)))
        grey = to_input(frames.to(self.device))[:, :1]  # [n + outliers,1,64,64]
        labels = self.labels.index_select(0, rows.to(self.device))
        answers: Tensor = self.model.forward_grey(grey)  # type: ignore[operator]
        logits = answers[: len(rows)]
        logarithms, unsure = F.log_softmax(answers, 1).tensor_split([len(rows)])  # of the probabilities
        losses = F.nll_loss(logarithms, labels, reduction="none")
        loss = losses.mean()
        if material.logits is not None:
            taught = self._distillation(logits, material.logits.index_select(0, rows).to(self.device))
            loss = loss.lerp(taught, self.config.distillation)
        if len(unsure):  # to be answered with equal probabilities
            loss = loss - OUTLIER_WEIGHT * unsure.mean()
        self.model.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.config.average:
            self.average.update()
        return losses.detach(), logits.detach(), labels

    def _distillation(self, logits: Tensor, taught: Tensor) -> Tensor:
        """Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015.

        Cross-entropy has the divergence's gradient: the two differ by the entropy of what is taught.
        """
        softness = self.config.softness
        return F.cross_entropy(logits / softness, F.softmax(taught / softness, 1)) * softness**2

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
                f"{path}: belongs to run {found}, this one is {self.identity}: its options, its data or the version of "
                "training differ; repeat those of the run that was stopped, or leave out --resume"
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


class MovingAverage(nn.Module):
    """EMA of a model's weights and buffers, whose decay grows with the steps taken, so that the first do not linger.

    torch's AveragedModel sorts all tensors by their device anew at every step: ten times as long as averaging takes.
    """

    n_averaged: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(model)
        self.register_buffer("n_averaged", torch.tensor(0))
        self.decay = decay
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        self._averaged, self._current = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        steps = int(self.n_averaged)
        torch._foreach_lerp_(self._averaged, self._current, max(1 - self.decay, 9 / (9 + steps)))
        for averaged, current in self._counters:
            averaged.copy_(current)
        self.n_averaged.fill_(steps + 1)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def fit(
    config: Config,
    data: DataSet,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
) -> Run:
    """Trains to the last epoch, reporting a line each and keeping each in `checkpoint`; returns the run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rounds = make_rounds(config, parts(config, data)[0], device)
    teacher = None
    if config.teacher:
        tutor = replace(config, epochs=config.teacher, teacher=0, **TEACHER)
        kept = checkpoint and checkpoint_of_teacher(checkpoint)
        taught = Run(tutor, data, device, rounds, network=lambda _: Teacher())
        teacher = _finish(taught, kept, resume, lambda line: report(f"Teacher, {line}")).best
    return _finish(Run(config, data, device, rounds, teacher), checkpoint, resume, report)


def checkpoint_of_teacher(checkpoint: Path) -> Path:
    """Where a teacher's epochs are kept, beside those of its pupil."""
    return checkpoint.with_suffix(f".teacher{checkpoint.suffix}")


def _finish(run: Run, checkpoint: Path | None, resume: bool, report: Callable[[str], None]) -> Run:
    if resume and checkpoint:
        run.load(checkpoint)
    for done in run.history:
        report(done.line(run.held_out))
    while len(run.history) < run.config.epochs:
        report(run.epoch().line(run.held_out))
        if checkpoint:
            run.save(checkpoint)
    return run
