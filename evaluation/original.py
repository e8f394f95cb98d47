"""The original notebook's way, to compare with: its recipe, and torchvision's plain resize without any framing.

`evaluation/original.pt` holds its weights; `python -m evaluation original` trains them again.
"""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from handler.preprocessing import SIZE
from training.data import Pictures, load_data, raw_pictures
from training.model import DigitCNN, load_model
from training.recipe import configure
from training.torchvision_import import torchvision
from training.train import fit

WEIGHTS = Path(__file__).with_name("original.pt")
BATCH = 250  # pictures at a time

_T = torchvision.transforms
_PREPARE = _T.Compose([_T.Resize((SIZE, SIZE)), _T.Grayscale(3), _T.ToTensor()])


def plain(picture: bytes) -> torch.Tensor:
    """The picture as float32 [3,64,64] in 0..1, resized without regard for aspect, polarity or place."""
    prepared: torch.Tensor = _PREPARE(Image.open(BytesIO(picture)).convert("RGB"))
    return prepared


def answers(pictures: list[bytes], name: str) -> NDArray[np.float64]:
    """Probabilities [N,10] of the original's network."""
    model = load_model(WEIGHTS)
    with torch.inference_mode():
        starts = tqdm(range(0, len(pictures), BATCH), f"{name}, original", leave=False, disable=None)
        batches = ([plain(picture) for picture in pictures[start : start + BATCH]] for start in starts)
        logits = [model(torch.stack(batch)) for batch in batches]
    return np.asarray(torch.cat(logits).double().softmax(1).numpy())


def train(source: str) -> DigitCNN:
    """Trains by the original recipe on plainly resized pictures of `source`, see `load_data`; raises DataError."""
    parts = [_plain(*raw_pictures(source, part)) for part in ("training", "test")]
    data = replace(load_data(source), all_training=parts[0], test=parts[1])
    model = fit(configure("original"), data).best
    assert isinstance(model, DigitCNN)
    return model


def _plain(greys: NDArray[np.uint8], labels: NDArray[np.int64]) -> Pictures:
    sides = np.full(len(labels), max(greys.shape[1:]))
    return Pictures(_resized(greys), labels, np.zeros(len(labels), np.bool_), sides)


def _resized(greys: NDArray[np.uint8]) -> NDArray[np.uint8]:
    resize = torchvision.transforms.Resize((SIZE, SIZE))
    return np.stack([np.asarray(resize(Image.fromarray(grey))) for grey in greys])
