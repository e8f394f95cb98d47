"""handler/decoding.py: what is no picture is refused, whatever it claims to be, and a large one is read reduced."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from handler.decoding import LARGE, MAX_BYTES, ImageError, decode
from handler.preprocessing import frame
from tests.pictures import SEVEN, SEVENS, SMOKE, Bad, bad_pictures, encode

RAW = {name: bad for name, bad in bad_pictures().items() if bad.request is None}


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


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_large_picture_is_read_reduced_with_its_aspect(kind: str, mode: str) -> None:
    grey = decode(encode(SEVEN.convert(mode).resize((4000, 3000)), kind))
    assert LARGE <= max(grey.shape) < 2 * LARGE
    assert grey.shape[1] / grey.shape[0] == pytest.approx(4 / 3, rel=0.01)


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
