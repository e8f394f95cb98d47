"""The augmented training data of an epoch.

A round is one augmented copy of the training pictures: a few are drawn in other styles, all are augmented and then
framed by serving's own code. A recipe says how many rounds there are; epochs take turns with them.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import show_progress
from handler.preprocessing import ImageError, frame_gray, to_input
from training.augment import augment
from training.data import LabeledImages
from training.synthetic_digits import replace_some_digits
from training.synthetic_outliers import make_outliers

BATCH = 250  # frames that a model classifies at a time
TASK = 75  # frames that one process augments at a time: few enough for its caches
IDLE_SECONDS = 60  # until a process without a task ends, as one does whose parent was killed
DIGITS, OUTLIERS, ROWS = 0, 1, 2  # first number of a seed: what it is for

Frames = NDArray[np.uint8]  # [n,64,64]


class AugmentedData:
    """Rounds of the pictures and of `outlier_count` outliers, each made when it is first needed.

    A round depends on its number and the seed alone, so a resumed training sees the same ones. `processes` make it.
    """

    def __init__(self, pictures: LabeledImages, count: int, outlier_count: int, seed: int, processes: int = 1) -> None:
        self.frames, self.labels = pictures.frames, pictures.labels
        self.count, self.outlier_count = count, outlier_count
        self.seed, self.processes = seed, processes
        self._rounds: dict[tuple[str, int], Tensor] = {}

    def digits(self, epoch: int) -> Tensor:
        """Return the epoch's frames uint8 [N,64,64] in the order of the pictures; the pictures' own if count is 0."""
        if not self.count:
            return torch.from_numpy(self.frames)
        return self._get_round("digits", epoch, self._make_digits)

    def outliers(self, epoch: int) -> Tensor:
        """Return the epoch's outliers uint8 [outlier_count,64,64]."""
        return self._get_round("outliers", epoch, self._make_outliers)

    def logits(self, epoch: int, teacher: nn.Module) -> Tensor:
        """Return the teacher's logits float32 [N,10] for the epoch's digits."""
        return self._get_round("logits", epoch, lambda _: compute_logits(teacher, self.digits(epoch)))

    def _get_round(self, kind: str, epoch: int, make: Callable[[int], Tensor]) -> Tensor:
        number = epoch % max(1, self.count)
        if (kind, number) not in self._rounds:
            self._rounds[kind, number] = make(number)
        return self._rounds[kind, number]

    def _make_digits(self, number: int) -> Tensor:
        return self._run_tasks(_augment_digits, (DIGITS, self.seed, number), self.frames, self.labels)

    def _make_outliers(self, number: int) -> Tensor:
        rows = np.random.default_rng((ROWS, self.seed, number)).integers(len(self.frames), size=self.outlier_count)
        return self._run_tasks(_augment_outliers, (OUTLIERS, self.seed, number), self.frames[rows])

    def _run_tasks(self, function: Callable[..., Frames], seed: tuple[int, ...], *arrays: NDArray[Any]) -> Tensor:
        """Return the function's frames for all rows of the arrays, TASK rows a call, each call with its own seed."""
        parts = zip(*(np.split(array, range(TASK, len(array), TASK)) for array in arrays), strict=True)
        tasks = [delayed(function)(*part, (*seed, number)) for number, part in enumerate(parts)]
        with parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=IDLE_SECONDS):
            results = Parallel(min(self.processes, len(tasks)), return_as="generator")(tasks)
        return torch.from_numpy(np.concatenate(list(show_progress(results, "augmenting", len(tasks)))))


def compute_logits(model: nn.Module, frames: Tensor) -> Tensor:
    """Return the model's logits float32 [N,10] for frames uint8 [N,64,64], in evaluation mode; restore its mode."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(to_input(batch).to(device)).cpu() for batch in frames.split(BATCH)])
    model.train(training)
    return logits.clone()  # a plain tensor, which may take part in training


def _augment_digits(frames: Frames, labels: NDArray[np.int64], seed: tuple[int, ...]) -> Frames:
    random = np.random.default_rng(seed)
    return _augment(replace_some_digits(frames, labels, random), random)


def _augment_outliers(frames: Frames, seed: tuple[int, ...]) -> Frames:
    """Return as many outliers as there are frames of digits, of which some outliers are made."""
    random = np.random.default_rng(seed)
    return _augment(make_outliers(frames, len(frames), random), random)


def _augment(frames: Frames, random: np.random.Generator) -> Frames:
    """Augment and frame; a frame that comes out blank stays as it was."""
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    pictures = augment(to_input(frames)[:, :1], generator).mul(255).round().byte()[:, 0].numpy()
    framed = frames.copy()
    for row, picture in enumerate(pictures):
        with suppress(ImageError):
            framed[row] = frame_gray(picture)
    return framed
