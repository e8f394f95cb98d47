"""handler/paper.py: the sheet, its level under any light, and what stands out from it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from handler.background import crop_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import WORKING_SIDE, GrayImage

STROKE = np.zeros((200, 200), bool)
STROKE[50:150, 90:102] = True


def lit(light: NDArray[np.float64] | float, noise: float = 2, reflects: float = 0.2) -> GrayImage:
    """STROKE on paper under that light, with a pen that reflects so much of it."""
    seen = light * np.where(STROKE, reflects, 1) + np.random.default_rng(0).normal(0, noise, STROKE.shape)
    return seen.clip(0, 255).astype(np.uint8)


RAMP = np.linspace(80, 240, 200) * np.ones((200, 1))
SHADOW = np.where(np.add.outer(np.arange(200), np.arange(200)) > 210, 120.0, 220.0)


def test_a_large_picture_is_reduced_with_its_aspect_and_a_small_one_left() -> None:
    assert reduce_image(np.zeros((1000, 2000), np.uint8)).shape == (WORKING_SIDE // 2, WORKING_SIDE)
    small = np.zeros((28, 28), np.uint8)
    assert reduce_image(small) is small


@pytest.mark.parametrize("tilt", [0.0, 0.05])
def test_a_sheet_on_a_dark_table_is_cut_out_also_when_it_lies_askew(tilt: float) -> None:
    rows, columns = np.mgrid[:300, :400]
    inside = (abs(columns - 200 + tilt * rows) < 120) & (abs(rows - 150 - tilt * columns) < 90)
    noise = np.random.default_rng(0).normal(0, 3, inside.shape)
    cut = crop_page((np.where(inside, 220, 50) + noise).clip(0, 255).astype(np.uint8))
    assert 150 <= cut.shape[0] <= 205
    assert 210 <= cut.shape[1] <= 260
    assert cut.min() > 150


@pytest.mark.parametrize("border", [1, 4, 50])
@pytest.mark.parametrize("level", [0, 60, 128])
def test_a_plain_dark_border_is_cut_off(border: int, level: int) -> None:
    framed = np.pad(lit(230.0, noise=0), border, constant_values=level)
    cut = crop_page(framed)
    assert min(cut.shape) < 200
    assert cut.min() == lit(230.0, noise=0).min()
    assert (cut[0] == 230).all()


@pytest.mark.parametrize("border", [1, 4, 50])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_a_dark_card_on_a_light_table_is_cut_out(border: int, noise: float) -> None:
    card = np.pad(255 - lit(230.0, noise=0), border, constant_values=210)
    cut = crop_page((card + np.random.default_rng(0).normal(0, noise, card.shape)).clip(0, 255).astype(np.uint8))
    assert min(cut.shape) < 200
    assert np.median(cut) == pytest.approx(25, abs=1)
    assert cut[0].max() < 50


@pytest.mark.parametrize("paper", [0, 255])
def test_a_stroke_as_broad_as_a_sheet_is_none(paper: int) -> None:
    stroke = np.full((200, 80), paper, np.uint8)
    stroke[20:180, 20:60] = 255 - paper
    assert crop_page(stroke) is stroke


@pytest.mark.parametrize("paper", [0, 255])
@pytest.mark.parametrize("pen", [3, 12])
def test_a_zero_of_straight_strokes_is_no_sheet(paper: int, pen: int) -> None:
    zero = np.full((200, 150), paper, np.uint8)
    zero[20:180, 20:130] = 255 - paper
    zero[20 + pen : 180 - pen, 20 + pen : 130 - pen] = paper
    assert crop_page(zero) is zero


@pytest.mark.parametrize("height", range(3, 30))
def test_a_sheet_too_thin_to_be_one_is_left(height: int) -> None:
    grey = np.full((height, 200), 40.0)
    grey[height // 4 : height - height // 4, 8:-8] = 210
    noisy = (grey + np.random.default_rng(height).normal(0, 3, grey.shape)).clip(0, 255).astype(np.uint8)
    assert min(crop_page(noisy).shape) > 0


@pytest.mark.parametrize("light", [230.0, RAMP, SHADOW], ids=["even", "ramp", "shadow"])
def test_a_picture_of_paper_alone_is_no_sheet_on_a_table(light: NDArray[np.float64] | float) -> None:
    grey = lit(light)
    assert crop_page(grey) is grey


def test_even_paper_has_one_level_and_its_noise_is_measured() -> None:
    paper = estimate_background(lit(200.0, noise=5))
    assert paper.even
    assert paper.level == pytest.approx(200, abs=1)
    assert paper.noise == pytest.approx(5, rel=0.3)


@pytest.mark.parametrize("light", [RAMP, SHADOW], ids=["ramp", "shadow"])
def test_unevenly_lit_paper_has_its_level_everywhere_under_the_ink_too(light: NDArray[np.float64]) -> None:
    paper = estimate_background(lit(light))
    assert not paper.even
    error = np.abs(np.asarray(paper.level).astype(float) - light)
    assert np.median(error) <= 8
    assert np.median(error[STROKE]) <= 12


@pytest.mark.parametrize("light", [230.0, RAMP, SHADOW], ids=["even", "ramp", "shadow"])
@pytest.mark.parametrize("inverted", [True, False])
def test_ink_stands_out_alike_in_any_light_and_of_any_polarity(
    light: NDArray[np.float64] | float, inverted: bool
) -> None:
    grey = lit(light) if inverted else 255 - lit(light)
    ink = extract_foreground(grey, estimate_background(grey))
    assert ink.inverted == inverted
    assert np.median(ink.levels[~STROKE]) <= 25
    if inverted:  # four fifths of the light are missing, wherever it is
        assert np.percentile(np.abs(ink.levels[STROKE].astype(float) - 204), 90) <= 25


def test_mnists_levels_come_through_untouched() -> None:
    grey = np.zeros((28, 28), np.uint8)
    grey[5:20, 10:14] = np.arange(60, dtype=np.uint8).reshape(15, 4) * 4
    ink = extract_foreground(grey, estimate_background(grey))
    np.testing.assert_array_equal(ink.levels, grey)
    np.testing.assert_array_equal(extract_foreground(255 - grey, estimate_background(255 - grey)).levels, grey)
