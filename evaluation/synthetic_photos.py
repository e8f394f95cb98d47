"""Synthetic photos of real handwritten digits: pen on a page under random uneven light, as JPEG."""

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
ASPECT_RATIOS: Final = (1.0, 4 / 3)
DIGIT_SIZES: Final = (0.15, 0.70)  # longer side of the digit, as a share of the photo's shorter side
BORDER: Final = 0.02  # least distance from the digit to the photo's edge, as a share of the shorter side
CORNER_SHIFT: Final = 0.08  # largest shift of a corner by perspective, as a share of width and height
UNIT_SQUARE: Final = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])  # its corners (x, y)

MARGIN: Final = 1  # pixels of the 28x28 image around the digit, which keep the stroke's edge whole
UPSAMPLING: Final = 8  # factor on the 28x28 image's resolution while it is smoothed
SMOOTHING: Final = 0.5  # pixels of the 28x28 image, sigma; hides the pixel grid
STROKE_LEVELS: Final = (0.38, 0.50)  # level at the stroke's edge, as a share of the maximum; higher breaks thin strokes
EDGE_WIDTHS: Final = (1.5, 4.0)  # pixels of the photo, from stroke to page
MNIST_EDGE: Final = 2.2  # pixels of the 28x28 image, from stroke to background once smoothed

# Reflectances (red, green, blue): the page's of the light, the pen's of the page.
PAGES: Final = ((0.96, 0.96, 0.95), (0.95, 0.92, 0.83), (0.88, 0.88, 0.87), (0.92, 0.95, 0.97), (0.80, 0.79, 0.76))
PENS: Final = ((0.08, 0.08, 0.09), (0.10, 0.15, 0.45), (0.42, 0.07, 0.10), (0.36, 0.36, 0.37))
PEN_FACTORS: Final = (0.65, 1.0)  # factor on a pen's reflectance
STROKE_GAPS: Final = 0.12  # largest ratio of the page that shows through an uneven stroke

DARKEST_LIGHT: Final = (0.45, 0.85)  # darkest light on the page, as a share of the brightest
SHADOW_PROBABILITY: Final = 0.75
SHADOW_LIGHT: Final = (0.50, 0.85)  # light in the shadow, as a share of that outside
SHADOW_EDGES: Final = (0.006, 0.06)  # width of the shadow's edge, as a share of the shorter side
EXPOSURES: Final = (0.85, 1.10)  # a white page in the brightest light, as a share of full scale
LAMP_COLORS: Final = ((1.0, 0.93, 0.80), (0.90, 0.96, 1.0))  # warmest and coolest; red, green, blue
TEXTURE_PERIODS: Final = (4, 16, 64)  # pixels
TEXTURE_SIGMAS: Final = (0.003, 0.015)  # sigma per period, as a share of the page's reflectance
GRAIN_SIGMAS: Final = (0.004, 0.020)  # sigma of the fibers, as a share of the page's reflectance

DEFOCUS_PROBABILITY: Final = 0.35
DEFOCUS_SIGMAS: Final = (0.0005, 0.002)  # sigma of the blur, as a share of the shorter side
SENSOR_NOISE_SIGMAS: Final = (0.5, 3.5)  # gray levels
JPEG_QUALITIES: Final = (50, 90)  # both included

LIGHT_STEP: Final = 4  # pixels; light and shadows are soft, so a quarter of the resolution is enough
NOISE_TILE: Final = 256  # pixels, side of a tile; too large for the repetition to be visible


@dataclass(frozen=True)
class _Size:
    """Size of an image in pixels."""

    height: int
    width: int

    @property
    def shorter(self) -> int:
        return min(self.height, self.width)

    def divide(self, step: int) -> "_Size":
        return _Size(-(-self.height // step), -(-self.width // step))


def make_photo(gray: NDArray[np.uint8], random: Random, sizes: tuple[float, float] = DIGIT_SIZES) -> bytes:
    """Return a JPEG of the light-on-dark digit uint8 [28,28] or number, written dark on a light page."""
    size = _sample_size(random)
    light = _render_page(size, random)
    _write_digit(light, gray, size, random, sizes)
    photo = Image.fromarray(_simulate_camera(light, size, random))
    file = BytesIO()
    photo.save(file, "JPEG", quality=int(random.integers(*JPEG_QUALITIES, endpoint=True)))
    return file.getvalue()


def _sample_size(random: Random) -> _Size:
    shorter = int(random.integers(*SHORTER_SIDES, endpoint=True))
    longer = round(shorter * random.uniform(*ASPECT_RATIOS))
    return _Size(shorter, longer) if random.random() < 0.5 else _Size(longer, shorter)


def _write_digit(
    light: Field, gray: NDArray[np.uint8], size: _Size, random: Random, sizes: tuple[float, float]
) -> None:
    """Multiply the page's light [H,W,3] by the pen's reflectance, in place."""
    digit = _crop_digit(gray)
    corners = _place_corners(digit, size, random, sizes)
    left, top = np.floor(corners.min(0)).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int)
    stroke = _render_stroke(digit, corners - (left, top), _Size(bottom - top, right - left), random)
    absorbed = 1 - np.multiply(PENS[random.integers(len(PENS))], random.uniform(*PEN_FACTORS))
    light[top:bottom, left:right] *= 1 - stroke[..., None] * absorbed.astype(np.float32)


def _crop_digit(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (np.flatnonzero(gray.max(axis) >= gray.max() / 4) for axis in (1, 0))
    padded = np.pad(gray, MARGIN)
    return padded[rows[0] : rows[-1] + 1 + 2 * MARGIN, columns[0] : columns[-1] + 1 + 2 * MARGIN]


def _place_corners(
    digit: NDArray[np.uint8], size: _Size, random: Random, sizes: tuple[float, float]
) -> NDArray[np.float64]:
    """Return where the digit's four corners (x, y) [4,2] lie in the photo, in perspective."""
    frame = UNIT_SQUARE * (size.width, size.height)
    shifted = frame + random.uniform(-CORNER_SHIFT, CORNER_SHIFT, (4, 2)) * (size.width, size.height)
    perspective = cv2.getPerspectiveTransform(frame.astype(np.float32), shifted.astype(np.float32))
    height, width = digit.shape
    margins = max(height, width) / max(1, max(height, width) - 2 * MARGIN)
    longer = min(random.uniform(*sizes) * margins, 1 - 2 * BORDER) * size.shorter
    box = UNIT_SQUARE * (width, height) * (longer / max(height, width))
    box += random.uniform(0, 1, 2) * (np.array([size.width, size.height]) - box.max(0))
    corners = cv2.perspectiveTransform(box[None], perspective)[0]
    corners = (corners - corners.min(0)) * (longer / np.ptp(corners, 0).max())
    border = BORDER * size.shorter
    room = np.array([size.width, size.height]) - corners.max(0) - 2 * border
    return np.asarray(corners + border + random.uniform(0, 1, 2) * room)


def _render_stroke(digit: NDArray[np.uint8], corners: NDArray[np.float64], box: _Size, random: Random) -> Field:
    """Return the ratio of every pixel [H,W] that the stroke covers, 0..1."""
    height, width = digit.shape
    scale = max(box.height, box.width) / max(height, width)
    size = (round(width * scale), round(height * scale))
    finer = cv2.resize(digit, None, fx=UPSAMPLING, fy=UPSAMPLING, interpolation=cv2.INTER_CUBIC)
    smooth = cv2.GaussianBlur(finer, (0, 0), SMOOTHING * UPSAMPLING)
    enlarged = cv2.resize(smooth, size, interpolation=cv2.INTER_CUBIC)
    source = UNIT_SQUARE * size
    perspective = cv2.getPerspectiveTransform(source.astype(np.float32), corners.astype(np.float32))
    warped = cv2.warpPerspective(enlarged, perspective, (box.width, box.height), flags=cv2.INTER_LINEAR)
    level = random.uniform(*STROKE_LEVELS)
    band = min(2 * level, random.uniform(*EDGE_WIDTHS) / (MNIST_EDGE * scale))  # wider would cover the page
    steps = np.clip((np.arange(256) / max(1, int(enlarged.max())) - level) / band + 0.5, 0, 1)
    covered = (steps * steps * (3 - 2 * steps)).astype(np.float32)[warped]
    gaps = np.clip(_make_smooth_noise(box, max(4, round(scale)), random) / 4 + 0.5, 0, 1)
    return np.asarray(covered * (1 - STROKE_GAPS * gaps), np.float32)


def _render_page(size: _Size, random: Random) -> Field:
    """Return the light [H,W,3] that the camera receives from the empty page; 1 is full scale."""
    small = size.divide(LIGHT_STEP)
    light = _render_light(small, random)
    if random.random() < SHADOW_PROBABILITY:
        light = light * _render_shadow(small, random)
    for period in TEXTURE_PERIODS:
        texture = random.uniform(*TEXTURE_SIGMAS) * _make_smooth_noise(small, max(1, period // LIGHT_STEP), random)
        light = light * (1 + texture)
    page = _resize(light.astype(np.float32), size)
    grain = _resize(_tile_noise(random, size.divide(2)), size)
    page *= 1 + np.float32(random.uniform(*GRAIN_SIGMAS)) * grain
    return np.asarray(cv2.merge([page * np.float32(factor) for factor in _sample_tint(random)]), np.float32)


def _sample_tint(random: Random) -> NDArray[np.float64]:
    """Return the product (red, green, blue) of page color, lamp color and exposure."""
    first, second = random.integers(len(PAGES), size=2)
    weight, warmth = random.random(2)
    page = weight * np.array(PAGES[first]) + (1 - weight) * np.array(PAGES[second])
    lamp = warmth * np.array(LAMP_COLORS[0]) + (1 - warmth) * np.array(LAMP_COLORS[1])
    return np.asarray(page * lamp * random.uniform(*EXPOSURES))


def _project_pixels(size: _Size, angle: float) -> Field:
    """Return the pixels' coordinate [H,W] along a direction, in pixels from the center."""
    rows = (np.arange(size.height) - size.height / 2) * np.sin(angle)
    columns = (np.arange(size.width) - size.width / 2) * np.cos(angle)
    return np.asarray(np.add.outer(rows, columns), np.float32)


def _render_light(size: _Size, random: Random) -> Field:
    """Return a gradient with a soft bright spot: 1 at the brightest pixel, DARKEST_LIGHT at the darkest."""
    ramp = _project_pixels(size, random.uniform(0, 2 * np.pi))
    rows, columns = (np.arange(side) - random.uniform(0, side) for side in (size.height, size.width))
    width = random.uniform(0.3, 1.0) * size.shorter
    spot = np.outer(np.exp(-((rows / width) ** 2)), np.exp(-((columns / width) ** 2)))
    field = ramp / np.ptp(ramp) + random.uniform(0.2, 1.0) * spot
    field = (field - field.min()) / np.ptp(field)
    darkest = random.uniform(*DARKEST_LIGHT)
    return np.asarray(darkest + (1 - darkest) * field, np.float32)


def _render_shadow(size: _Size, random: Random) -> Field:
    """Return a shadow with a straight soft edge in the middle half: 1 outside, SHADOW_LIGHT inside."""
    offset = _project_pixels(size, random.uniform(0, 2 * np.pi)) - random.uniform(-0.35, 0.35) * size.shorter
    depth = np.clip(offset / (random.uniform(*SHADOW_EDGES) * size.shorter) + 0.5, 0, 1)
    return np.asarray(1 - (1 - random.uniform(*SHADOW_LIGHT)) * depth * depth * (3 - 2 * depth), np.float32)


def _make_smooth_noise(size: _Size, period: int, random: Random) -> Field:
    """Return smooth noise [H,W], of sigma 1 at its knots, which are `period` pixels apart."""
    knots = size.divide(period)
    noise = random.standard_normal((knots.height + 1, knots.width + 1), np.float32)
    return _resize(noise, size, cv2.INTER_CUBIC)


def _tile_noise(random: Random, size: _Size, channels: int = 1) -> Field:
    """Return noise of sigma 1, [H,W] or [H,W,channels], that repeats every NOISE_TILE pixels."""
    tile = random.standard_normal((NOISE_TILE, NOISE_TILE, channels), np.float32)
    times = size.divide(NOISE_TILE)
    return np.squeeze(np.tile(tile, (times.height, times.width, 1))[: size.height, : size.width])


def _resize(field: Field, size: _Size, interpolation: int = cv2.INTER_LINEAR) -> Field:
    return np.asarray(cv2.resize(field, (size.width, size.height), interpolation=interpolation), np.float32)


def _simulate_camera(light: Field, size: _Size, random: Random) -> NDArray[np.uint8]:
    """Return the sensor's image uint8 of the light [H,W,3], sometimes a little out of focus."""
    if random.random() < DEFOCUS_PROBABILITY:
        sigma = random.uniform(*DEFOCUS_SIGMAS) * size.shorter
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), np.float32)
    noise = _tile_noise(random, size, 3) * np.float32(random.uniform(*SENSOR_NOISE_SIGMAS))
    return np.asarray(np.clip(cv2.scaleAdd(light, 255.0, noise), 0, 255), np.uint8)
