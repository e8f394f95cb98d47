"""Named sets of encoded images, with labels if they show digits; seed and name determine every byte of a set."""

from collections.abc import Iterable, Iterator
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
    yield _encode_set(CLEAN, images, labels)
    for name, corrupt in CORRUPTIONS.items():
        yield _encode_set(name, corrupt(images, _make_generator(seed, name)), labels)
    random = _make_generator(seed, PHOTO_LIKE)
    rows = random.permutation(len(images))[:photos]
    encoded = [make_photo(images[row], random) for row in show_progress(rows, PHOTO_LIKE)]
    yield ImageSet(PHOTO_LIKE, encoded, labels[rows])


def load_scikit_learn_digits() -> ImageSet:
    """Load scikit-learn's 1,797 digits of 8x8 pixels: other writers, another scanner."""
    digits = load_digits()
    images = np.rint(digits.images * 255 / SCIKIT_LEARN_WHITE).astype(np.uint8)
    return _encode_set("scikit-learn digits", images, digits.target.astype(np.int64))


def load_fashion_mnist_set() -> ImageSet:
    """Load Fashion-MNIST's 10,000 test images; raise MissingDatasetError if it is not installed."""
    return _encode_set("Fashion-MNIST", outlier_images.load_fashion_mnist())


def make_outlier_sets(seed: int, count: int) -> Iterator[ImageSet]:
    """Yield the generated outliers: all letters, then `count` blank images, as many of noise and of textures."""
    yield _encode_set("letters", outlier_images.draw_letters(_make_generator(seed, "letters")))
    yield _encode_set("blank", outlier_images.make_blank_images(_make_generator(seed, "blank"), count))
    yield _encode_set("noise", outlier_images.make_noise_images(_make_generator(seed, "noise"), count))
    yield _encode_set("texture", outlier_images.make_textures(_make_generator(seed, "texture"), count))


def _encode_set(name: str, images: Iterable[Images], labels: Labels | None = None) -> ImageSet:
    return ImageSet(name, [encode_png(image) for image in show_progress(images, name)], labels)


def _make_generator(seed: int, name: str) -> np.random.Generator:
    """Return a generator for one set, so that no set depends on the random numbers of another."""
    return np.random.default_rng([seed, *name.encode()])
