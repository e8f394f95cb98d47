"""evaluation/: what is asked of the model beyond MNIST's own test pictures."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation import corruptions, sets
from evaluation import outlier_sets as outliers
from evaluation.corruptions import CHANGES
from evaluation.outlier_sets import MissingData
from evaluation.synthetic_photos import ASPECTS, DIGIT_SIZES, SHORTER_SIDES, make_photo
from tests.images import digits
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


def test_off_centre_keeps_the_exact_pixels_and_uses_the_whole_frame() -> None:
    greys, _ = some(100)
    moved = corruptions.off_centre(greys, generator())
    assert all(np.array_equal(ink_box(grey), ink_box(frame)) for grey, frame in zip(greys, moved, strict=True))
    centres = [np.mean(np.nonzero(frame), 1) / len(frame) for frame in moved]
    assert np.min(centres) < 0.25
    assert np.max(centres) > 0.75


def test_thin_has_less_ink_thick_more_and_the_others_as_much() -> None:
    greys, _ = some(50)
    ink = greys.mean((1, 2))
    assert (np.mean(corruptions.thin(greys, generator()), (1, 2)) < 0.9 * ink).all()
    assert (np.mean(corruptions.thick(greys, generator()), (1, 2)) > 1.1 * ink).all()
    for change in (corruptions.rotated, corruptions.blurred):
        images = change(greys, generator())
        assert not any(np.array_equal(*pair) for pair in zip(images, greys, strict=True))
        assert np.allclose([image.mean() for image in images], ink, rtol=0.1)


def test_a_photo_is_of_the_promised_size_and_shows_the_digit_it_was_given_darker_than_its_paper() -> None:
    """A photo's brightness is taken as a share of the same sheet's with nothing written on it."""
    for grey, seed in zip(some(PHOTOS)[0], range(PHOTOS), strict=True):
        written, unwritten = (make_photo(each, generator(seed)) for each in (grey, NOTHING))
        image = Image.open(BytesIO(written))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert SHORTER_SIDES[0] <= min(image.size) <= SHORTER_SIDES[1]
        assert max(image.size) / min(image.size) <= ASPECTS[1] + 0.01
        with_ink, without = (cv2.blur(opened(content), (5, 5)) for content in (written, unwritten))
        share = with_ink / np.maximum(without, 1.0)
        ink = share < 0.7
        box = ink_box(np.where(ink, 255, 0).astype(np.uint8))
        size = max(box.shape) / min(ink.shape)
        assert 0.95 * DIGIT_SIZES[0] <= size <= 1.05 * DIGIT_SIZES[1]
        assert np.median(share[ink]) < 0.5
        assert np.median(share[~ink]) == pytest.approx(1, abs=0.03)
        original = ink_box(np.where(grey >= 64, grey, 0).astype(np.uint8))
        seen = cv2.resize(box, original.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.corrcoef(seen.ravel(), original.ravel())[0, 1] > 0.7


def test_letters_leave_out_lookalikes_and_are_light_on_dark() -> None:
    assert not set("BbDgIilOoqSsZz") & set(LETTERS)
    assert len(set(LETTERS)) == 38
    pictures = outliers.letters(generator())
    assert len(pictures) == len(LETTERS) * len(outliers.FONTS) * len(outliers.FONT_SIZES) == 1026
    assert all(picture.max() > 200 and picture.mean() < 100 for picture in pictures)


def test_blank_sheets_have_one_level_noise_no_neighbours_alike_and_textures_contrast() -> None:
    sheets = outliers.blank(generator(), 100)
    assert max(sheet.std() for sheet in sheets) < 2.2
    assert min(sheet.mean() for sheet in sheets) < 30
    assert max(sheet.mean() for sheet in sheets) > 225
    for image in outliers.noise(generator(), 60):
        assert abs(np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]) < 0.2
    assert min(np.ptp(image) for image in outliers.texture(generator(), 60)) >= 59


def test_missing_fashion_names_the_package_that_carries_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outliers, "FASHION", tmp_path / "none.gz")
    with pytest.raises(MissingData, match=r"none\.gz: Fashion-MNIST is not installed; .*dataset-fashion-mnist"):
        sets.fashion_set()


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
    before = greys.copy()
    whole, again = ({sample.name: sample.pictures for sample in sets.digit_sets(greys, labels, 7, 2)} for _ in range(2))
    assert whole == again
    assert whole["photo-like"][0] != whole["photo-like"][1]
    assert np.array_equal(greys, before)
    monkeypatch.setattr(sets, "CHANGES", {"noisy": corruptions.noisy})
    alone = {sample.name: sample.pictures for sample in sets.digit_sets(greys, labels, 7, 1)}
    assert alone["noisy"] == whole["noisy"]
    assert alone["photo-like"] == whole["photo-like"][:1]
    other = {sample.name: sample.pictures for sample in sets.digit_sets(greys, labels, 8, 0)}
    assert other["noisy"] != whole["noisy"]
