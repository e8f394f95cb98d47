"""The training pictures of an epoch: a few drawn in other styles, all augmented, then framed again by serving's code.

A round is one such pass over all of them. There are as many rounds as the recipe says; epochs take turns with them, and
a teacher's logits on them are computed once.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from handler.preprocessing import Grey, ImageError, frame_grey, to_input
from training.augment import augment
from training.data import Pictures
from training.outliers import outliers
from training.styles import in_other_styles

BATCH = 250  # pictures that are augmented, or shown to a teacher, at a time
OUTLIER_SEED = 1_000_000  # apart from the digits' rounds


class Rounds:
    """Rounds of the pictures, and of `outlier_count` frames uint8 [M,64,64] of no digits, made when first asked for.

    A round depends on its number and the seed alone, so a resumed run sees the same.
    """

    def __init__(self, pictures: Pictures, count: int, outlier_count: int, seed: int, device: torch.device) -> None:
        self.frames, self.labels = pictures.frames, pictures.labels
        self.count, self.outlier_count = count, outlier_count
        self.seed, self.device = seed, device
        self._digits: dict[int, Tensor] = {}
        self._outliers: dict[int, Tensor] = {}
        self._logits: dict[int, Tensor] = {}

    def digits(self, epoch: int) -> Tensor:
        """Frames uint8 [N,64,64] of the epoch's round, in the order of the given ones; the given ones if count is 0."""
        if not self.count:
            return torch.from_numpy(self.frames)
        number = epoch % self.count
        if number not in self._digits:
            seed = self.seed + number
            frames = in_other_styles(self.frames, self.labels, np.random.default_rng(seed))
            generator = torch.Generator(self.device).manual_seed(seed)
            self._digits[number] = torch.from_numpy(_changed(frames, generator, f"round {number}"))
        return self._digits[number]

    def outliers(self, epoch: int) -> Tensor:
        """Frames uint8 [outlier_count,64,64] of the epoch's round that show no digit."""
        number = epoch % max(1, self.count)
        if number not in self._outliers:
            seed = self.seed + OUTLIER_SEED + number
            drawn = outliers(self.frames, self.outlier_count, np.random.default_rng(seed))
            generator = torch.Generator(self.device).manual_seed(seed)
            self._outliers[number] = torch.from_numpy(_changed(drawn, generator, f"outliers {number}"))
        return self._outliers[number]

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


def _changed(frames: NDArray[np.uint8], generator: torch.Generator, what: str) -> NDArray[np.uint8]:
    """Augmented on the generator's device and framed anew; what framing finds blank stays as it was."""
    changed = np.empty_like(frames)
    for start in tqdm(range(0, len(frames), BATCH), what, leave=False, disable=None):
        batch = frames[start : start + BATCH]
        grey = to_input(torch.from_numpy(batch).to(generator.device))[:, :1]
        pictures = augment(grey, generator).mul(255).round().byte()[:, 0].cpu().numpy()
        changed[start : start + BATCH] = np.stack(list(_framed(pictures, batch)))
    return changed


def _framed(pictures: NDArray[np.uint8], originals: NDArray[np.uint8]) -> Iterator[Grey]:
    for picture, original in zip(pictures, originals, strict=True):
        try:
            yield frame_grey(picture)
        except ImageError:
            yield original
