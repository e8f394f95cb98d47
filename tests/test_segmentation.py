"""Tests of handler/segmentation.py: which components belong to the digit."""

import numpy as np
import pytest

from handler.decoding import GrayImage, ImageError
from handler.segmentation import find_components
from tests.images import draw_boxes, make_foreground


def test_specks_are_left_out_and_a_detached_bar_is_kept() -> None:
    components = find_components(make_foreground(draw_boxes((30, 70, 40, 50), (20, 25, 40, 60), (90, 92, 5, 7))))
    assert components.box == (40, 20, 60, 70)
    assert components.mask is not None
    assert not components.mask[88:].any()


@pytest.mark.parametrize("shape", [(28, 28), (1, 2**16), (512, 512)])
def test_largest_number_of_components_is_found(shape: tuple[int, int]) -> None:
    intensity = np.zeros(shape, np.uint8)
    intensity[::2, ::2] = 255
    components = find_components(make_foreground(intensity))
    assert len(components.boxes) == np.count_nonzero(intensity)
    assert components.mask is not None
    np.testing.assert_array_equal(components.mask, intensity)


def test_noise_is_no_component() -> None:
    noise = np.random.default_rng(0).normal(0, 20, (100, 100)).clip(0, 255).astype(np.uint8)
    with pytest.raises(ImageError, match="nothing is drawn"):
        find_components(make_foreground(noise, noise=20))
    box = find_components(make_foreground(np.maximum(noise, draw_boxes((30, 70, 40, 50))), noise=20)).box
    assert max(abs(side - expected) for side, expected in zip(box, (40, 30, 50, 70), strict=True)) <= 1


def test_component_at_the_edge_is_left_out_beside_a_digit_under_uneven_light() -> None:
    intensity = draw_boxes((30, 70, 40, 50), (0, 20, 60, 100))
    assert find_components(make_foreground(intensity, is_evenly_lit=False)).box == (40, 30, 50, 70)
    assert find_components(make_foreground(intensity)).box == (40, 0, 100, 70)


def test_only_component_at_the_edge_is_kept_under_uneven_light() -> None:
    assert find_components(make_foreground(draw_boxes((0, 50, 40, 50)), is_evenly_lit=False)).box == (40, 0, 50, 50)


def test_weak_remains_of_shadows_are_left_out_under_uneven_light() -> None:
    intensity: GrayImage = np.maximum(draw_boxes((30, 70, 40, 50)), draw_boxes((75, 90, 10, 90), level=90))
    assert find_components(make_foreground(intensity, is_evenly_lit=False)).box == (40, 30, 50, 70)
