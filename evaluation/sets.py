"""Named sets of encoded pictures, with labels where they are digits; the seed and the name fix every byte of a set."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from common.command_line import show_progress
from evaluation.corruptions import CHANGES
from evaluation.outlier_sets import blank, fashion, letters, noise, texture
from evaluation.synthetic_photos import make_photo

Picture = NDArray[np.uint8]
Labels = NDArray[np.int64]

CLEAN: Final = "clean"
PHOTO_LIKE: Final = "photo-like"
SCIKIT_LEARN_WHITE: Final = 16  # the brightest level of its 8x8 pictures


@dataclass(frozen=True)
class Sample:
    """Pictures as files and their labels int64 [N]; labels are None where the pictures are no digits."""

    name: str
    pictures: list[bytes]
    labels: Labels | None


def encode_png(grey: Picture) -> bytes:
    """The grey picture uint8 [H,W] as a PNG, packed for speed."""
    file = BytesIO()
    Image.fromarray(grey).save(file, "PNG", compress_level=1)
    return file.getvalue()


def digit_sets(greys: Picture, labels: Labels, random_seed: int, photos: int) -> Iterator[Sample]:
    """The digits uint8 [N,28,28] as they are, under each of CHANGES, and `photos` of them as photos."""
    yield Sample(CLEAN, _pngs(CLEAN, greys), labels)
    for name, change in CHANGES.items():
        yield Sample(name, _pngs(name, change(greys, _generator(random_seed, name))), labels)
    yield _photos(greys, labels, _generator(random_seed, PHOTO_LIKE), photos)


def scikit_learn_digits() -> Sample:
    """scikit-learn's 1,797 digits of 8x8 pixels: other people, other paper, another scanner."""
    digits = load_digits()
    greys = np.rint(digits.images * 255 / SCIKIT_LEARN_WHITE).astype(np.uint8)
    return Sample("scikit-learn digits", [encode_png(grey) for grey in greys], digits.target.astype(np.int64))


def fashion_set() -> Sample:
    """Fashion-MNIST's 10,000 test pictures; raises MissingData."""
    return Sample("Fashion-MNIST", _pngs("Fashion-MNIST", fashion()), None)


def outlier_sets(seed: int, count: int) -> Iterator[Sample]:
    """Fashion-MNIST aside: all letters, then `count` pictures each that are blank, noise and texture."""
    yield Sample("letters", _pngs("letters", letters(_generator(seed, "letters"))), None)
    kinds: dict[str, Callable[[np.random.Generator, int], list[Picture]]]
    kinds = {"blank": blank, "noise": noise, "texture": texture}
    for name, kind in kinds.items():
        yield Sample(name, _pngs(name, kind(_generator(seed, name), count)), None)


def _photos(greys: Picture, labels: Labels, random: np.random.Generator, count: int) -> Sample:
    rows = random.permutation(len(greys))[:count]
    pictures = [make_photo(greys[row], random) for row in show_progress(rows, PHOTO_LIKE)]
    return Sample(PHOTO_LIKE, pictures, labels[rows])


def _pngs(name: str, greys: Iterable[Picture]) -> list[bytes]:
    return [encode_png(grey) for grey in show_progress(greys, name)]


def _generator(seed: int, name: str) -> np.random.Generator:
    """Each set's own, so that no set depends on what was drawn for another."""
    return np.random.default_rng([seed, *name.encode()])
