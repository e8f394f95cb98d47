"""training/augment.py, styles.py, rounds.py, synthetic_outliers.py: another hand, the same digit; and what is none."""

import numpy as np
import pytest
import torch

from handler.background import crop_page
from handler.preprocessing import to_input
from serving.config import ROOT
from tests.datasets import mnist5k
from tests.pictures import digits
from training.augment import augment_images
from training.augmented_data import AugmentedData
from training.model import load_model
from training.synthetic_digits import STYLED_RATIO, STYLES, draw_digit, replace_some_digits
from training.synthetic_outliers import KINDS, make_outliers
from training.teacher import Teacher

PICTURES = mnist5k().all_training
FRAMES = PICTURES.frames


def gray(count: int) -> torch.Tensor:
    return to_input(FRAMES[:: 5000 // count][:count])[:, :1]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def rounds(count: int = 3, seed: int = 0) -> AugmentedData:
    return AugmentedData(PICTURES.select(np.arange(0, 5000, 100)), count, 20, seed)


def test_pictures_stay_pictures_and_each_is_changed() -> None:
    before = gray(50)
    after = augment_images(before, generator())
    assert after.shape == before.shape == (50, 1, 64, 64)
    assert after.dtype == torch.float32
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    assert all((each - other).abs().max() > 0.1 for each, other in zip(before, after, strict=True))
    assert torch.equal(before, gray(50))


def test_a_round_is_the_same_whenever_it_is_made() -> None:
    first, second = rounds(), rounds()
    second.get_digits(1), second.get_outliers(2)
    assert torch.equal(first.get_digits(0), second.get_digits(0))
    assert torch.equal(first.get_outliers(1), second.get_outliers(1))
    assert not torch.equal(first.get_digits(0), rounds(seed=1).get_digits(0))


@pytest.mark.slow
def test_a_round_is_the_same_whichever_number_of_processes_makes_it() -> None:
    """Of several batches, the last of them shorter; augmentation may round otherwise with other threads."""
    one, two = (AugmentedData(PICTURES.select(np.arange(0, 5000, 25)), 1, 160, 0, processes) for processes in (1, 2))
    for made, expected in ((two.digits(0), one.digits(0)), (two.outliers(0), one.outliers(0))):
        assert made.shape == expected.shape
        differ = (made.short() - expected.short()).abs() > 1
        assert differ.float().mean() < 1e-4


def test_epochs_take_turns_with_the_rounds_and_see_the_images_themselves_without_augmentation() -> None:
    turns = rounds(count=3)
    assert torch.equal(turns.get_digits(1), turns.get_digits(4))
    assert not torch.equal(turns.get_digits(1), turns.get_digits(2))
    np.testing.assert_array_equal(rounds(count=0).get_digits(7).numpy(), FRAMES[::100])


def test_a_round_is_framed_as_serving_frames() -> None:
    for each in rounds().get_digits(0).numpy():
        rows, columns = (np.flatnonzero(each.max(axis) > 20) for axis in (1, 0))
        assert 40 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 46


def test_a_teachers_logits_belong_to_their_round() -> None:
    torch.manual_seed(0)
    teacher = Teacher().eval()
    turns = rounds()
    with torch.inference_mode():
        expected = teacher(to_input(turns.get_digits(2)))
    torch.testing.assert_close(turns.get_teacher_logits(2, teacher), expected)
    assert turns.get_teacher_logits(5, teacher) is turns.get_teacher_logits(2, teacher)


def test_every_kind_of_outlier_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        monkeypatch.setattr("training.synthetic_outliers.KINDS", {kind: 1.0})
        images = make_outliers(FRAMES, 20, np.random.default_rng(0))
        assert images.shape == (20, 64, 64)
        assert len(np.unique(images, axis=0)) == 20, kind


def test_a_patch_of_texture_is_framed_whole_not_as_a_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    patch = np.full((60, 60), 255, np.uint8)
    patch[8:-8:10, 8:-8:10] = 0
    canvas = np.pad(patch, 34)
    assert crop_page(canvas).shape != canvas.shape
    monkeypatch.setattr("training.synthetic_outliers.KINDS", {lambda _frames, _random: canvas: 1.0})
    for frame in make_outliers(FRAMES, 8, np.random.default_rng(0)):
        assert np.count_nonzero(frame > 128) > 0.9 * 46 * 46


def test_the_released_model_still_reads_what_is_augmented() -> None:
    labels = torch.from_numpy(digits()[1][::10])
    changed = AugmentedData(PICTURES.select(np.arange(0, 5000, 10)), 1, 0, 0).get_digits(0)
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(to_input(changed))
    assert float((logits.argmax(1) == labels).float().mean()) >= 0.97


def test_a_share_of_the_digits_that_have_another_style_is_drawn_in_it() -> None:
    before = FRAMES.copy()
    changed = replace_some_digits(FRAMES, PICTURES.labels, np.random.default_rng(0))
    drawn_anew = (changed != FRAMES).any((1, 2))
    assert set(PICTURES.labels[drawn_anew]) == set(STYLES) == {1, 7, 9}
    assert drawn_anew[np.isin(PICTURES.labels, list(STYLES))].mean() == pytest.approx(STYLED_RATIO, abs=0.03)
    np.testing.assert_array_equal(FRAMES, before)


@pytest.mark.parametrize("digit", STYLES)
def test_every_drawing_of_a_style_is_another_and_read_as_its_digit(digit: int) -> None:
    random = np.random.default_rng(5)
    frames = np.stack([draw_digit(digit, random) for _ in range(100)])
    assert len(np.unique(frames, axis=0)) == 100
    with torch.inference_mode():
        read = load_model(ROOT / "scripted_model.pt")(to_input(frames)).argmax(1)
    assert float((read == digit).float().mean()) >= 0.97
