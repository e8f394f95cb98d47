"""Tests of handler/background.py: the page, its gray level under any light, and the foreground."""

import numpy as np
import pytest
from numpy.typing import NDArray

from handler.background import crop_bars, crop_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import WORKING_SIZE, GrayImage

STROKE = np.zeros((200, 200), bool)
STROKE[50:150, 90:102] = True


def make_lit_page(light: NDArray[np.float64] | float, noise: float = 2, reflectance: float = 0.2) -> GrayImage:
    """Render STROKE on white paper under the light; the stroke reflects `reflectance` of it."""
    gray = light * np.where(STROKE, reflectance, 1) + np.random.default_rng(0).normal(0, noise, STROKE.shape)
    return gray.clip(0, 255).astype(np.uint8)


RAMP = np.linspace(80, 240, 200) * np.ones((200, 1))
SHADOW = np.where(np.add.outer(np.arange(200), np.arange(200)) > 210, 120.0, 220.0)


def test_large_image_is_reduced_and_small_image_is_not() -> None:
    assert reduce_image(np.zeros((1000, 2000), np.uint8)).shape == (WORKING_SIZE // 2, WORKING_SIZE)
    small = np.zeros((28, 28), np.uint8)
    assert reduce_image(small) is small


@pytest.mark.parametrize("tilt", [0.0, 0.05])
def test_page_on_a_darker_surface_is_cropped_at_any_angle(tilt: float) -> None:
    rows, columns = np.mgrid[:300, :400]
    inside = (abs(columns - 200 + tilt * rows) < 120) & (abs(rows - 150 - tilt * columns) < 90)
    noise = np.random.default_rng(0).normal(0, 3, inside.shape)
    cropped = crop_page((np.where(inside, 220, 50) + noise).clip(0, 255).astype(np.uint8)).gray
    assert 150 <= cropped.shape[0] <= 205
    assert 210 <= cropped.shape[1] <= 260
    assert cropped.min() > 150


@pytest.mark.parametrize("border", [1, 4, 50])
@pytest.mark.parametrize("level", [0, 60, 128])
def test_plain_dark_border_is_cropped(border: int, level: int) -> None:
    framed = np.pad(make_lit_page(230.0, noise=0), border, constant_values=level)
    cropped = crop_page(framed).gray
    assert min(cropped.shape) < 200
    assert cropped.min() == make_lit_page(230.0, noise=0).min()
    assert (cropped[0] == 230).all()


@pytest.mark.parametrize("border", [1, 4, 50])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_dark_page_on_a_lighter_surface_is_cropped(border: int, noise: float) -> None:
    page = np.pad(255 - make_lit_page(230.0, noise=0), border, constant_values=210)
    noisy = page + np.random.default_rng(0).normal(0, noise, page.shape)
    cropped = crop_page(noisy.clip(0, 255).astype(np.uint8)).gray
    assert min(cropped.shape) < 200
    assert np.median(cropped) == pytest.approx(25, abs=1)
    assert cropped[0].max() < 50


@pytest.mark.parametrize("sides", [((40, 40), (0, 0)), ((0, 0), (30, 70)), ((60, 0), (0, 50))])
@pytest.mark.parametrize("level", [0, 80, 128, 255])
@pytest.mark.parametrize("inverted", [True, False])
def test_bars_at_two_sides_and_around_a_corner_are_cropped(
    sides: tuple[tuple[int, int], tuple[int, int]], level: int, inverted: bool
) -> None:
    page = make_lit_page(220.0) if inverted else 255 - make_lit_page(220.0)
    cropped = crop_bars(np.pad(page, sides, constant_values=level)).gray
    assert cropped.shape == (198, 198)
    assert abs(np.median(cropped[0]) - np.median(page)) <= 1


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("top", [0, 20])
def test_stroke_along_the_border_is_no_page(background: int, top: int) -> None:
    stroke = np.full((200, 150), background, np.uint8)
    stroke[top:180, :110] = 255 - background
    assert crop_bars(stroke).gray is stroke


@pytest.mark.parametrize("background", [0, 255])
def test_stroke_as_wide_as_a_page_is_not_cropped(background: int) -> None:
    stroke = np.full((200, 80), background, np.uint8)
    stroke[20:180, 20:60] = 255 - background
    assert crop_page(stroke).gray is stroke


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("width", [3, 12])
def test_rectangular_zero_is_not_cropped(background: int, width: int) -> None:
    zero = np.full((200, 150), background, np.uint8)
    zero[20:180, 20:130] = 255 - background
    zero[20 + width : 180 - width, 20 + width : 130 - width] = background
    assert crop_page(zero).gray is zero


@pytest.mark.parametrize("height", range(3, 30))
def test_thin_bright_strip_gives_an_image_of_some_size(height: int) -> None:
    gray = np.full((height, 200), 40.0)
    gray[height // 4 : height - height // 4, 8:-8] = 210
    noisy = (gray + np.random.default_rng(height).normal(0, 3, gray.shape)).clip(0, 255).astype(np.uint8)
    assert min(crop_page(noisy).gray.shape) > 0


@pytest.mark.parametrize("light", [230.0, RAMP, SHADOW], ids=["even", "ramp", "shadow"])
def test_page_that_fills_the_image_is_not_cropped(light: NDArray[np.float64] | float) -> None:
    gray = make_lit_page(light)
    assert crop_page(gray).gray is gray


def test_level_and_noise_of_an_evenly_lit_background_are_estimated() -> None:
    background = estimate_background(make_lit_page(200.0, noise=5))
    assert background.is_evenly_lit
    assert background.level == pytest.approx(200, abs=1)
    assert background.noise == pytest.approx(5, rel=0.3)


@pytest.mark.parametrize("light", [RAMP, SHADOW], ids=["ramp", "shadow"])
def test_level_of_an_unevenly_lit_background_is_estimated_everywhere(light: NDArray[np.float64]) -> None:
    background = estimate_background(make_lit_page(light))
    assert not background.is_evenly_lit
    error = np.abs(np.asarray(background.level).astype(float) - light)
    assert np.median(error) <= 8
    assert np.median(error[STROKE]) <= 12


@pytest.mark.parametrize("light", [230.0, RAMP, SHADOW], ids=["even", "ramp", "shadow"])
@pytest.mark.parametrize("inverted", [True, False])
def test_foreground_has_one_intensity_in_any_light_and_polarity(
    light: NDArray[np.float64] | float, inverted: bool
) -> None:
    gray = make_lit_page(light) if inverted else 255 - make_lit_page(light)
    foreground = extract_foreground(gray, estimate_background(gray))
    assert foreground.inverted == inverted
    assert np.median(foreground.intensity[~STROKE]) <= 25
    if inverted:  # four fifths of the light are missing
        assert np.percentile(np.abs(foreground.intensity[STROKE].astype(float) - 204), 90) <= 25


def test_gray_levels_of_mnist_are_unchanged() -> None:
    gray = np.zeros((28, 28), np.uint8)
    gray[5:20, 10:14] = np.arange(60, dtype=np.uint8).reshape(15, 4) * 4
    foreground = extract_foreground(gray, estimate_background(gray))
    np.testing.assert_array_equal(foreground.intensity, gray)
    np.testing.assert_array_equal(extract_foreground(255 - gray, estimate_background(255 - gray)).intensity, gray)
