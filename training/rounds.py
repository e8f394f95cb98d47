"""The training pictures of an epoch: a few drawn in other styles, all augmented, then framed again by serving's code.

A round is one such pass over all of them. There are as many rounds as the recipe says; epochs take turns with them, and
a teacher's logits on them are computed once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from handler.preprocessing import Grey, ImageError, frame_grey, to_input
from training.augment import augment
from training.data import Pictures
from training.outliers import outliers
from training.styles import in_other_styles

BATCH = 250  # pictures that are shown to a teacher at a time
TASK = 75  # pictures that one process changes at a time: few enough for its caches
IDLE_SECONDS = 60  # until a process without a task ends, as one does whose run was killed
DIGITS, OUTLIERS, ROWS = 0, 1, 2  # first number of a seed: what it is for

Frames = NDArray[np.uint8]  # [n,64,64]


class Rounds:
    """Rounds of the pictures, and of `outlier_count` frames uint8 [M,64,64] of no digits, made when first asked for.

    A round depends on its number and the seed alone, so a resumed run sees the same. `processes` make it; teachers
    answer on `device`.
    """

    def __init__(
        self, pictures: Pictures, count: int, outlier_count: int, seed: int, device: torch.device, processes: int = 1
    ) -> None:
        self.frames, self.labels = pictures.frames, pictures.labels
        self.count, self.outlier_count = count, outlier_count
        self.seed, self.device, self.processes = seed, device, processes
        self._digits: dict[int, Tensor] = {}
        self._outliers: dict[int, Tensor] = {}
        self._logits: dict[int, Tensor] = {}

    def digits(self, epoch: int) -> Tensor:
        """Frames uint8 [N,64,64] of the epoch's round, in the order of the given ones; the given ones if count is 0."""
        if not self.count:
            return torch.from_numpy(self.frames)
        number = epoch % self.count
        if number not in self._digits:
            tasks = [
                delayed(_digits)(frames, labels, (DIGITS, self.seed, number, task))
                for task, (frames, labels) in enumerate(zip(_split(self.frames), _split(self.labels), strict=True))
            ]
            self._digits[number] = self._made(tasks, f"round {number}")
        return self._digits[number]

    def outliers(self, epoch: int) -> Tensor:
        """Frames uint8 [outlier_count,64,64] of the epoch's round that show no digit."""
        number = epoch % max(1, self.count)
        if number not in self._outliers:
            random = np.random.default_rng((ROWS, self.seed, number))
            tasks = [
                delayed(_no_digits)(self.frames[rows], (OUTLIERS, self.seed, number, task))
                for task, rows in enumerate(_split(random.integers(len(self.frames), size=self.outlier_count)))
            ]
            self._outliers[number] = self._made(tasks, f"outliers {number}")
        return self._outliers[number]

    def _made(self, tasks: list[tuple[Callable[..., Frames], object, object]], what: str) -> Tensor:
        """What the tasks return, in their order, as one tensor."""
        with parallel_config("loky", inner_max_num_threads=1, idle_worker_timeout=IDLE_SECONDS):
            made = Parallel(min(self.processes, len(tasks)), return_as="generator")(tasks)
        return torch.from_numpy(np.concatenate(list(tqdm(made, what, len(tasks), leave=False, disable=None))))

    def logits(self, epoch: int, teacher: nn.Module) -> Tensor:
        """The teacher's logits float32 [N,10] on the epoch's round."""
        number = epoch % max(1, self.count)
        if number not in self._logits:
            self._logits[number] = logits_of(teacher, self.digits(epoch), self.device)
        return self._logits[number]


def logits_of(model: nn.Module, frames: Tensor, device: torch.device) -> Tensor:
    """The model's logits float32 [N,10] on frames uint8 [N,64,64], in evaluation mode; its own mode is put back."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(to_input(batch).to(device)).cpu() for batch in frames.split(BATCH)])
    model.train(training)
    return logits.clone()  # a plain tensor, which may take part in training


def _split(array: NDArray[Any]) -> list[NDArray[Any]]:
    return np.split(array, range(TASK, len(array), TASK))


def _digits(frames: Frames, labels: NDArray[np.int64], seed: tuple[int, ...]) -> Frames:
    random = np.random.default_rng(seed)
    return _changed(in_other_styles(frames, labels, random), random)


def _no_digits(frames: Frames, seed: tuple[int, ...]) -> Frames:
    """As many as there are digits given, of which some are made."""
    random = np.random.default_rng(seed)
    return _changed(outliers(frames, len(frames), random), random)


def _changed(frames: Frames, random: np.random.Generator) -> Frames:
    """Augmented and framed anew; what framing finds blank stays as it was."""
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    pictures = augment(to_input(frames)[:, :1], generator).mul(255).round().byte()[:, 0].numpy()
    return np.stack(list(_framed(pictures, frames)))


def _framed(pictures: Frames, originals: Frames) -> Iterator[Grey]:
    for picture, original in zip(pictures, originals, strict=True):
        try:
            yield frame_grey(picture)
        except ImageError:
            yield original
