"""The training loop; resumed training is bit-identical on the same machine's CPU with as many threads."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

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
from training.fine_tuning import LoadedModel, load_teacher
from training.model import fold_batch_norms, make_network
from training.model_metrics import Epoch, compute_accuracy, evaluate_model
from training.recipe import Config, ConfigError

TRAINING_VERSION = 8  # increase it when a change of code changes the weights
EMA_WARM_UP = 9  # steps; after n steps the decay is at most n / (n + EMA_WARM_UP)


class ResumeError(UserError):
    """A checkpoint of a different run; the message names what differs."""


@dataclass(frozen=True)
class EpochData:
    """Frames uint8 [N,64,64], outliers uint8 [M,64,64] and teacher logits [N,10] of an epoch."""

    frames: Tensor
    outliers: Tensor | None = None
    teacher_logits: Tensor | None = None


def choose_images(config: Config, data: DataSet) -> tuple[LabeledImages, LabeledImages, str]:
    """Return training images, held-out images and the name of the held-out part."""
    if config.held_out == "test" and data.test is not None:
        return data.all_training, data.test, "test"
    return data.train, data.validation, "validation"


def make_run_id(config: Config, data: DataSet, start: LoadedModel | None = None) -> str:
    """Hash everything that determines the weights: training version, config, data, torch version, other models."""
    weights = [model.sha256 for model in (start, load_teacher(config.teacher)) if model]
    determinants = [TRAINING_VERSION, asdict(config), data.sha256, torch.__version__, *weights]
    return hashlib.sha256(json.dumps(determinants, sort_keys=True).encode()).hexdigest()[:12]


def make_augmented_data(config: Config, images: LabeledImages) -> AugmentedData:
    """Create the augmented data of a recipe."""
    count = config.augmentation_passes if config.augment else 0
    outliers = max(1, round(len(images) * config.outlier_ratio)) if config.outlier_ratio else 0
    ratios = config.synthetic_ratio, config.mild_ratio
    return AugmentedData(images, count, outliers, config.seed, config.threads, *ratios, config.epochs)


class Trainer:
    """Trains a model epoch by epoch; saves and loads checkpoints between epochs.

    Large because model, average, optimizer, scheduler and order are the state of one training.
    """

    def __init__(
        self,
        config: Config,
        data: DataSet,
        augmented: AugmentedData | None = None,
        start: LoadedModel | None = None,
    ) -> None:
        self.config, self.start, self.run_id = config, start, make_run_id(config, data, start)
        self.teacher = start or load_teacher(config.teacher)  # before the seed: creating its network draws numbers
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.teacher:
            self.teacher.model.to(self.device)
        self.train, self.held_out_images, self.held_out_part = choose_images(config, data)
        self.augmented = augmented or make_augmented_data(config, self.train)
        self.labels = torch.from_numpy(self.train.labels).to(self.device)
        self.model = make_network(config.model, config.dropout, config.batch_norm).to(self.device)
        if start:
            try:
                self.model.load_state_dict(start.model.state_dict())
            except RuntimeError as error:
                message = f"--from: not a {config.model} model; --model names the one to fine-tune"
                raise ConfigError(message) from error
        self.average = AveragedModel(self.model, multi_avg_fn=_make_ema_update(config.ema_decay), use_buffers=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), config.lr, fused=True)
        self.scheduler = _make_scheduler(config, self.optimizer, len(self.train))
        self.order = torch.Generator().manual_seed(config.seed)
        self.history: list[Epoch] = []

    @property
    def trained_model(self) -> nn.Module:
        """The averaged model, or the current one without averaging, with its batch norms folded."""
        model = self.average.module if self.config.ema_decay else self.model
        return fold_batch_norms(model)

    def run_epoch(self) -> Epoch:
        """Train on all training images once, evaluate the held-out images and append to the history."""
        self.model.train()
        number = len(self.history)
        data = EpochData(
            self.augmented.get_digits(number),
            self.augmented.get_outliers(number) if self.config.outlier_ratio else None,
            self.augmented.get_teacher_logits(number, self.teacher.model) if self.teacher else None,
        )
        batches = torch.randperm(len(self.train), generator=self.order).split(self.config.batch_size)
        outputs = [self.train_batch(rows, data) for rows in show_progress(batches, f"epoch {number}")]
        losses, logits, labels = (torch.cat(column) for column in zip(*outputs, strict=True))
        held_out = evaluate_model(self.trained_model, self.held_out_images)
        accuracy = compute_accuracy(logits, labels)
        self.history.append(Epoch(number, float(losses.mean()), accuracy, held_out.loss, held_out.accuracy))
        return self.history[-1]

    def train_batch(self, rows: Tensor, data: EpochData) -> tuple[Tensor, Tensor, Tensor]:
        """Train on one batch; return loss [n], logits [n,10] and labels [n] of its digits, detached."""
        frames = data.frames.index_select(0, rows)
        if data.outliers is not None:
            drawn = torch.randint(len(data.outliers), (round(len(rows) * self.config.outlier_ratio),))
            frames = torch.cat((frames, data.outliers.index_select(0, drawn)))
        labels = self.labels.index_select(0, rows.to(self.device))
        logits, outlier_logits = self.model(to_input(frames.to(self.device))).tensor_split([len(rows)])
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = losses.mean()
        if data.teacher_logits is not None:
            teacher_logits = data.teacher_logits.index_select(0, rows).to(self.device)
            is_right = teacher_logits.argmax(1, keepdim=True) == labels[:, None]
            teacher_logits = torch.where(is_right, teacher_logits, logits.detach())  # else learn from the label alone
            loss = loss.lerp(self.compute_distillation_loss(logits, teacher_logits), self.config.distillation_weight)
        if len(outlier_logits):  # cross-entropy with the uniform distribution
            loss = loss - self.config.outlier_weight * F.log_softmax(outlier_logits, 1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.config.ema_decay:
            self.average.update_parameters(self.model)
        return losses.detach(), logits.detach(), labels

    def compute_distillation_loss(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Return the distillation loss: KL divergence plus the teacher's entropy; Hinton et al., arXiv:1503.02531."""
        temperature = self.config.distillation_temperature
        return F.cross_entropy(logits / temperature, F.softmax(teacher_logits / temperature, 1)) * temperature**2

    def save_checkpoint(self, path: Path) -> None:
        """Write the state between two epochs, including random number generators."""
        state = {
            "run_id": self.run_id,
            "history": [asdict(epoch) for epoch in self.history],
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
            **{name: part.state_dict() for name, part in self._stateful_parts().items()},
        }
        write_atomic(path, to_bytes(lambda file: torch.save(state, file)))

    def load_checkpoint(self, path: Path) -> None:
        """Restore the checkpoint, if there is one; raise ResumeError if it is damaged or belongs to another run."""
        if not path.exists():
            return
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            run_id = state["run_id"]
        except Exception as error:  # torch raises many types for a damaged file
            raise ResumeError(f"{path}: not a checkpoint ({error}); remove it to train from the first epoch") from error
        if run_id != self.run_id:
            raise ResumeError(
                f"{path}: belongs to run {run_id}, not to {self.run_id}: options, data, teacher or version differ; "
                "repeat the options and data of the stopped run, or omit --resume"
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


def _make_scheduler(config: Config, optimizer: torch.optim.Optimizer, images: int) -> LRScheduler | None:
    if config.schedule == "constant":
        return None
    return OneCycleLR(optimizer, config.lr, epochs=config.epochs, steps_per_epoch=-(-images // config.batch_size))


def _make_ema_update(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an exponential moving average for AveragedModel, with a smaller decay in the first steps."""

    def update_average(averaged: Any, current: Any, steps: Any) -> None:
        get_ema_multi_avg_fn(min(decay, int(steps) / (int(steps) + EMA_WARM_UP)))(averaged, current, steps)

    return update_average


def fit(
    config: Config,
    data: DataSet,
    checkpoint: Path | None = None,
    resume: bool = False,
    report: Callable[[str], None] = print,
    start: LoadedModel | None = None,
) -> Trainer:
    """Train a model, report a line and write `checkpoint` after every epoch; return the trainer."""
    trainer = Trainer(config, data, start=start)
    report(f"epochs: {config.epochs} (--epochs), on {len(trainer.train)} images of {data.name}")
    if resume and checkpoint:
        trainer.load_checkpoint(checkpoint)
    begin, started = len(trainer.history), monotonic()
    if begin:
        report(f"resumed after {begin} of {trainer.config.epochs} epochs")
    while (done := len(trainer.history)) < trainer.config.epochs:
        line = trainer.run_epoch().format_line(trainer.held_out_part)
        left = (monotonic() - started) / (done + 1 - begin) * (trainer.config.epochs - done - 1)
        report(f"{line} | {timedelta(seconds=round(left))} left")
        if checkpoint:
            trainer.save_checkpoint(checkpoint)
    return trainer
