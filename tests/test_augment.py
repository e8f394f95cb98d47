"""training/augment.py: another hand, the same digit."""

import torch
from torchvision.transforms.functional import InterpolationMode, affine

from handler.preprocessing import to_input
from serving.config import ROOT
from tests.pictures import digits
from training import augment as module
from training.augment import augment
from training.data import load_data
from training.model import load_model


def grey(count: int) -> torch.Tensor:
    return to_input(load_data("mnist5k").train.frames[:: 4580 // count][:count])[:, :1]


def test_pictures_stay_pictures_and_each_is_changed() -> None:
    before = grey(50)
    after = augment(before)
    assert after.shape == before.shape == (50, 1, 64, 64)
    assert after.dtype == torch.float32
    assert float(after.min()) >= 0
    assert float(after.max()) <= 1
    assert all((each - other).abs().max() > 0.1 for each, other in zip(before, after, strict=True))


def test_the_seed_fixes_what_is_drawn() -> None:
    pictures = grey(5)
    torch.manual_seed(3)
    first = augment(pictures)
    torch.manual_seed(3)
    assert torch.equal(first, augment(pictures))
    assert not torch.equal(first, augment(pictures))


def test_no_change_drawn_is_the_identity(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5))
    pictures = grey(5)
    torch.testing.assert_close(augment(pictures), pictures, atol=1e-4, rtol=0)


def test_a_shift_is_torchvisions(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def right_only(*shape: int, **_: object) -> torch.Tensor:
        drawn = torch.full(shape, 0.5)
        drawn[4] = 1.0
        return drawn

    monkeypatch.setattr(torch, "rand", right_only)
    pictures = grey(5)
    pixels = module.SHIFT * 64
    assert pixels == 3
    expected = affine(pictures, 0, [-3, 0], 1, [0.0], interpolation=InterpolationMode.BILINEAR)
    torch.testing.assert_close(augment(pictures), expected, atol=1e-4, rtol=0)


def test_the_released_model_still_reads_them() -> None:
    torch.manual_seed(0)
    greys, labels = digits()
    assert len(greys) == 5000
    frames = load_data("mnist5k").all_training.frames[::10]
    with torch.inference_mode():
        logits = load_model(ROOT / "scripted_model.pt")(augment(to_input(frames)[:, :1]).expand(-1, 3, -1, -1))
    assert float((logits.argmax(1) == torch.from_numpy(labels[::10])).float().mean()) >= 0.97
