"""A photo-like picture of a digit: pen on paper under uneven light, as a JPEG.

Digit -> stroke -> paper, light and shadow -> camera. The digit is a real one; all else is drawn from the generator.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Random = np.random.Generator

SHORTER_SIDES: Final = (400, 1600)  # pixels
ASPECTS: Final = (1.0, 4 / 3)
DIGIT_SIZES: Final = (0.15, 0.70)  # of the shorter side, the digit's longer one
BORDER: Final = 0.02  # of the shorter side, between the digit and the picture's edge
CORNER_SHIFT: Final = 0.08  # of each side, the most that perspective moves a corner by

MARGIN: Final = 1  # pixels of the 28x28 picture around the ink, so that the stroke's edge is whole
FINER: Final = 8  # times the resolution of the 28x28 picture, for its smoothing
SMOOTHING: Final = 0.5  # pixels of the 28x28 picture, sigma: a pen does not follow its grid
STROKE_LEVELS: Final = (0.38, 0.50)  # of the digit's brightest, where the stroke ends; higher breaks thin strokes
EDGE_WIDTHS: Final = (1.5, 4.0)  # pixels of the photo, from ink to paper
MNIST_EDGE: Final = 2.2  # pixels of the 28x28 picture, from ink to paper once smoothed

# Reflectances (red, green, blue): the paper's of the light, the ink's of the paper.
PAPERS: Final = ((0.96, 0.96, 0.95), (0.95, 0.92, 0.83), (0.88, 0.88, 0.87), (0.92, 0.95, 0.97), (0.80, 0.79, 0.76))
INKS: Final = ((0.08, 0.08, 0.09), (0.10, 0.15, 0.45), (0.42, 0.07, 0.10), (0.36, 0.36, 0.37))
INK_SPREAD: Final = (0.65, 1.0)  # factor on an ink's reflectance
INK_GAPS: Final = 0.12  # the most of the paper that shows through uneven ink

DARKEST: Final = (0.45, 0.85)  # of the brightest light
SHADOW_CHANCE: Final = 0.75
SHADOWS: Final = (0.50, 0.85)  # of the light outside
SHADOW_EDGES: Final = (0.006, 0.06)  # of the shorter side
EXPOSURES: Final = (0.85, 1.10)  # of full scale, a white paper's in the brightest light
LAMPS: Final = ((1.0, 0.93, 0.80), (0.90, 0.96, 1.0))  # the warmest and the coolest, red, green, blue
TEXTURE_PERIODS: Final = (4, 16, 64)  # pixels
TEXTURES: Final = (0.003, 0.015)  # of the paper's reflectance, each period's sigma
GRAINS: Final = (0.004, 0.020)  # of the paper's reflectance, the fibres' sigma

DEFOCUS_CHANCE: Final = 0.35
DEFOCUS: Final = (0.0005, 0.002)  # of the shorter side, the Gaussian's sigma
SENSOR_NOISE: Final = (0.5, 3.5)  # grey levels, sigma
QUALITIES: Final = (50, 90)  # of JPEG, both included

LIGHT_STEP: Final = 4  # pixels: light and shadows are soft, a quarter of the resolution is enough
NOISE_TILE: Final = 256  # pixels a side: too large for its repetition to be seen in noise


@dataclass(frozen=True)
class _Sheet:
    """The picture's size in pixels."""

    height: int
    width: int

    @property
    def shorter(self) -> int:
        return min(self.height, self.width)

    def reduced(self, step: int) -> "_Sheet":
        return _Sheet(-(-self.height // step), -(-self.width // step))


def make_photo(grey: NDArray[np.uint8], random: Random) -> bytes:
    """A JPEG of the light-on-dark digit uint8 [28,28], written dark on light paper."""
    sheet = _sheet(random)
    picture = _lit_paper(sheet, random)
    _write(picture, grey, sheet, random)
    return _jpeg(_camera(picture, sheet, random), random)


def _sheet(random: Random) -> _Sheet:
    shorter = int(random.integers(*SHORTER_SIDES, endpoint=True))
    longer = round(shorter * random.uniform(*ASPECTS))
    return _Sheet(shorter, longer) if random.random() < 0.5 else _Sheet(longer, shorter)


def _write(picture: Field, grey: NDArray[np.uint8], sheet: _Sheet, random: Random) -> None:
    """Multiplies the paper's light [H,W,3] by the ink's reflectance, in place."""
    digit = _cropped(grey)
    corners = _corners(digit, sheet, random)
    left, top = np.floor(corners.min(0)).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int)
    ink = _stroke(digit, corners - (left, top), _Sheet(bottom - top, right - left), random)
    kept = 1 - np.multiply(INKS[random.integers(len(INKS))], random.uniform(*INK_SPREAD))
    picture[top:bottom, left:right] *= 1 - ink[..., None] * kept.astype(np.float32)


def _cropped(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ink's box with MARGIN around it."""
    rows, columns = (np.flatnonzero(grey.max(axis) >= grey.max() / 4) for axis in (1, 0))
    padded = np.pad(grey, MARGIN)
    return padded[rows[0] : rows[-1] + 1 + 2 * MARGIN, columns[0] : columns[-1] + 1 + 2 * MARGIN]


def _corners(digit: NDArray[np.uint8], sheet: _Sheet, random: Random) -> NDArray[np.float64]:
    """Where the digit's four corners (x, y) [4,2] lie in the picture, in perspective."""
    whole = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (sheet.width, sheet.height)
    moved = whole + random.uniform(-CORNER_SHIFT, CORNER_SHIFT, (4, 2)) * (sheet.width, sheet.height)
    view = cv2.getPerspectiveTransform(whole.astype(np.float32), moved.astype(np.float32))
    height, width = digit.shape
    margins = max(height, width) / max(1, max(height, width) - 2 * MARGIN)
    size = min(random.uniform(*DIGIT_SIZES) * margins, 1 - 2 * BORDER) * sheet.shorter
    box = (whole / (sheet.width, sheet.height)) * (width, height) * (size / max(height, width))
    box += random.uniform(0, 1, 2) * (np.array([sheet.width, sheet.height]) - box.max(0))
    seen = cv2.perspectiveTransform(box[None], view)[0]
    seen = (seen - seen.min(0)) * (size / np.ptp(seen, 0).max())
    border = BORDER * sheet.shorter
    room = np.array([sheet.width, sheet.height]) - seen.max(0) - 2 * border
    return np.asarray(seen + border + random.uniform(0, 1, 2) * room)


def _stroke(digit: NDArray[np.uint8], corners: NDArray[np.float64], box: _Sheet, random: Random) -> Field:
    """How much of each pixel [H,W] the ink covers, 0 to 1."""
    height, width = digit.shape
    scale = max(box.height, box.width) / max(height, width)
    size = (round(width * scale), round(height * scale))
    enlarged = cv2.resize(_smoothed(digit), size, interpolation=cv2.INTER_CUBIC)
    source = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * size
    view = cv2.getPerspectiveTransform(source.astype(np.float32), corners.astype(np.float32))
    seen = cv2.warpPerspective(enlarged, view, (box.width, box.height), flags=cv2.INTER_LINEAR)
    level = random.uniform(*STROKE_LEVELS)
    band = min(2 * level, random.uniform(*EDGE_WIDTHS) / (MNIST_EDGE * scale))  # wider would ink the ground
    steps = np.clip((np.arange(256) / max(1, int(enlarged.max())) - level) / band + 0.5, 0, 1)
    covered = (steps * steps * (3 - 2 * steps)).astype(np.float32)[seen]
    gaps = np.clip(_smooth(box, max(4, round(scale)), random) / 4 + 0.5, 0, 1)
    return np.asarray(covered * (1 - INK_GAPS * gaps), np.float32)


def _smoothed(digit: NDArray[np.uint8]) -> NDArray[np.uint8]:
    finer = cv2.resize(digit, None, fx=FINER, fy=FINER, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.GaussianBlur(finer, (0, 0), SMOOTHING * FINER), np.uint8)


def _lit_paper(sheet: _Sheet, random: Random) -> Field:
    """What the camera sees of the empty sheet, [H,W,3], 1 being full scale."""
    small = sheet.reduced(LIGHT_STEP)
    light = _light(small, random)
    if random.random() < SHADOW_CHANCE:
        light = light * _shadow(small, random)
    for period in TEXTURE_PERIODS:
        light = light * (1 + random.uniform(*TEXTURES) * _smooth(small, max(1, period // LIGHT_STEP), random))
    seen = _enlarged(light.astype(np.float32), sheet)
    grain = _enlarged(_tiled(random, sheet.reduced(2)), sheet)
    seen *= 1 + np.float32(random.uniform(*GRAINS)) * grain
    return np.asarray(cv2.merge([seen * np.float32(factor) for factor in _tint(random)]), np.float32)


def _tint(random: Random) -> NDArray[np.float64]:
    """The factors (red, green, blue) of paper, lamp and exposure."""
    first, second = random.integers(len(PAPERS), size=2)
    share, warmth = random.random(2)
    paper = share * np.array(PAPERS[first]) + (1 - share) * np.array(PAPERS[second])
    lamp = warmth * np.array(LAMPS[0]) + (1 - warmth) * np.array(LAMPS[1])
    return np.asarray(paper * lamp * random.uniform(*EXPOSURES))


def _across(sheet: _Sheet, angle: float) -> Field:
    """Each pixel's place [H,W] along the direction, in pixels from the centre."""
    rows = (np.arange(sheet.height) - sheet.height / 2) * np.sin(angle)
    columns = (np.arange(sheet.width) - sheet.width / 2) * np.cos(angle)
    return np.asarray(np.add.outer(rows, columns), np.float32)


def _light(sheet: _Sheet, random: Random) -> Field:
    """A gradient and a soft bright spot, 1 where brightest and DARKEST where darkest."""
    ramp = _across(sheet, random.uniform(0, 2 * np.pi))
    rows, columns = (np.arange(side) - random.uniform(0, side) for side in (sheet.height, sheet.width))
    width = random.uniform(0.3, 1.0) * sheet.shorter
    spot = np.outer(np.exp(-((rows / width) ** 2)), np.exp(-((columns / width) ** 2)))
    field = ramp / np.ptp(ramp) + random.uniform(0.2, 1.0) * spot
    field = (field - field.min()) / np.ptp(field)
    darkest = random.uniform(*DARKEST)
    return np.asarray(darkest + (1 - darkest) * field, np.float32)


def _shadow(sheet: _Sheet, random: Random) -> Field:
    """A straight soft edge through the middle half: 1 on one side, SHADOWS on the other."""
    place = _across(sheet, random.uniform(0, 2 * np.pi)) - random.uniform(-0.35, 0.35) * sheet.shorter
    share = np.clip(place / (random.uniform(*SHADOW_EDGES) * sheet.shorter) + 0.5, 0, 1)
    return np.asarray(1 - (1 - random.uniform(*SHADOWS)) * share * share * (3 - 2 * share), np.float32)


def _smooth(sheet: _Sheet, period: int, random: Random) -> Field:
    """Smooth noise [H,W] of sigma 1 at its knots, one every `period` pixels."""
    knots = sheet.reduced(period)
    noise = random.standard_normal((knots.height + 1, knots.width + 1), np.float32)
    return _enlarged(noise, sheet, cv2.INTER_CUBIC)


def _tiled(random: Random, sheet: _Sheet, bands: int = 1) -> Field:
    """Noise of sigma 1, [H,W] or [H,W,bands], that repeats every NOISE_TILE."""
    tile = random.standard_normal((NOISE_TILE, NOISE_TILE, bands), np.float32)
    times = sheet.reduced(NOISE_TILE)
    return np.squeeze(np.tile(tile, (times.height, times.width, 1))[: sheet.height, : sheet.width])


def _enlarged(field: Field, sheet: _Sheet, how: int = cv2.INTER_LINEAR) -> Field:
    return np.asarray(cv2.resize(field, (sheet.width, sheet.height), interpolation=how), np.float32)


def _camera(picture: Field, sheet: _Sheet, random: Random) -> NDArray[np.uint8]:
    """What the sensor makes of the light [H,W,3], perhaps a little out of focus."""
    if random.random() < DEFOCUS_CHANCE:
        sigma = random.uniform(*DEFOCUS) * sheet.shorter
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.float32)
    noise = _tiled(random, sheet, 3) * np.float32(random.uniform(*SENSOR_NOISE))
    return np.asarray(np.clip(cv2.scaleAdd(picture, 255.0, noise), 0, 255), np.uint8)


def _jpeg(picture: NDArray[np.uint8], random: Random) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=int(random.integers(*QUALITIES, endpoint=True)))
    return file.getvalue()
