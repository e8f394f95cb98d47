"""Named sets of encoded images, with labels if they show digits; seed and name determine every byte of a set."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from common.command_line import show_progress
from evaluation import outlier_images
from evaluation.corruptions import CORRUPTIONS, Images
from evaluation.synthetic_photos import make_photo

Labels = NDArray[np.int64]

CLEAN: Final = "clean"
PHOTO_LIKE: Final = "photo-like"
SCIKIT_LEARN_WHITE: Final = 16  # maximum value of scikit-learn's 8x8 images


@dataclass(frozen=True)
class ImageSet:
    """Encoded images and their labels int64 [N]; labels are None if the images show no digits."""

    name: str
    images: list[bytes]
    labels: Labels | None


def encode_png(gray: Images) -> bytes:
    """Encode a grayscale image uint8 [H,W] as PNG, with fast compression."""
    file = BytesIO()
    Image.fromarray(gray).save(file, "PNG", compress_level=1)
    return file.getvalue()


def make_digit_sets(images: Images, labels: Labels, seed: int, photos: int) -> Iterator[ImageSet]:
    """Yield the digits uint8 [N,28,28] unchanged, under every corruption, and `photos` of them as synthetic photos."""
    yield ImageSet(CLEAN, _encode_pngs(CLEAN, images), labels)
    for name, corrupt in CORRUPTIONS.items():
        yield ImageSet(name, _encode_pngs(name, corrupt(images, _make_generator(seed, name))), labels)
    yield _make_photo_set(images, labels, _make_generator(seed, PHOTO_LIKE), photos)


def load_scikit_learn_digits() -> ImageSet:
    """Load scikit-learn's 1,797 digits of 8x8 pixels: other writers, another scanner."""
    digits = load_digits()
    images = np.rint(digits.images * 255 / SCIKIT_LEARN_WHITE).astype(np.uint8)
    return ImageSet("scikit-learn digits", [encode_png(image) for image in images], digits.target.astype(np.int64))


def load_fashion_mnist_set() -> ImageSet:
    """Load Fashion-MNIST's 10,000 test images; raise MissingDatasetError if it is not installed."""
    return ImageSet("Fashion-MNIST", _encode_pngs("Fashion-MNIST", outlier_images.load_fashion_mnist()), None)


def make_outlier_sets(seed: int, count: int) -> Iterator[ImageSet]:
    """Yield the generated outliers: all letters, then `count` blank images, as many of noise and of textures."""
    yield ImageSet(
        "letters", _encode_pngs("letters", outlier_images.draw_letters(_make_generator(seed, "letters"))), None
    )
    makers: dict[str, Callable[[np.random.Generator, int], list[Images]]]
    makers = {
        "blank": outlier_images.make_blank_images,
        "noise": outlier_images.make_noise_images,
        "texture": outlier_images.make_textures,
    }
    for name, make_images in makers.items():
        yield ImageSet(name, _encode_pngs(name, make_images(_make_generator(seed, name), count)), None)


def _make_photo_set(images: Images, labels: Labels, random: np.random.Generator, count: int) -> ImageSet:
    rows = random.permutation(len(images))[:count]
    photos = [make_photo(images[row], random) for row in show_progress(rows, PHOTO_LIKE)]
    return ImageSet(PHOTO_LIKE, photos, labels[rows])


def _encode_pngs(name: str, images: Iterable[Images]) -> list[bytes]:
    return [encode_png(image) for image in show_progress(images, name)]


def _make_generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator for one set, so that no set depends on the random numbers of another."""
    return np.random.default_rng([seed, *name.encode()])
