"""handler/marks.py: what is drawn is found, the rest left out, and placed as MNIST has it."""

import numpy as np
import pytest

from handler.background import Foreground
from handler.decoding import GrayImage, ImageError
from handler.marks import EXTENT, crop_components, deslant, find_components, place_in_frame


def ink(levels: GrayImage, noise: float = 0, even: bool = True) -> Foreground:
    return Foreground(levels, noise, False, even)


def drawn(*boxes: tuple[int, int, int, int], side: int = 100, level: int = 255) -> GrayImage:
    """Filled boxes, each top, bottom, left, right."""
    levels = np.zeros((side, side), np.uint8)
    for top, bottom, left, right in boxes:
        levels[top:bottom, left:right] = level
    return levels


def test_specks_are_left_out_and_a_detached_bar_is_kept() -> None:
    marks = find_components(ink(drawn((30, 70, 40, 50), (20, 25, 40, 60), (90, 92, 5, 7))))
    assert marks.box == (40, 20, 60, 70)
    assert marks.kept is not None
    assert not marks.kept[88:].any()


@pytest.mark.parametrize("shape", [(28, 28), (1, 2**16), (512, 512)])
def test_as_many_marks_as_a_picture_can_hold_are_told_apart(shape: tuple[int, int]) -> None:
    levels = np.zeros(shape, np.uint8)
    levels[::2, ::2] = 255
    marks = find_components(ink(levels))
    assert len(marks.boxes) == np.count_nonzero(levels)
    assert marks.kept is not None
    np.testing.assert_array_equal(marks.kept, levels)


def test_what_noise_may_show_by_itself_is_no_mark() -> None:
    noise = np.random.default_rng(0).normal(0, 20, (100, 100)).clip(0, 255).astype(np.uint8)
    with pytest.raises(ImageError, match="nothing is drawn"):
        find_components(ink(noise, noise=20))
    found = find_components(ink(np.maximum(noise, drawn((30, 70, 40, 50))), noise=20)).box
    assert max(abs(side - expected) for side, expected in zip(found, (40, 30, 50, 70), strict=True)) <= 1


def test_under_uneven_light_what_reaches_in_from_the_edge_is_left_out_beside_a_digit() -> None:
    levels = drawn((30, 70, 40, 50), (0, 20, 60, 100))
    assert find_components(ink(levels, even=False)).box == (40, 30, 50, 70)
    assert find_components(ink(levels)).box == (40, 0, 100, 70)


def test_under_uneven_light_a_mark_at_the_edge_is_kept_if_there_is_no_other() -> None:
    assert find_components(ink(drawn((0, 50, 40, 50)), even=False)).box == (40, 0, 50, 50)


def test_under_uneven_light_weak_remains_of_shadows_are_left_out() -> None:
    levels = np.maximum(drawn((30, 70, 40, 50)), drawn((75, 90, 10, 90), level=90))
    assert find_components(ink(levels, even=False)).box == (40, 30, 50, 70)


@pytest.mark.parametrize(("height", "width"), [(40, 10), (10, 40), (1, 1), (3, 90), (46, 46)])
def test_the_longer_side_is_scaled_to_the_extent_and_the_aspect_kept(height: int, width: int) -> None:
    levels = ink(drawn((5, 5 + height, 5, 5 + width)))
    cut = crop_components(levels, find_components(levels))
    assert max(cut.shape) == EXTENT
    assert cut.shape[0] / cut.shape[1] == pytest.approx(height / width, rel=0.6 if min(height, width) < 5 else 0.05)
    assert cut.max() == 255


@pytest.mark.parametrize("width", [1, 3, 6, 20])
def test_a_thin_stroke_on_a_large_picture_does_not_fade(width: int) -> None:
    levels = ink(drawn((50, 450, 200, 200 + width), (50, 50 + width, 200, 400), side=500))
    cut = crop_components(levels, find_components(levels))
    assert 1 <= (cut[30] > 128).sum() <= 4
    assert cut[30].max() >= 200


def slanted(slant: float, height: int = 46, width: int = 9) -> GrayImage:
    """A bar whose rows lie `slant` pixels further left each."""
    levels = np.zeros((height, width + round(abs(slant) * height)), np.uint8)
    for row in range(height):
        left = round(slant * (height / 2 - row) + (levels.shape[1] - width) / 2)
        levels[row, max(left, 0) : left + width] = 255
    return levels


@pytest.mark.parametrize("slant", [-0.9, -0.3, 0, 0.1, 0.5])
def test_slanted_marks_are_set_upright(slant: float) -> None:
    straight = deslant(slanted(slant))
    assert abs(max(straight.shape) - EXTENT) <= 1
    assert straight.shape[1] == pytest.approx(9, abs=2)
    assert straight[5:-5, 2:-2].min() >= 128


def test_marks_that_lie_are_sheared_no_further_than_the_limit() -> None:
    lying = slanted(0.3, 46, 9).T
    straight = deslant(np.ascontiguousarray(lying))
    assert straight.shape[1] > straight.shape[0]
    assert abs(max(straight.shape) - EXTENT) <= 1


@pytest.mark.parametrize("shape", [(1, 46), (46, 1), (1, 1), (2, 3)])
def test_the_smallest_marks_survive_being_set_upright(shape: tuple[int, int]) -> None:
    assert deslant(np.full(shape, 255, np.uint8)).max() >= 128


def test_a_mark_stays_in_the_frame_however_its_mass_lies() -> None:
    lopsided = np.full((46, 46), 1, np.uint8)
    lopsided[:, :3] = 255
    frame = place_in_frame(lopsided)
    assert np.count_nonzero(frame) == 46 * 46
