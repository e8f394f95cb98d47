"""Tests of handler/preprocessing.py: any image of a digit is framed in MNIST's geometry, with its warnings."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, center_of_mass

from handler.decoding import GrayImage
from handler.geometry import CENTER, DIGIT_SIZE
from handler.preprocessing import ImageError, frame, frame_gray, frame_gray_with_warnings, to_input
from tests.images import SEVEN, SMOKE, digits

SEVEN_GRAY = np.asarray(SEVEN)


def enlarge(gray: GrayImage, side: int = 300) -> GrayImage:
    return np.asarray(Image.fromarray(gray).resize((side, side), Image.Resampling.BICUBIC))


def draw_on_page(gray: GrayImage, page: NDArray[np.float64] | float, noise: float = 3) -> GrayImage:
    """Draw the digit on a lit page with a pen that reflects a fifth of the light."""
    drawn = page * (1 - 0.8 * gray / 255) + np.random.default_rng(0).normal(0, noise, gray.shape)
    return drawn.clip(0, 255).astype(np.uint8)


def compute_difference(first: GrayImage, second: GrayImage) -> float:
    """Return the mean difference in gray levels where either has foreground."""
    foreground = (first > 0) | (second > 0)
    return float(np.abs(first.astype(int) - second.astype(int))[foreground].mean())


def test_frame_has_mnists_size_and_center_of_mass() -> None:
    for gray in digits()[0][::50]:
        framed = frame_gray(gray)
        rows, columns = (np.flatnonzero(framed.max(axis)) for axis in (1, 0))
        sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert DIGIT_SIZE - 2 <= max(sides) <= DIGIT_SIZE == 46
        assert framed.shape == (64, 64)
        for center, lines in zip(center_of_mass(framed), (rows, columns), strict=True):
            assert abs(center - CENTER) <= 0.51 or lines[0] == 0 or lines[-1] == 63


def test_mnist_digits_are_only_deslanted() -> None:
    """Compare with an oracle, a plain resize deslanted by scipy: MNIST is in its own geometry already."""
    correlations = []
    for gray in digits()[0][::50]:
        plain = np.asarray(Image.fromarray(gray).resize((64, 64), Image.Resampling.BILINEAR)).astype(float)
        correlations.append(
            np.corrcoef(deslant_with_scipy(plain).ravel(), frame_gray(gray).astype(float).ravel())[0, 1]
        )
    assert np.median(correlations) >= 0.95


def deslant_with_scipy(plain: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = np.array(center_of_mass(plain))
    rows, columns = np.indices(plain.shape) - middle[:, None, None]
    shear = np.array(((1, 0), ((plain * rows * columns).sum() / (plain * rows**2).sum(), 1)))
    return np.asarray(affine_transform(plain, shear, middle - shear @ middle, order=1))


SAME: dict[str, Callable[[GrayImage], GrayImage]] = {
    "inverted": lambda gray: 255 - gray,
    "faint": lambda gray: (120 + gray * 0.2).astype(np.uint8),
    "in a corner of a large frame": lambda gray: np.pad(gray, ((100, 3), (5, 120))),
    "cropped to its foreground": lambda gray: gray[gray.any(1)][:, gray.any(0)],
    "with specks": lambda gray: np.pad(gray, 20) | _draw_specks((68, 68)),
    "enlarged": enlarge,
    "enlarged and cropped": lambda gray: enlarge(gray)[enlarge(gray).any(1)][:, enlarge(gray).any(0)],
    "pen on a page": lambda gray: draw_on_page(enlarge(gray), 220),
    "pen on an unevenly lit page": lambda gray: draw_on_page(
        enlarge(gray), np.linspace(90, 240, 300) * np.ones((300, 1))
    ),
    "pen on a page under a shadow's edge": lambda gray: draw_on_page(
        enlarge(gray), np.where(_make_slope() > 40, 220.0, 130.0)
    ),
    "chalk on a board": lambda gray: 255 - draw_on_page(enlarge(gray), np.linspace(180, 240, 300) * np.ones((300, 1))),
    "a page on a darker surface": lambda gray: _place_on_surface(draw_on_page(enlarge(gray), 225)),
    "a photo of 9 million pixels": lambda gray: draw_on_page(enlarge(gray, 3000), 220),
}


def _draw_specks(shape: tuple[int, int]) -> GrayImage:
    specks = np.zeros(shape, np.uint8)
    specks[[2, 40, 65], [60, 3, 64]] = 255
    return specks


def _make_slope() -> NDArray[np.int64]:
    rows, columns = np.mgrid[:300, :300]
    return np.asarray(rows - columns)


def _place_on_surface(page: GrayImage) -> GrayImage:
    surface = draw_on_page(np.zeros((420, 500), np.uint8), 60)
    surface[60:360, 90:390] = page
    return surface


@pytest.mark.parametrize("way", SAME)
def test_digit_gives_the_same_frame_in_any_form(way: str) -> None:
    for gray in digits()[0][7::500]:
        assert compute_difference(frame_gray(SAME[way](gray)), frame_gray(gray)) <= 45


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("side", "correlation"), [(8, 0.8), (12, 0.9), (20, 0.95)])
def test_digit_that_fills_a_tiny_image_is_framed_like_any_other(side: int, correlation: float, inverted: bool) -> None:
    correlations = []
    for gray in digits()[0][::50]:
        cropped = gray[gray.max(1) > 60][:, gray.max(0) > 60]
        width, height = (max(1, round(length * side / max(cropped.shape))) for length in cropped.shape[::-1])
        tiny = np.asarray(Image.fromarray(cropped).resize((width, height), Image.Resampling.BOX))
        framed = frame_gray(255 - tiny if inverted else tiny)
        correlations.append(np.corrcoef(framed.ravel(), frame_gray(gray).ravel())[0, 1])
    assert np.median(correlations) >= correlation


def draw_box(gray: GrayImage) -> GrayImage:
    """Draw a box around the digit, four times as large."""
    large = np.kron(gray, np.ones((4, 4), np.uint8))
    large[[4, 5, 6, -7, -6, -5], 4:-4] = large[4:-4, [4, 5, 6, -7, -6, -5]] = 255
    return large


WARNED: dict[str, tuple[GrayImage, set[str]]] = {
    "as MNIST": (SEVEN_GRAY, set()),
    "dark on light": (255 - SEVEN_GRAY, {"inverted"}),
    "two digits": (np.hstack((SEVEN_GRAY, SEVEN_GRAY)), {"several_marks"}),
    "faint": ((SEVEN_GRAY * 0.15).astype(np.uint8), {"faint"}),
    "cut off": (SEVEN_GRAY[:15], {"touches_border"}),
    "tiny": (np.pad(np.asarray(SEVEN.resize((10, 10), Image.Resampling.BOX)), 3), {"low_resolution"}),
    "box": (draw_box(SEVEN_GRAY), {"lines_removed"}),
    "dark, faint and two": (
        255 - (np.hstack((SEVEN_GRAY, SEVEN_GRAY)) * 0.15).astype(np.uint8),
        {"inverted", "several_marks", "faint"},
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_warnings_name_what_is_unusual(case: str) -> None:
    gray, expected = WARNED[case]
    assert set(frame_gray_with_warnings(gray).warnings) == expected


def test_mnist_digits_hardly_get_warnings() -> None:
    warned = [gray for gray in digits()[0][::10] if set(frame_gray_with_warnings(gray).warnings) - {"touches_border"}]
    assert len(warned) <= 5


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("side", [1, 8, 28, 64, 65, 500])
@pytest.mark.parametrize("noise", [0, 2])
def test_blank_image_of_any_level_gets_an_error(level: int, side: int, noise: float) -> None:
    blank = level + np.random.default_rng(side).normal(0, noise, (side, side)).round()
    with pytest.raises(ImageError) as error:
        frame_gray(blank.clip(0, 255).astype(np.uint8))
    assert error.value.status == 422


def test_blank_page_under_uneven_light_gets_an_error() -> None:
    page = draw_on_page(np.zeros((300, 300), np.uint8), np.linspace(120, 240, 300) * np.ones((300, 1)))
    with pytest.raises(ImageError, match="nothing is drawn"):
        frame_gray(page)


def test_any_shape_and_content_gives_a_frame_or_an_error() -> None:
    random = np.random.default_rng(0)
    for height in (1, 2, 3, 7, 23, 65, 600):
        for width in (1, 2, 5, 24, 63, 66, 1100):
            for gray in (
                random.integers(0, 256, (height, width), np.uint8),
                np.eye(height, width, dtype=np.uint8) * 200,
            ):
                with suppress(ImageError):
                    framed = frame_gray(gray)
                    assert framed.shape == (64, 64)
                    assert framed.dtype == np.uint8
                    assert framed.max() == 255


def test_input_has_three_equal_channels_in_0_to_1() -> None:
    frames = [frame(SMOKE[3]), frame(SMOKE[8])]
    tensor = to_input(frames)
    assert tensor.shape == (2, 3, 64, 64)
    assert tensor.dtype == torch.float32
    torch.testing.assert_close(tensor[:, 0], tensor[:, 2])
    np.testing.assert_array_equal((tensor[:, 1] * 255).round().numpy(), np.asarray(frames))
