"""handler/preprocessing.py: pictures in every form become the same frame, what is none is refused."""

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from handler.preprocessing import MAX_BYTES, ImageError, decode, frame, frame_grey, ink_on_black, to_input
from tests.pictures import SEVEN, SEVENS, SMOKE, Bad, bad_pictures, digits, encode

RAW = {name: bad for name, bad in bad_pictures().items() if bad.request is None}


def test_frame_equals_torchvisions_resize_on_mnist() -> None:
    oracle = transforms.Compose([transforms.Resize((64, 64)), transforms.Grayscale(3), transforms.ToTensor()])
    for grey in digits()[0][::100]:
        expected = oracle(Image.fromarray(grey))
        torch.testing.assert_close(to_input([frame(encode(Image.fromarray(grey)))])[0], expected)


def test_bytes_and_array_give_the_same_frame() -> None:
    grey = np.asarray(SEVEN)
    np.testing.assert_array_equal(frame(SMOKE[7]), frame_grey(grey))


@pytest.mark.parametrize("form", SEVENS)
def test_every_form_gives_the_same_frame(form: str) -> None:
    difference = np.abs(frame(SEVENS[form]()).astype(int) - frame(SMOKE[7]).astype(int))
    assert difference.mean() <= (20 if form == "1-bit png" else 8)


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_picture_is_refused_with_its_status(name: str) -> None:
    bad: Bad = RAW[name]
    with pytest.raises(ImageError) as refusal:
        frame(bad.body)
    assert refusal.value.status == bad.status
    assert "expected" in refusal.value.message or "accepted" in refusal.value.message or "read" in refusal.value.message


def test_more_bytes_than_the_limit_are_refused_unread() -> None:
    with pytest.raises(ImageError) as refusal:
        decode(SMOKE[7] + bytes(MAX_BYTES))
    assert refusal.value.status == 413


def test_only_the_formats_of_the_contract_are_opened() -> None:
    with pytest.raises(ImageError, match="expected PNG, JPEG, GIF, BMP, WEBP or TIFF"):
        frame(encode(SEVEN, "PPM"))


@pytest.mark.parametrize(
    "image",
    [
        lambda: Image.new("L", (1, 49_000_000), 0),
        lambda: Image.new("L", (49_000_000, 1), 0),
        lambda: Image.new("RGBA", (7000, 7000), (0, 0, 0, 0)),
        lambda: Image.fromarray(np.zeros((7000, 7000), np.uint16)),
    ],
    ids=["column", "row", "rgba", "16-bit"],
)
def test_a_picture_of_nearly_the_limit_takes_seconds_at_most(image: Callable[[], Image.Image]) -> None:
    """A batch holds 16 of them, one worker has 60 s for it."""
    content = encode(image())
    started = time.process_time()
    with pytest.raises(ImageError, match="nothing is drawn"):
        frame(content)
    assert time.process_time() - started <= 3


def test_background_is_subtracted_whichever_its_level() -> None:
    ink = np.zeros((64, 64), np.uint8)
    ink[20:40, 30:34] = 100
    np.testing.assert_array_equal(ink_on_black(ink + 50), ink)
    np.testing.assert_array_equal(ink_on_black(240 - ink), ink)


def test_input_has_three_equal_channels_in_0_to_1() -> None:
    frames = [frame(SMOKE[3]), frame(SMOKE[8])]
    given = to_input(frames)
    assert given.shape == (2, 3, 64, 64)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given[:, 0], given[:, 2])
    np.testing.assert_array_equal((given[:, 1] * 255).round().numpy(), np.asarray(frames))
