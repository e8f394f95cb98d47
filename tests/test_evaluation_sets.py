"""evaluation/: what is asked of the model beyond MNIST's own test pictures."""

from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from evaluation import changed, sets
from evaluation import outlier_sets as outliers
from evaluation.changed import CHANGES
from evaluation.outlier_sets import MissingData
from evaluation.photo import ASPECTS, DIGIT_SIZES, SHORTER_SIDES, photo
from tests.pictures import digits
from training.synthetic_outliers import LETTERS

Picture = NDArray[np.uint8]

PHOTOS = 10
NOTHING = np.zeros((28, 28), np.uint8)


def some(count: int) -> tuple[Picture, NDArray[np.int64]]:
    greys, labels = digits()
    return greys[:: len(greys) // count][:count], labels[:: len(greys) // count][:count]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def opened(content: bytes) -> Picture:
    return np.asarray(Image.open(BytesIO(content)).convert("L"))


def ink_box(grey: Picture) -> Picture:
    """The picture without the black rows and columns around its ink."""
    rows, columns = (np.flatnonzero(grey.max(axis)) for axis in (1, 0))
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_fixed_by_its_generator_and_leaves_its_input_alone(name: str) -> None:
    greys, _ = some(20)
    before = greys.copy()
    first, again = (CHANGES[name](greys, generator(3)) for _ in range(2))
    assert len(first) == 20
    assert {picture.dtype for picture in first} == {np.dtype(np.uint8)}
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert np.array_equal(greys, before)


def test_inverted_twice_is_the_picture() -> None:
    greys, _ = some(10)
    once = np.stack(changed.inverted(greys, generator()))
    assert np.array_equal(changed.inverted(once, generator()), greys)


def test_off_centre_keeps_the_exact_pixels_and_uses_the_whole_frame() -> None:
    greys, _ = some(100)
    moved = changed.off_centre(greys, generator())
    assert all(np.array_equal(ink_box(grey), ink_box(frame)) for grey, frame in zip(greys, moved, strict=True))
    sides = {frame.shape[0] for frame in moved}
    assert {frame.shape[1] for frame in moved} == sides
    assert min(sides) >= 56
    assert max(sides) <= 140
    centres = [np.mean(np.nonzero(frame), 1) / len(frame) for frame in moved]
    assert np.min(centres) < 0.25
    assert np.max(centres) > 0.75


def test_thin_has_less_ink_and_thick_more() -> None:
    greys, _ = some(50)
    thin, thick = (np.mean(change(greys, generator()), (1, 2)) for change in (changed.thin, changed.thick))
    assert (thin < 0.9 * greys.mean((1, 2))).all()
    assert (thick > 1.1 * greys.mean((1, 2))).all()


def test_rotated_keeps_the_ink_and_by_no_angle_is_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    greys, _ = some(50)
    turned = changed.rotated(greys, generator())
    assert not any(np.array_equal(*pair) for pair in zip(turned, greys, strict=True))
    assert np.allclose([picture.mean() for picture in turned], greys.mean((1, 2)), rtol=0.1)
    monkeypatch.setattr(changed, "MOST_TURN", 0.0)
    assert np.array_equal(changed.rotated(greys, generator()), greys)


def test_blurred_keeps_the_ink_and_loses_the_edges() -> None:
    greys, _ = some(50)
    soft = np.stack(changed.blurred(greys, generator()))
    assert np.allclose(soft.mean((1, 2)), greys.mean((1, 2)), rtol=0.02)
    assert np.abs(np.diff(soft.astype(int))).max() < 0.6 * np.abs(np.diff(greys.astype(int))).max()


def test_noisy_adds_forty_grey_levels() -> None:
    flat = np.full((20, 28, 28), 128, np.uint8)
    assert np.std(changed.noisy(flat, generator())) == pytest.approx(40, abs=1)


def test_photos_are_fixed_by_their_generator_and_no_two_are_alike() -> None:
    grey = some(1)[0][0]
    assert photo(grey, generator(1)) == photo(grey, generator(1))
    random = generator(1)
    assert photo(grey, random) != photo(grey, random)


def test_photos_are_of_the_promised_kind_size_and_colour() -> None:
    for grey, random in zip(some(PHOTOS)[0], map(generator, range(PHOTOS)), strict=True):
        picture = Image.open(BytesIO(photo(grey, random)))
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
        assert SHORTER_SIDES[0] <= min(picture.size) <= SHORTER_SIDES[1]
        assert max(picture.size) / min(picture.size) <= ASPECTS[1] + 0.01


def written() -> Iterator[tuple[Picture, NDArray[np.float64]]]:
    """MNIST pictures and, for each, its photo's brightness as a share of the same sheet's unwritten."""
    for grey, seed in zip(some(PHOTOS)[0], range(PHOTOS), strict=True):
        with_ink, without = (cv2.blur(opened(photo(each, generator(seed))), (5, 5)) for each in (grey, NOTHING))
        yield grey, with_ink / np.maximum(without, 1.0)


def test_the_digit_is_darker_than_its_paper_and_of_the_promised_size() -> None:
    for _, share in written():
        ink = share < 0.7
        box = ink_box(ink.astype(np.uint8))
        size = max(box.shape) / min(ink.shape)
        assert 0.95 * DIGIT_SIZES[0] <= size <= 1.05 * DIGIT_SIZES[1]
        assert np.median(share[ink]) < 0.5
        assert np.median(share[~ink]) == pytest.approx(1, abs=0.03)


def test_a_photo_shows_the_digit_it_was_given() -> None:
    for grey, share in written():
        original = ink_box(np.where(grey >= 64, grey, 0).astype(np.uint8))
        box = ink_box(np.where(share < 0.7, 255, 0).astype(np.uint8))
        seen = cv2.resize(box, original.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.corrcoef(seen.ravel(), original.ravel())[0, 1] > 0.7


def test_letters_leave_out_what_looks_like_a_digit() -> None:
    assert not set("BbDgIilOoqSsZz") & set(LETTERS)
    assert len(set(LETTERS)) == 38


@pytest.mark.parametrize("name", outliers.FONTS)
def test_every_font_has_every_letter(name: str) -> None:
    font = ImageFont.truetype(outliers.FONT_FOLDER / f"{name}.ttf", 60)
    drawn = {bytes(font.getmask(letter)) for letter in LETTERS}
    assert len(drawn) == len(LETTERS)
    assert bytes(font.getmask("\uffff")) not in drawn


def test_letters_are_light_on_dark_and_whole() -> None:
    pictures = outliers.letters(generator())
    assert len(pictures) == len(LETTERS) * len(outliers.FONTS) * len(outliers.FONT_SIZES) == 1026
    assert all(picture.max() > 200 and picture.mean() < 100 for picture in pictures)
    font = ImageFont.truetype(outliers.FONT_FOLDER / "DejaVuSans.ttf", 600)
    for letter, picture in zip(LETTERS, pictures, strict=False):  # the first are of the first font
        height, width = ink_box(picture).shape
        left, top, right, bottom = font.getmask(letter).getbbox()
        assert width == pytest.approx(height * (right - left) / (bottom - top), abs=3)  # pixels


def test_blank_sheets_have_one_level() -> None:
    sheets = outliers.blank(generator(), 100)
    assert max(sheet.std() for sheet in sheets) < 2.2
    levels = [sheet.mean() for sheet in sheets]
    assert min(levels) < 30
    assert max(levels) > 225
    assert {side for sheet in sheets for side in sheet.shape} <= set(range(28, 401))


def test_noise_has_no_neighbours_alike() -> None:
    for picture in outliers.noise(generator(), 60):
        assert abs(np.corrcoef(picture[:, 1:].ravel(), picture[:, :-1].ravel())[0, 1]) < 0.2
        assert 28 <= min(picture.shape) <= max(picture.shape) <= 200


def test_textures_have_contrast_and_every_kind_comes() -> None:
    pictures = outliers.texture(generator(), 60)
    assert len(pictures) == 60
    assert len(outliers.TEXTURES) == 6
    assert min(np.ptp(picture) for picture in pictures) >= 59
    assert {side for picture in pictures for side in picture.shape} <= set(range(28, 201))


def test_missing_fashion_names_the_package_that_carries_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outliers, "FASHION", tmp_path / "none.gz")
    with pytest.raises(MissingData, match=r"none\.gz: Fashion-MNIST is not installed; .*dataset-fashion-mnist"):
        sets.fashion_set()


@pytest.mark.skipif(not outliers.FASHION.exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_is_whole() -> None:
    pictures = outliers.fashion()
    assert pictures.shape == (10_000, 28, 28)
    assert pictures.mean() == pytest.approx(255 * 0.2868, abs=0.2)  # the test pictures' mean, widely published


def test_a_png_keeps_every_pixel() -> None:
    grey = generator().integers(0, 256, (9, 17), np.uint8)
    assert np.array_equal(opened(sets.png(grey)), grey)


def test_digit_sets_come_in_order_and_with_their_labels() -> None:
    greys, labels = some(20)
    samples = list(sets.digit_sets(greys, labels, 0, 2))
    assert [sample.name for sample in samples] == ["clean", *CHANGES, "photo-like"]
    assert [len(sample.pictures) for sample in samples] == [20] * 8 + [2]
    for sample in samples[:-1]:
        assert np.array_equal(np.asarray(sample.labels), labels)
    rows = np.random.default_rng([0, *b"photo-like"]).permutation(20)[:2]
    assert np.array_equal(np.asarray(samples[-1].labels), labels[rows])
    assert all(np.array_equal(opened(content), grey) for content, grey in zip(samples[0].pictures, greys, strict=True))


def test_the_seed_fixes_every_byte_and_no_set_depends_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    greys, labels = some(5)
    whole = {sample.name: sample.pictures for sample in sets.digit_sets(greys, labels, 7, 2)}
    monkeypatch.setattr(sets, "CHANGES", {"noisy": changed.noisy})
    alone = {sample.name: sample.pictures for sample in sets.digit_sets(greys, labels, 7, 1)}
    assert alone["noisy"] == whole["noisy"]
    assert alone["photo-like"] == whole["photo-like"][:1]
    other = {sample.name: sample.pictures for sample in islice(sets.digit_sets(greys, labels, 8, 0), 2)}
    assert other["noisy"] != whole["noisy"]


def test_scikit_learn_digits_fill_the_grey_scale() -> None:
    sample = sets.scikit_learn_digits()
    assert len(sample.pictures) == 1797
    assert np.array_equal(np.unique(np.asarray(sample.labels)), np.arange(10))
    first = opened(sample.pictures[0])
    assert first.shape == (8, 8)
    assert first[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]  # 5, 13, 9, 1 of 16


def test_outlier_sets_are_fixed_by_their_seed_and_have_no_labels() -> None:
    first, again = ([(sample.name, sample.pictures) for sample in sets.outlier_sets(0, 12)] for _ in range(2))
    assert first == again
    assert [(name, len(pictures)) for name, pictures in first] == [
        ("letters", 1026),
        ("blank", 12),
        ("noise", 12),
        ("texture", 12),
    ]
    assert {sample.labels for sample in sets.outlier_sets(0, 1)} == {None}
