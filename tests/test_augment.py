"""training/augment.py, augmented_data.py, synthetic_digits.py, synthetic_outliers.py."""

import numpy as np
import pytest
import torch

from common.models import MODEL_FOLDERS
from handler.background import crop_page
from handler.preprocessing import to_input
from serving.config import ROOT
from tests.datasets import mnist5k
from tests.images import digits
from training.augment import augment_images
from training.augmented_data import AugmentedData
from training.model import DigitCNN, load_model
from training.synthetic_digits import STYLES, draw_digit, replace_some_digits
from training.synthetic_outliers import KINDS, Draw, draw_cut_digit, draw_sideways_digit, make_outliers

IMAGES = mnist5k().all_training
FRAMES = IMAGES.frames


def load_grays(count: int) -> torch.Tensor:
    return to_input(FRAMES[:: 5000 // count][:count])[:, :1]


def make_generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def make_augmented(passes: int = 3, seed: int = 0) -> AugmentedData:
    return AugmentedData(IMAGES.select(np.arange(0, 5000, 100)), passes, 20, seed)


def test_augmentation_changes_every_image_and_keeps_the_range() -> None:
    before = load_grays(50)
    after = augment_images(before, make_generator())
    assert after.shape == before.shape == (50, 1, 64, 64)
    assert after.dtype == torch.float32
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    assert all((first - second).abs().max() > 0.1 for first, second in zip(before, after, strict=True))
    assert torch.equal(before, load_grays(50))


RATIOS = ("STROKE", "SHARPEN", "BLUR", "LOW_RESOLUTION", "NOISE", "GAPS", "LINE", "STEPS")


@pytest.mark.parametrize("name", RATIOS)
def test_every_augmentation_changes_the_images(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but one are switched off; the distortion is the same with and without it."""
    for other in RATIOS:
        monkeypatch.setattr(f"training.augment.{other}_RATIO", 0)
    before = augment_images(load_grays(50), make_generator())
    monkeypatch.setattr(f"training.augment.{name}_RATIO", 1)
    after = augment_images(load_grays(50), make_generator())
    changed = (after - before).abs().amax((1, 2, 3)) > 0.1
    assert changed.float().mean() > 0.7


def test_mildly_augmented_images_stay_nearer_to_the_original() -> None:
    images = IMAGES.select(np.arange(0, 5000, 100))
    full, mild = (AugmentedData(images, 1, 0, 0, mild_ratio=ratio).get_digits(0).float() for ratio in (0, 1))
    changes = [(frames - torch.from_numpy(images.frames)).abs().mean((1, 2)) for frames in (full, mild)]
    assert float(changes[1].min()) > 0
    assert float(changes[1].mean()) < 0.7 * float(changes[0].mean())


def test_augmentation_pass_depends_only_on_number_and_seed() -> None:
    first, second = make_augmented(), make_augmented()
    second.get_digits(1), second.get_outliers(2)
    assert torch.equal(first.get_digits(0), second.get_digits(0))
    assert torch.equal(first.get_outliers(1), second.get_outliers(1))
    assert not torch.equal(first.get_digits(0), make_augmented(seed=1).get_digits(0))


def test_passes_stay_in_memory_only_if_they_are_few_and_epochs_repeat_them() -> None:
    for passes, epochs, is_kept in ((2, 3, True), (2, 2, False), (13, 14, False)):
        data = AugmentedData(IMAGES.select(np.arange(0, 5000, 100)), passes, 20, 0, epochs=epochs)
        digits, outliers = data.get_digits(0), data.get_outliers(0)
        assert data.get_digits(0) is digits
        assert data.get_outliers(0) is outliers
        data.get_digits(1)
        assert (data.get_digits(passes) is digits) == is_kept
        assert torch.equal(data.get_digits(passes), digits)


@pytest.mark.slow
def test_augmentation_pass_does_not_depend_on_the_number_of_processes() -> None:
    """Several tasks, the last one shorter; rounding may differ with the number of threads."""
    one, two = (AugmentedData(IMAGES.select(np.arange(0, 5000, 25)), 1, 160, 0, processes) for processes in (1, 2))
    for made, expected in ((two.get_digits(0), one.get_digits(0)), (two.get_outliers(0), one.get_outliers(0))):
        assert made.shape == expected.shape
        differ = (made.short() - expected.short()).abs() > 1
        assert differ.float().mean() < 1e-4


def test_epochs_cycle_through_passes_and_use_original_frames_without_augmentation() -> None:
    augmented = make_augmented(passes=3)
    assert torch.equal(augmented.get_digits(1), augmented.get_digits(4))
    assert not torch.equal(augmented.get_digits(1), augmented.get_digits(2))
    np.testing.assert_array_equal(make_augmented(passes=0).get_digits(7).numpy(), FRAMES[::100])


def test_augmented_images_are_framed_as_in_serving() -> None:
    for frame in make_augmented().get_digits(0).numpy():
        rows, columns = (np.flatnonzero(frame.max(axis) > 20) for axis in (1, 0))
        assert 40 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 46


def test_teacher_logits_belong_to_their_pass() -> None:
    torch.manual_seed(0)
    teacher = DigitCNN().eval()
    augmented = make_augmented()
    with torch.inference_mode():
        expected = teacher(to_input(augmented.get_digits(2)))
    torch.testing.assert_close(augmented.get_teacher_logits(2, teacher), expected)
    assert augmented.get_teacher_logits(5, teacher) is augmented.get_teacher_logits(2, teacher)


def test_every_kind_of_outlier_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        monkeypatch.setattr("training.synthetic_outliers.KINDS", {kind: 1.0})
        images = make_outliers(FRAMES, 20, np.random.default_rng(0))
        assert images.shape == (20, 64, 64)
        assert len(np.unique(images, axis=0)) == 20, kind


@pytest.mark.parametrize("draw", [draw_cut_digit, draw_sideways_digit])
def test_outlier_is_drawn_though_no_digit_is_suitable(draw: Draw) -> None:
    for digit in (0, 1):
        frames = FRAMES[IMAGES.labels == digit][:1]
        assert draw(frames, np.random.default_rng(0)).any()


def test_texture_is_not_cropped_as_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = np.full((60, 60), 255, np.uint8)
    patch[8:-8:10, 8:-8:10] = 0
    canvas = np.pad(patch, 34)
    assert crop_page(canvas).gray.shape != canvas.shape
    monkeypatch.setattr("training.synthetic_outliers.KINDS", {lambda _frames, _random: canvas: 1.0})
    for frame in make_outliers(FRAMES, 8, np.random.default_rng(0)):
        assert np.count_nonzero(frame > 128) > 0.9 * 46 * 46


def test_shipped_model_classifies_augmented_images() -> None:
    labels = torch.from_numpy(digits()[1][::10])
    frames = AugmentedData(IMAGES.select(np.arange(0, 5000, 10)), 1, 0, 0).get_digits(0)
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input(frames))
    assert float((logits.argmax(1) == labels).float().mean()) >= 0.97


def test_some_digits_are_replaced() -> None:
    before = FRAMES.copy()
    changed = replace_some_digits(FRAMES, IMAGES.labels, 0.2, np.random.default_rng(0))
    is_replaced = (changed != FRAMES).any((1, 2))
    assert is_replaced.mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(FRAMES, before)


@pytest.mark.parametrize(("digit", "style"), [(digit, style) for digit, styles in STYLES.items() for style in styles])
def test_synthetic_digits_differ_and_the_models_classify_them(digit: int, style: str) -> None:
    random = np.random.default_rng(5)
    frames = np.stack([draw_digit(digit, random, style) for _ in range(100)])
    assert len(np.unique(frames, axis=0)) == 100
    for folder in MODEL_FOLDERS.values():
        with torch.inference_mode():
            predicted = load_model(ROOT / folder / "scripted_model.pt")(to_input(frames)).argmax(1)
        assert float((predicted == digit).float().mean()) >= 0.9
