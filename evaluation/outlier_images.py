"""Outlier images for evaluation, independent of those that training generates: uint8 [H,W] of many sizes."""

import gzip
from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from evaluation.corruptions import Images
from training.synthetic_outliers import LETTERS

Field = NDArray[np.float64]
Random = np.random.Generator
Shape = tuple[int, int]

FONTS: Final = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
FONT_FOLDER: Final = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONT_SIZES: Final = ((40, 66), (67, 93), (94, 120))  # pixels, both included; one size is drawn from every range
CANVAS_SCALES: Final = (1.15, 1.6)  # side of the canvas, in longer sides of the letter

IMAGE_SIDES: Final = (28, 200)  # pixels, both included
BLANK_SIDES: Final = (28, 400)  # pixels, both included
MAX_BLANK_NOISE: Final = 2.0  # gray levels; largest sigma of a blank image
NOISE_MEANS: Final = (64, 192)  # gray levels; mean of Gaussian noise
NOISE_SIGMAS: Final = (20, 80)  # gray levels; sigma of Gaussian noise
SALT_RATIOS: Final = (0.05, 0.95)  # share of white pixels in salt-and-pepper noise
MIN_PERIOD: Final = 4  # pixels; shortest period of a texture
MIN_REPEATS: Final = 3  # periods of a texture along the shorter side; fewer could resemble a digit's strokes
WOOD_KNOT_DISTANCE: Final = 40  # pixels between the knots of the noise that bends the grain
MIN_CONTRAST: Final = 60  # gray levels between a texture's darkest and brightest pixel

FASHION_MNIST: Final = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
IDX_HEADER_BYTES: Final = 16  # magic number, images, rows, columns


class MissingDatasetError(FileNotFoundError):
    """A data set is not installed; the message names its path and the package that contains it."""


def load_fashion_mnist() -> Images:
    """Return Fashion-MNIST's test images [10000,28,28]; raise MissingDatasetError if it is not installed."""
    try:
        content = gzip.decompress(FASHION_MNIST.read_bytes())
    except FileNotFoundError as error:
        raise MissingDatasetError(
            f"{FASHION_MNIST}: Fashion-MNIST is not installed; Debian's package dataset-fashion-mnist contains it"
        ) from error
    return np.frombuffer(content, np.uint8, offset=IDX_HEADER_BYTES).reshape(-1, 28, 28)


def draw_letters(random: Random) -> list[Images]:
    """Draw all LETTERS, light on dark, in all FONTS and one random size from every range of FONT_SIZES."""
    styles = [(font, int(random.integers(*sizes, endpoint=True))) for font in FONTS for sizes in FONT_SIZES]
    fonts = [ImageFont.truetype(FONT_FOLDER / f"{font}.ttf", size) for font, size in styles]
    return [_draw_letter(letter, font, random) for font in fonts for letter in LETTERS]


def _draw_letter(letter: str, font: ImageFont.FreeTypeFont, random: Random) -> Images:
    left, top, right, bottom = font.getbbox(letter)
    width, height = right - left, bottom - top
    side = round(max(width, height) * random.uniform(*CANVAS_SCALES))
    x, y = random.uniform(0, 1, 2) * (side - width, side - height)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((round(x) - left, round(y) - top), letter, 255, font)
    return np.asarray(image)


def make_blank_images(random: Random, count: int) -> list[Images]:
    """Return images of one gray level with Gaussian noise of at most MAX_BLANK_NOISE."""
    return [_make_blank_image(_sample_shape(random, BLANK_SIDES), random) for _ in range(count)]


def _make_blank_image(shape: Shape, random: Random) -> Images:
    return _round_levels(random.uniform(0, 255) + random.normal(0, random.uniform(0, MAX_BLANK_NOISE), shape))


def make_noise_images(random: Random, count: int) -> list[Images]:
    """Return images of independent pixels: uniform, Gaussian and salt-and-pepper noise in turn."""
    return [_NOISES[row % len(_NOISES)](_sample_shape(random, IMAGE_SIDES), random) for row in range(count)]


def _make_uniform_noise(shape: Shape, random: Random) -> Images:
    return random.integers(0, 256, shape, np.uint8)


def _make_gaussian_noise(shape: Shape, random: Random) -> Images:
    return _round_levels(random.normal(random.uniform(*NOISE_MEANS), random.uniform(*NOISE_SIGMAS), shape))


def _make_salt_and_pepper(shape: Shape, random: Random) -> Images:
    return np.where(random.random(shape) < random.uniform(*SALT_RATIOS), 255, 0).astype(np.uint8)


_NOISES: Final = (_make_uniform_noise, _make_gaussian_noise, _make_salt_and_pepper)


def make_textures(random: Random, count: int) -> list[Images]:
    """Return images filled by a pattern, the kinds of TEXTURES in turn, with a random contrast from MIN_CONTRAST."""
    makers = [TEXTURES[row % len(TEXTURES)] for row in range(count)]
    return [_set_contrast(make(_sample_shape(random, IMAGE_SIDES), random), random) for make in makers]


def _make_grating(shape: Shape, random: Random) -> Field:
    return np.asarray(np.sin(2 * np.pi * _rotate_coordinates(shape, random)[0] / _sample_period(shape, random)))


def _make_checkerboard(shape: Shape, random: Random) -> Field:
    rows, columns = _rotate_coordinates(shape, random) // _sample_period(shape, random)
    return np.asarray((rows + columns) % 2)


def _make_lines(shape: Shape, random: Random) -> Field:
    coordinates = _rotate_coordinates(shape, random) / _sample_period(shape, random)
    return np.asarray((coordinates % 1 < random.uniform(0.1, 0.4)).any(0).astype(np.float64))


def _make_wood(shape: Shape, random: Random) -> Field:
    grain = _rotate_coordinates(shape, random)[0] / _sample_period(shape, random)
    return np.asarray((grain + 2 * _make_smooth_noise(shape, WOOD_KNOT_DISTANCE, random)) % 1)


def _make_dots(shape: Shape, random: Random) -> Field:
    offsets = (_rotate_coordinates(shape, random) / _sample_period(shape, random)) % 1 - 0.5
    return np.asarray((np.hypot(*offsets) < random.uniform(0.15, 0.4)).astype(np.float64))


def _make_clouds(shape: Shape, random: Random) -> Field:
    return _make_smooth_noise(shape, _sample_period(shape, random), random)


TEXTURES: Final = (_make_grating, _make_checkerboard, _make_lines, _make_wood, _make_dots, _make_clouds)


def _sample_shape(random: Random, sides: tuple[int, int]) -> Shape:
    height, width = random.integers(*sides, 2, endpoint=True).tolist()
    return height, width


def _sample_period(shape: Shape, random: Random) -> float:
    return random.uniform(MIN_PERIOD, min(shape) / MIN_REPEATS)


def _rotate_coordinates(shape: Shape, random: Random) -> Field:
    """Return the pixels' coordinates [2,H,W] along two axes that are rotated by a random angle."""
    angle = random.uniform(0, np.pi)
    rotation = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    return np.asarray(np.tensordot(rotation, np.indices(shape), 1))


def _make_smooth_noise(shape: Shape, period: float, random: Random) -> Field:
    """Return smooth noise [H,W], of sigma 1 at its knots, which are `period` pixels apart."""
    height, width = shape
    knots = random.standard_normal((int(height / period) + 2, int(width / period) + 2))
    return np.asarray(cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC), np.float64)


def _set_contrast(field: Field, random: Random) -> Images:
    """Scale the field to the range between two random gray levels at least MIN_CONTRAST apart."""
    dark = random.uniform(0, 255 - MIN_CONTRAST)
    bright = random.uniform(dark + MIN_CONTRAST, 255)
    return _round_levels(dark + (bright - dark) * (field - field.min()) / max(np.ptp(field), 1e-9))


def _round_levels(field: Field) -> Images:
    return np.clip(np.rint(field), 0, 255).astype(np.uint8)
