"""Pictures that are no digits, as grey uint8 [H,W] of many sizes."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.synthetic_outliers import LETTERS

Picture = NDArray[np.uint8]
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
FONT_SIZES: Final = ((40, 66), (67, 93), (94, 120))  # pixels, both included: one is drawn from each
CANVASES: Final = (1.15, 1.6)  # the canvas's side, of the letter's longer one

SIDES: Final = (28, 200)  # pixels, both included
BLANK_SIDES: Final = (28, 400)
BLANK_NOISE: Final = 2.0  # grey levels, the largest sigma
NOISE_LEVELS: Final = (64, 192)  # grey levels, Gaussian noise's mean
NOISE_SIGMAS: Final = (20, 80)  # grey levels
SALT: Final = (0.05, 0.95)  # share of the pixels
SHORTEST_PERIOD: Final = 4  # pixels, of a texture
REPEATS: Final = 3  # at least, of a texture along the shorter side: fewer could be a digit's strokes
WOOD_KNOTS: Final = 40  # pixels between them
LEAST_CONTRAST: Final = 60  # grey levels between a texture's darkest and brightest

FASHION: Final = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
FASHION_HEADER: Final = 16  # bytes: magic number, pictures, rows, columns


class MissingData(FileNotFoundError):  # noqa: N818 - what is missing, in a sentence
    """Data that is not on this machine; the message names the path and what carries it."""


def fashion() -> Picture:
    """Fashion-MNIST's test pictures [10000,28,28]; raises MissingData."""
    try:
        content = gzip.decompress(FASHION.read_bytes())
    except FileNotFoundError as error:
        raise MissingData(
            f"{FASHION}: Fashion-MNIST is not installed; Debian's package dataset-fashion-mnist carries it"
        ) from error
    return np.frombuffer(content, np.uint8, offset=FASHION_HEADER).reshape(-1, 28, 28)


def letters(random: Random) -> list[Picture]:
    """Every letter of LETTERS in every font of FONTS and a size from each of FONT_SIZES, light on dark."""
    fonts = [
        ImageFont.truetype(FONT_FOLDER / f"{font}.ttf", int(random.integers(*sizes, endpoint=True)))
        for font in FONTS
        for sizes in FONT_SIZES
    ]
    return [_letter(letter, font, random) for font in fonts for letter in LETTERS]


def _letter(letter: str, font: ImageFont.FreeTypeFont, random: Random) -> Picture:
    left, top, right, bottom = font.getbbox(letter)
    width, height = right - left, bottom - top
    side = round(max(width, height) * random.uniform(*CANVASES))
    x, y = random.uniform(0, 1, 2) * (side - width, side - height)
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((round(x) - left, round(y) - top), letter, 255, font)
    return np.asarray(image)


def blank(random: Random, count: int) -> list[Picture]:
    """Sheets of one level with at most BLANK_NOISE on it."""
    return [_blank(_shape(random, BLANK_SIDES), random) for _ in range(count)]


def _blank(shape: Shape, random: Random) -> Picture:
    return _levels(random.uniform(0, 255) + random.normal(0, random.uniform(0, BLANK_NOISE), shape))


def noise(random: Random, count: int) -> list[Picture]:
    """Pixels that do not depend on each other: uniform, Gaussian, black and white by turns."""
    return [_NOISES[row % len(_NOISES)](_shape(random, SIDES), random) for row in range(count)]


def _uniform_noise(shape: Shape, random: Random) -> Picture:
    return random.integers(0, 256, shape, np.uint8)


def _gaussian_noise(shape: Shape, random: Random) -> Picture:
    return _levels(random.normal(random.uniform(*NOISE_LEVELS), random.uniform(*NOISE_SIGMAS), shape))


def _salt_and_pepper(shape: Shape, random: Random) -> Picture:
    return np.where(random.random(shape) < random.uniform(*SALT), 255, 0).astype(np.uint8)


_NOISES: Final = (_uniform_noise, _gaussian_noise, _salt_and_pepper)


def texture(random: Random, count: int) -> list[Picture]:
    """Patterns that fill the picture: each kind of TEXTURES by turns, of any contrast from LEAST_CONTRAST."""
    kinds = list(TEXTURES.values())
    return [_contrasted(kinds[row % len(kinds)](_shape(random, SIDES), random), random) for row in range(count)]


def _grating(shape: Shape, random: Random) -> Field:
    return np.asarray(np.sin(2 * np.pi * _turned(shape, random)[0] / _period(shape, random)))


def _checkerboard(shape: Shape, random: Random) -> Field:
    rows, columns = _turned(shape, random) // _period(shape, random)
    return np.asarray((rows + columns) % 2)


def _lines(shape: Shape, random: Random) -> Field:
    places = _turned(shape, random) / _period(shape, random)
    return np.asarray((places % 1 < random.uniform(0.1, 0.4)).any(0).astype(np.float64))


def _wood(shape: Shape, random: Random) -> Field:
    """Rings cut lengthwise: a grating bent by a smooth field."""
    bent = _turned(shape, random)[0] / _period(shape, random) + 2 * _cloud(shape, WOOD_KNOTS, random)
    return np.asarray(bent % 1)


def _dots(shape: Shape, random: Random) -> Field:
    away = (_turned(shape, random) / _period(shape, random)) % 1 - 0.5
    return np.asarray((np.hypot(*away) < random.uniform(0.15, 0.4)).astype(np.float64))


def _clouds(shape: Shape, random: Random) -> Field:
    return _cloud(shape, _period(shape, random), random)


TEXTURES: Final[dict[str, Callable[[Shape, Random], Field]]] = {
    "grating": _grating,
    "checkerboard": _checkerboard,
    "lines": _lines,
    "wood": _wood,
    "dots": _dots,
    "clouds": _clouds,
}


def _shape(random: Random, sides: tuple[int, int]) -> Shape:
    height, width = random.integers(*sides, 2, endpoint=True).tolist()
    return height, width


def _period(shape: Shape, random: Random) -> float:
    return random.uniform(SHORTEST_PERIOD, min(shape) / REPEATS)


def _turned(shape: Shape, random: Random) -> Field:
    """Every pixel's place [2,H,W] along two axes at right angles, in pixels."""
    angle = random.uniform(0, np.pi)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    return np.asarray(np.tensordot(turn, np.indices(shape), 1))


def _cloud(shape: Shape, period: float, random: Random) -> Field:
    """Smooth noise [H,W] with a knot every `period` pixels, of sigma 1 there."""
    height, width = shape
    knots = random.standard_normal((int(height / period) + 2, int(width / period) + 2))
    return np.asarray(cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC), np.float64)


def _contrasted(field: Field, random: Random) -> Picture:
    """The field between two levels at least LEAST_CONTRAST apart."""
    dark = random.uniform(0, 255 - LEAST_CONTRAST)
    bright = random.uniform(dark + LEAST_CONTRAST, 255)
    return _levels(dark + (bright - dark) * (field - field.min()) / max(np.ptp(field), 1e-9))


def _levels(field: Field) -> Picture:
    return np.clip(np.rint(field), 0, 255).astype(np.uint8)
