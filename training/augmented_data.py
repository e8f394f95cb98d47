"""Augmented training data: frames, outliers and teacher logits per epoch, computed in parallel and cached.

A pass is one augmented copy of the training set, framed as in serving; epochs cycle through the passes.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from torch import Tensor, nn

from common.command_line import show_progress
from handler.preprocessing import ImageError, frame_gray, to_input
from training.augment import augment_images
from training.data import LabeledImages
from training.synthetic_digits import replace_some_digits
from training.synthetic_outliers import make_outliers

INFERENCE_BATCH = 250  # frames in one model call
TASK_FRAMES = 75  # frames in one task of a process; they fit its CPU caches
MAX_KEPT_PASSES = 12  # 2.7 GB for MNIST; with more, repeated passes are made again
IDLE_SECONDS = 60  # seconds after which a process without a task ends; this also cleans up after a killed parent
DIGITS, OUTLIERS, ROWS = 0, 1, 2  # purpose of a random generator: first number of its seed

Frames = NDArray[np.uint8]  # [n,64,64]


class AugmentedData:
    """Creates passes of the images and of `outlier_count` outliers in parallel; number and seed determine a pass.

    In a pass, the share `synthetic_ratio` of the images is replaced by synthetic digits, and the share `mild_ratio` is
    only distorted, mildly. All passes stay in memory if they are at most MAX_KEPT_PASSES and fewer than `epochs`;
    otherwise only the present one.
    """

    def __init__(
        self,
        images: LabeledImages,
        passes: int,
        outlier_count: int,
        seed: int,
        processes: int = 1,
        synthetic_ratio: float = 0.0,
        mild_ratio: float = 0.0,
        epochs: int | None = None,
    ) -> None:
        self.frames, self.labels = images.frames, images.labels
        self.passes, self.outlier_count = passes, outlier_count
        self.synthetic_ratio, self.mild_ratio = synthetic_ratio, mild_ratio
        self.seed, self.processes = seed, processes
        self.keeps_passes = passes <= MAX_KEPT_PASSES and (epochs is None or epochs > passes)
        self._cache: dict[tuple[str, int], Tensor] = {}

    def get_digits(self, epoch: int) -> Tensor:
        """Return the epoch's frames uint8 [N,64,64] in the order of the images; unaugmented if passes is 0."""
        if not self.passes:
            return torch.from_numpy(self.frames)
        return self._get_pass("digits", epoch, self._make_digits)

    def get_outliers(self, epoch: int) -> Tensor:
        """Return the epoch's outliers uint8 [outlier_count,64,64]."""
        return self._get_pass("outliers", epoch, self._make_outliers)

    def get_teacher_logits(self, epoch: int, teacher: nn.Module) -> Tensor:
        """Return the teacher's logits float32 [N,10] for the epoch's digits."""
        return self._get_pass("logits", epoch, lambda _: compute_logits(teacher, self.get_digits(epoch)))

    def _get_pass(self, kind: str, epoch: int, make: Callable[[int], Tensor]) -> Tensor:
        number = epoch % max(1, self.passes)
        if not self.keeps_passes:
            self._cache = {key: made for key, made in self._cache.items() if key[1] == number}
        if (kind, number) not in self._cache:
            self._cache[kind, number] = make(number)
        return self._cache[kind, number]

    def _make_digits(self, number: int) -> Tensor:
        augment = partial(_augment_digits, self.synthetic_ratio, self.mild_ratio)
        return self._run_tasks(augment, (DIGITS, self.seed, number), self.frames, self.labels)

    def _make_outliers(self, number: int) -> Tensor:
        rows = np.random.default_rng((ROWS, self.seed, number)).integers(len(self.frames), size=self.outlier_count)
        return self._run_tasks(_augment_outliers, (OUTLIERS, self.seed, number), self.frames[rows])

    def _run_tasks(self, function: Callable[..., Frames], seed: tuple[int, ...], *arrays: NDArray[Any]) -> Tensor:
        """Call the function on TASK_FRAMES rows of the arrays at a time, with different seeds; return all frames."""
        parts = zip(*(np.split(array, range(TASK_FRAMES, len(array), TASK_FRAMES)) for array in arrays), strict=True)
        tasks = [delayed(function)(*part, (*seed, number)) for number, part in enumerate(parts)]
        with parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=IDLE_SECONDS):
            results = Parallel(min(self.processes, len(tasks)), return_as="generator")(tasks)
        return torch.from_numpy(np.concatenate(list(show_progress(results, "augmenting", len(tasks)))))


def compute_logits(model: nn.Module, frames: Tensor) -> Tensor:
    """Return the model's logits float32 [N,10] for frames uint8 [N,64,64], in evaluation mode; restore its mode."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(to_input(batch).to(device)).cpu() for batch in frames.split(INFERENCE_BATCH)])
    model.train(training)
    return logits.clone()  # not an inference tensor: autograd can use it


def _augment_digits(
    synthetic_ratio: float, mild_ratio: float, frames: Frames, labels: NDArray[np.int64], seed: tuple[int, ...]
) -> Frames:
    random = np.random.default_rng(seed)
    return _augment_frames(replace_some_digits(frames, labels, synthetic_ratio, random), random, mild_ratio)


def _augment_outliers(frames: Frames, seed: tuple[int, ...]) -> Frames:
    """Return as many outliers as there are frames of digits; some outliers are made from the digits."""
    random = np.random.default_rng(seed)
    return _augment_frames(make_outliers(frames, len(frames), random), random)


def _augment_frames(frames: Frames, random: np.random.Generator, mild_ratio: float = 0.0) -> Frames:
    """Augment and frame; a frame that becomes blank stays unaugmented."""
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    grays = augment_images(to_input(frames)[:, :1], generator, mild_ratio).mul(255).round().byte()[:, 0].numpy()
    framed = frames.copy()
    for row, gray in enumerate(grays):
        with suppress(ImageError):
            framed[row] = frame_gray(gray)
    return framed
