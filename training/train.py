"""The training loop: `fit` trains as a Config says, and can be stopped and resumed.

The teacher, if the recipe has one, is trained first by the same loop. Every finished epoch is kept in a checkpoint.
A resumed training ends in the same weights, bit for bit, on the same machine with the same threads, on the CPU.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.atomic import write_atomic
from common.command_line import show_progress
from common.errors import UserError
from handler.preprocessing import to_input
from training.augmented_data import AugmentedData
from training.data import DataSet, LabeledImages
from training.export import to_bytes
from training.model import DigitCNN, fold_batch_norms
from training.model_metrics import Epoch, accuracy, evaluate
from training.recipe import TEACHER, Config
from training.teacher import Teacher

if TYPE_CHECKING:
    from training.fine_tuning import Start

TRAINING_VERSION = 4  # increase it when the same options train other weights
OUTLIER_WEIGHT = 0.06  # of the outliers in the loss; 0.5, as Hendrycks et al. have it, costs accuracy
WARM_UP = 9  # steps; the average's decay after n of them is at most n / (n + WARM_UP)


class ResumeError(UserError):
    """A checkpoint that does not belong to this training; the message names what differs."""


@dataclass(frozen=True)
class EpochData:
    """An epoch's frames uint8 [N,64,64], outliers uint8 [M,64,64] and teacher's logits [N,10]."""

    frames: Tensor
    outliers: Tensor | None = None
    teacher_logits: Tensor | None = None


def choose_pictures(config: Config, data: DataSet) -> tuple[LabeledImages, LabeledImages, str]:
    """Return the training pictures, the held-out pictures and the name of the held-out part."""
    if config.held_out == "test" and data.test is not None:
        return data.all_training, data.test, "test"
    return data.train, data.validation, "validation"


def make_run_id(config: Config, data: DataSet, start: "Start | None" = None) -> str:
    """Hash what determines the weights: training version, configuration, data, torch's version, those of the start."""
    weights = [start.sha256] if start else []
    determinants = [TRAINING_VERSION, asdict(config), data.sha256, torch.__version__, *weights]
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()[:12]


def make_rounds(config: Config, pictures: LabeledImages) -> AugmentedData:
    """Create the augmented data of a recipe, which teacher and digit model share."""
    count = config.rounds if config.augment else 0
    outliers = max(1, round(len(pictures) * config.outliers)) if config.outliers else 0
    return AugmentedData(pictures, count, outliers, config.seed, config.threads)


class Trainer:
    """Trains the digit model, or `network` if given, epoch by epoch; its state between two epochs can be saved.

    Large because what PyTorch keeps apart (model, average, optimizer, scheduler, order) is one training.
    """

    def __init__(
        self,
        config: Config,
        data: DataSet,
        rounds: AugmentedData | None = None,
        teacher: nn.Module | None = None,
        network: Callable[[], nn.Module] | None = None,
        start: "Start | None" = None,
    ) -> None:
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.start, self.run_id = config, start, make_run_id(config, data, start)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.train, self.held, self.held_out = choose_pictures(config, data)
        self.rounds = rounds or make_rounds(config, self.train)
        self.teacher = teacher
        self.labels = torch.from_numpy(self.train.labels).to(self.device)
        self.model = (network() if network else DigitCNN(config.dropout, config.normalise)).to(self.device)
        if start:
            self.model.load_state_dict(start.model.state_dict())
        self.average = AveragedModel(self.model, multi_avg_fn=_ema_with_warm_up(config.average), use_buffers=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.lr, fused=True)
        self.scheduler = _make_scheduler(config, self.optimizer, len(self.train))
        self.order = torch.Generator().manual_seed(config.seed)
        self.history: list[Epoch] = []

    @property
    def best(self) -> nn.Module:
        """The averaged model, or the current one if the recipe averages none, with its batch norms folded."""
        best = self.average.module if self.config.average else self.model
        return fold_batch_norms(best) if isinstance(best, DigitCNN) else best

    def run_epoch(self) -> Epoch:
        """Train on every training picture once, measure the held-out pictures and append to the history."""
        self.model.train()
        number = len(self.history)
        data = self.load_epoch(number)
        batches = torch.randperm(len(self.train), generator=self.order).split(self.config.batch)
        outputs = [self.step(rows, data) for rows in show_progress(batches, f"epoch {number}")]
        losses, logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
        held = evaluate(self.best, self.held)
        trained = float(losses.mean()), accuracy(logits, labels)
        self.history.append(Epoch(number, *trained, held.loss, held.accuracy))
        return self.history[-1]

    def load_epoch(self, number: int) -> EpochData:
        return EpochData(
            self.rounds.digits(number),
            self.rounds.outliers(number) if self.config.outliers else None,
            self.rounds.logits(number, self.teacher) if self.teacher else None,
        )

    def step(self, rows: Tensor, data: EpochData) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch; return loss [n], logits [n,10] and labels [n] of its digits, detached."""
        frames = data.frames.index_select(0, rows)
        if data.outliers is not None:
            drawn = torch.randint(len(data.outliers), (round(len(rows) * self.config.outliers),))
            frames = torch.cat((frames, data.outliers.index_select(0, drawn)))
        labels = self.labels.index_select(0, rows.to(self.device))
        logits, outlier_logits = self.model(to_input(frames.to(self.device))).tensor_split([len(rows)])
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = losses.mean()
        if data.teacher_logits is not None:
            teacher_logits = data.teacher_logits.index_select(0, rows).to(self.device)
            if self.start:  # what its weights read wrong: from the label alone, as logits teach themselves nothing
                is_right = teacher_logits.argmax(1, keepdim=True) == labels[:, None]
                teacher_logits = torch.where(is_right, teacher_logits, logits.detach())
            loss = loss.lerp(self.distillation_loss(logits, teacher_logits), self.config.distillation)
        if len(outlier_logits):  # all digits are to be equally probable
            loss = loss - OUTLIER_WEIGHT * F.log_softmax(outlier_logits, 1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.config.average:
            self.average.update_parameters(self.model)
        return losses.detach(), logits.detach(), labels

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Hinton, Vinyals, Dean: Distilling the knowledge in a neural network, 2015.

        The cross-entropy has the gradient of the divergence; the two differ by the entropy of the teacher.
        """
        temperature = self.config.softness
        return F.cross_entropy(logits / temperature, F.softmax(teacher_logits / temperature, 1)) * temperature**2

    def save(self, path: Path) -> None:
        state = {
            "run_id": self.run_id,
            "history": [asdict(epoch) for epoch in self.history],
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            **{name: part.state_dict() for name, part in self._stateful_parts().items()},
        }
        write_atomic(path, to_bytes(lambda file: torch.save(state, file)))

    def load(self, path: Path) -> None:
        """Restore the checkpoint, if there is one; raise ResumeError if it is damaged or of another training."""
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            run_id = state["run_id"]
        except Exception as error:  # a damaged checkpoint fails by whatever type its reader has
            raise ResumeError(f"{path}: no checkpoint of ours ({error}); remove it to start anew") from error
        if run_id != self.run_id:
            raise ResumeError(
                f"{path}: belongs to run {run_id}, this one is {self.run_id}: its options, its data or the version of "
                "training differ; repeat those of the run that was stopped, or leave out --resume"
            )
        for name, part in self._stateful_parts().items():
            part.load_state_dict(state[name])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])
        if state["cuda"]:
            torch.cuda.set_rng_state_all(state["cuda"])

    def _stateful_parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "average": self.average}
        return parts | ({"scheduler": self.scheduler} if self.scheduler else {})


def _make_scheduler(config: Config, optimizer: torch.optim.Optimizer, pictures: int) -> LRScheduler | None:
    if config.schedule == "constant":
        return None
    steps = config.epochs * -(-pictures // config.batch)
    return OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)


def _ema_with_warm_up(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an exponential moving average for AveragedModel that forgets its first steps quickly."""

    def update(averaged: Any, current: Any, steps: Any) -> None:
        get_ema_multi_avg_fn(min(decay, int(steps) / (int(steps) + WARM_UP)))(averaged, current, steps)

    return update


def fit(
    config: Config,
    data: DataSet,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
    start: "Start | None" = None,
) -> Trainer:
    """Train to the last epoch, report a line per epoch, keep each one in `checkpoint`; return the trainer."""
    first = f"{config.teacher} of the teacher (--teacher), then " if config.teacher else ""
    total, images = config.teacher + config.epochs, len(choose_pictures(config, data)[0])
    listed = f"{first}{config.epochs} of the digit model (--epochs)"
    report(f"epochs: {total} in all, {listed}, on {images} images of {data.name}")
    rounds = make_rounds(config, choose_pictures(config, data)[0])
    teacher = start.model if start else None
    if config.teacher:
        its_config = replace(config, epochs=config.teacher, teacher=0, **TEACHER)
        its_checkpoint = checkpoint and teacher_checkpoint(checkpoint)
        trainer = Trainer(its_config, data, rounds, network=Teacher)
        teacher = _train(trainer, its_checkpoint, resume, lambda line: report(f"Teacher, {line}"), config.epochs).best
    return _train(Trainer(config, data, rounds, teacher, start=start), checkpoint, resume, report)


def teacher_checkpoint(checkpoint: Path) -> Path:
    """Return the path of the teacher's checkpoint, beside the digit model's."""
    return checkpoint.with_suffix(f".teacher{checkpoint.suffix}")


def _train(
    trainer: Trainer, checkpoint: Path | None, resume: bool, report: Callable[[str], None], later: int = 0
) -> Trainer:
    """Train to the last epoch; about as long as one of its epochs takes another trainer's, of which `later` follow."""
    if resume and checkpoint:
        trainer.load(checkpoint)
    begin, started = len(trainer.history), monotonic()
    if begin:
        report(f"resumed after {begin} of {trainer.config.epochs} epochs")
    while (done := len(trainer.history)) < trainer.config.epochs:
        line = trainer.run_epoch().line(trainer.held_out)
        left = (monotonic() - started) / (done + 1 - begin) * (trainer.config.epochs - done - 1 + later)
        report(f"{line} | {timedelta(seconds=round(left))} left")
        if checkpoint:
            trainer.save(checkpoint)
    return trainer
