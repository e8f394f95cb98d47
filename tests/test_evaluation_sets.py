"""evaluation/: the image sets beyond MNIST's test images."""

from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from evaluation import corruptions, outlier_images, sets
from evaluation.corruptions import CORRUPTIONS, Images
from evaluation.outlier_images import MissingDatasetError
from evaluation.synthetic_photos import ASPECT_RATIOS, DIGIT_SIZES, SHORTER_SIDES, make_photo
from tests.images import digits
from training.synthetic_outliers import LETTERS

PHOTOS = 10
EMPTY = np.zeros((28, 28), np.uint8)


def take_digits(count: int) -> tuple[Images, NDArray[np.int64]]:
    grays, labels = digits()
    return grays[:: len(grays) // count][:count], labels[:: len(grays) // count][:count]


def make_generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def decode_gray(content: bytes) -> Images:
    return np.asarray(Image.open(BytesIO(content)).convert("L"))


def crop_foreground(gray: Images) -> Images:
    """Remove the black rows and columns around the foreground."""
    rows, columns = (np.flatnonzero(gray.max(axis)) for axis in (1, 0))
    return gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def test_off_centre_keeps_the_pixels_and_uses_the_whole_canvas() -> None:
    grays, _ = take_digits(100)
    moved = corruptions.move_off_center(grays, make_generator())
    assert all(
        np.array_equal(crop_foreground(gray), crop_foreground(frame)) for gray, frame in zip(grays, moved, strict=True)
    )
    centres = [np.mean(np.nonzero(frame), 1) / len(frame) for frame in moved]
    assert np.min(centres) < 0.25
    assert np.max(centres) > 0.75


def test_thin_has_less_foreground_thick_more_and_the_others_as_much() -> None:
    grays, _ = take_digits(50)
    foreground = grays.mean((1, 2))
    assert (np.mean(corruptions.thin_strokes(grays, make_generator()), (1, 2)) < 0.9 * foreground).all()
    assert (np.mean(corruptions.thicken_strokes(grays, make_generator()), (1, 2)) > 1.1 * foreground).all()
    for corrupt in (corruptions.rotate, corruptions.blur):
        images = corrupt(grays, make_generator())
        assert not any(np.array_equal(*pair) for pair in zip(images, grays, strict=True))
        assert np.allclose([image.mean() for image in images], foreground, rtol=0.1)


def test_photo_has_the_promised_size_and_shows_the_digit_darker_than_the_page() -> None:
    """Brightness is measured relative to the same page with nothing written on it."""
    for gray, seed in zip(take_digits(PHOTOS)[0], range(PHOTOS), strict=True):
        written, unwritten = (make_photo(digit, make_generator(seed)) for digit in (gray, EMPTY))
        image = Image.open(BytesIO(written))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert SHORTER_SIDES[0] <= min(image.size) <= SHORTER_SIDES[1]
        assert max(image.size) / min(image.size) <= ASPECT_RATIOS[1] + 0.01
        with_digit, without = (cv2.blur(decode_gray(content), (5, 5)) for content in (written, unwritten))
        ratio = with_digit / np.maximum(without, 1.0)
        stroke = ratio < 0.7
        box = crop_foreground(np.where(stroke, 255, 0).astype(np.uint8))
        size = max(box.shape) / min(stroke.shape)
        assert 0.95 * DIGIT_SIZES[0] <= size <= 1.05 * DIGIT_SIZES[1]
        assert np.median(ratio[stroke]) < 0.5
        assert np.median(ratio[~stroke]) == pytest.approx(1, abs=0.03)
        original = crop_foreground(np.where(gray >= 64, gray, 0).astype(np.uint8))
        resized = cv2.resize(box, original.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.corrcoef(resized.ravel(), original.ravel())[0, 1] > 0.7


def test_letters_exclude_lookalikes_and_are_light_on_dark() -> None:
    assert not set("BbDgIilOoqSsZz") & set(LETTERS)
    assert len(set(LETTERS)) == 38
    images = outlier_images.draw_letters(make_generator())
    assert len(images) == len(LETTERS) * len(outlier_images.FONTS) * len(outlier_images.FONT_SIZES) == 1026
    assert all(image.max() > 200 and image.mean() < 100 for image in images)


def test_blank_images_have_one_level_noise_is_uncorrelated_and_textures_have_contrast() -> None:
    blank = outlier_images.make_blank_images(make_generator(), 100)
    assert max(image.std() for image in blank) < 2.2
    assert min(image.mean() for image in blank) < 30
    assert max(image.mean() for image in blank) > 225
    for image in outlier_images.make_noise_images(make_generator(), 60):
        assert abs(np.corrcoef(image[:, 1:].ravel(), image[:, :-1].ravel())[0, 1]) < 0.2
    assert min(np.ptp(image) for image in outlier_images.make_textures(make_generator(), 60)) >= 59


def test_missing_fashion_mnist_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outlier_images, "FASHION_MNIST", tmp_path / "none.gz")
    with pytest.raises(MissingDatasetError, match=r"none\.gz: Fashion-MNIST is not installed; .*dataset-fashion-mnist"):
        sets.load_fashion_mnist_set()


def test_digit_sets_are_in_order_and_keep_their_labels() -> None:
    grays, labels = take_digits(20)
    image_sets = list(sets.make_digit_sets(grays, labels, 0, 2))
    assert [image_set.name for image_set in image_sets] == ["clean", *CORRUPTIONS, "photo-like"]
    assert [len(image_set.images) for image_set in image_sets] == [20] * 8 + [2]
    for image_set in image_sets[:-1]:
        assert np.array_equal(np.asarray(image_set.labels), labels)
    rows = np.random.default_rng([0, *b"photo-like"]).permutation(20)[:2]
    assert np.array_equal(np.asarray(image_sets[-1].labels), labels[rows])
    assert all(
        np.array_equal(decode_gray(content), gray) for content, gray in zip(image_sets[0].images, grays, strict=True)
    )


def make_images_by_name(digits: Images, labels: NDArray[np.int64], seed: int, photos: int) -> dict[str, list[bytes]]:
    return {image_set.name: image_set.images for image_set in sets.make_digit_sets(digits, labels, seed, photos)}


def test_seed_determines_every_byte_and_no_set_depends_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    grays, labels = take_digits(5)
    before = grays.copy()
    whole, again = (
        {image_set.name: image_set.images for image_set in sets.make_digit_sets(grays, labels, 7, 2)} for _ in range(2)
    )
    assert whole == again
    assert whole["photo-like"][0] != whole["photo-like"][1]
    assert np.array_equal(grays, before)
    monkeypatch.setattr(sets, "CORRUPTIONS", {"noisy": corruptions.add_noise})
    alone = make_images_by_name(grays, labels, 7, 1)
    assert alone["noisy"] == whole["noisy"]
    assert alone["photo-like"] == whole["photo-like"][:1]
    other = make_images_by_name(grays, labels, 8, 0)
    assert other["noisy"] != whole["noisy"]
