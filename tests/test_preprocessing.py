"""handler/preprocessing.py: any picture of a digit becomes MNIST's geometry, and says what was odd about it."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import affine_transform, center_of_mass

from handler.decoding import GrayImage
from handler.marks import CENTRE, EXTENT
from handler.preprocessing import ImageError, frame, frame_gray, frame_gray_with_warnings, to_input
from tests.pictures import SEVEN, SMOKE, digits

SEVEN_GREY = np.asarray(SEVEN)


def large(grey: GrayImage, side: int = 300) -> GrayImage:
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC))


def on_paper(grey: GrayImage, paper: NDArray[np.float64] | float, noise: float = 3) -> GrayImage:
    """Written with a pen that reflects a fifth of the light, on lit paper."""
    seen = paper * (1 - 0.8 * grey / 255) + np.random.default_rng(0).normal(0, noise, grey.shape)
    return seen.clip(0, 255).astype(np.uint8)


def difference(first: GrayImage, second: GrayImage) -> float:
    """Mean difference in grey levels where either shows ink."""
    ink = (first > 0) | (second > 0)
    return float(np.abs(first.astype(int) - second.astype(int))[ink].mean())


def test_the_longer_side_fills_20_of_28_and_the_centre_of_mass_is_in_the_middle() -> None:
    for grey in digits()[0][::50]:
        framed = frame_gray(grey)
        rows, columns = (np.flatnonzero(framed.max(axis)) for axis in (1, 0))
        sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert EXTENT - 2 <= max(sides) <= EXTENT == 46
        assert framed.shape == (64, 64)
        for centre, lines in zip(center_of_mass(framed), (rows, columns), strict=True):
            assert abs(centre - CENTRE) <= 0.51 or lines[0] == 0 or lines[-1] == 63


def test_mnists_own_digits_stay_nearly_as_they_are_but_for_their_slant() -> None:
    """Beside an oracle, the plain resize deslanted by scipy: MNIST is in its own geometry already."""
    alike = []
    for grey in digits()[0][::50]:
        plain = np.asarray(Image.fromarray(grey).resize((64, 64), Image.Resampling.BILINEAR)).astype(float)
        alike.append(np.corrcoef(deslanted(plain).ravel(), frame_gray(grey).astype(float).ravel())[0, 1])
    assert np.median(alike) >= 0.95


def deslanted(plain: NDArray[np.float64]) -> NDArray[np.float64]:
    middle = np.array(center_of_mass(plain))
    rows, columns = np.indices(plain.shape) - middle[:, None, None]
    shear = np.array(((1, 0), ((plain * rows * columns).sum() / (plain * rows**2).sum(), 1)))
    return np.asarray(affine_transform(plain, shear, middle - shear @ middle, order=1))


SAME: dict[str, Callable[[GrayImage], GrayImage]] = {
    "inverted": lambda grey: 255 - grey,
    "faint": lambda grey: (120 + grey * 0.2).astype(np.uint8),
    "in a corner of a large frame": lambda grey: np.pad(grey, ((100, 3), (5, 120))),
    "cropped to its ink": lambda grey: grey[grey.any(1)][:, grey.any(0)],
    "with specks": lambda grey: np.pad(grey, 20) | _specks((68, 68)),
    "enlarged": large,
    "enlarged and cropped": lambda grey: large(grey)[large(grey).any(1)][:, large(grey).any(0)],
    "pen on paper": lambda grey: on_paper(large(grey), 220),
    "pen on unevenly lit paper": lambda grey: on_paper(large(grey), np.linspace(90, 240, 300) * np.ones((300, 1))),
    "pen on paper under a shadow's edge": lambda grey: on_paper(large(grey), np.where(_slope() > 40, 220.0, 130.0)),
    "chalk on a board": lambda grey: 255 - on_paper(large(grey), np.linspace(180, 240, 300) * np.ones((300, 1))),
    "a sheet on a dark table": lambda grey: _on_table(on_paper(large(grey), 225)),
    "a photo of 9 million pixels": lambda grey: on_paper(large(grey, 3000), 220),
}


def _specks(shape: tuple[int, int]) -> GrayImage:
    specks = np.zeros(shape, np.uint8)
    specks[[2, 40, 65], [60, 3, 64]] = 255
    return specks


def _slope() -> NDArray[np.int64]:
    rows, columns = np.mgrid[:300, :300]
    return np.asarray(rows - columns)


def _on_table(paper: GrayImage) -> GrayImage:
    table = on_paper(np.zeros((420, 500), np.uint8), 60)
    table[60:360, 90:390] = paper
    return table


@pytest.mark.parametrize("way", SAME)
def test_the_same_digit_gives_nearly_the_same_frame_however_it_comes(way: str) -> None:
    for grey in digits()[0][7::500]:
        assert difference(frame_gray(SAME[way](grey)), frame_gray(grey)) <= 45


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(("side", "alike"), [(8, 0.8), (12, 0.9), (20, 0.95)])
def test_a_digit_that_fills_a_tiny_picture_is_framed_like_any_other(side: int, alike: float, inverted: bool) -> None:
    found = []
    for grey in digits()[0][::50]:
        cut = grey[grey.max(1) > 60][:, grey.max(0) > 60]
        width, height = (max(1, round(length * side / max(cut.shape))) for length in cut.shape[::-1])
        tiny = np.asarray(Image.fromarray(cut).resize((width, height), Image.Resampling.BOX))
        framed = frame_gray(255 - tiny if inverted else tiny)
        found.append(np.corrcoef(framed.ravel(), frame_gray(grey).ravel())[0, 1])
    assert np.median(found) >= alike


WARNED: dict[str, tuple[GrayImage, set[str]]] = {
    "as MNIST": (SEVEN_GREY, set()),
    "dark on light": (255 - SEVEN_GREY, {"inverted"}),
    "two digits": (np.hstack((SEVEN_GREY, SEVEN_GREY)), {"several_marks"}),
    "pale": ((SEVEN_GREY * 0.15).astype(np.uint8), {"faint"}),
    "cut off": (SEVEN_GREY[:15], {"touches_border"}),
    "tiny": (np.pad(np.asarray(SEVEN.resize((10, 10), Image.Resampling.BOX)), 3), {"low_resolution"}),
    "dark, pale and two": (
        255 - (np.hstack((SEVEN_GREY, SEVEN_GREY)) * 0.15).astype(np.uint8),
        {"inverted", "several_marks", "faint"},
    ),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_is_odd_is_warned_of(case: str) -> None:
    grey, expected = WARNED[case]
    assert set(frame_gray_with_warnings(grey).warnings) == expected


def test_hardly_any_clean_digit_is_warned_of() -> None:
    warned = [grey for grey in digits()[0][::10] if set(frame_gray_with_warnings(grey).warnings) - {"touches_border"}]
    assert len(warned) <= 5


@pytest.mark.parametrize("level", [0, 60, 128, 200, 255])
@pytest.mark.parametrize("side", [1, 8, 28, 64, 65, 500])
@pytest.mark.parametrize("noise", [0, 2])
def test_a_blank_sheet_of_any_level_is_refused(level: int, side: int, noise: float) -> None:
    sheet = level + np.random.default_rng(side).normal(0, noise, (side, side)).round()
    with pytest.raises(ImageError) as refusal:
        frame_gray(sheet.clip(0, 255).astype(np.uint8))
    assert refusal.value.status == 422


def test_a_blank_sheet_under_uneven_light_is_refused() -> None:
    paper = on_paper(np.zeros((300, 300), np.uint8), np.linspace(120, 240, 300) * np.ones((300, 1)))
    with pytest.raises(ImageError, match="nothing is drawn"):
        frame_gray(paper)


def test_odd_shapes_and_contents_give_a_frame_or_a_refusal() -> None:
    random = np.random.default_rng(0)
    for height in (1, 2, 3, 7, 23, 65, 600):
        for width in (1, 2, 5, 24, 63, 66, 1100):
            for grey in (
                random.integers(0, 256, (height, width), np.uint8),
                np.eye(height, width, dtype=np.uint8) * 200,
            ):
                with suppress(ImageError):
                    framed = frame_gray(grey)
                    assert framed.shape == (64, 64)
                    assert framed.dtype == np.uint8
                    assert framed.max() == 255


def test_input_has_three_equal_channels_in_0_to_1() -> None:
    frames = [frame(SMOKE[3]), frame(SMOKE[8])]
    given = to_input(frames)
    assert given.shape == (2, 3, 64, 64)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given[:, 0], given[:, 2])
    np.testing.assert_array_equal((given[:, 1] * 255).round().numpy(), np.asarray(frames))
