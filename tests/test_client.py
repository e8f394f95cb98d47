"""digits_client/client.py against a real server: forms of images, errors, explanations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits_client.client import DigitsClient
from digits_client.encoding import ImageLike
from digits_client.exceptions import ImageFileError
from handler.preprocessing import frame_with_warnings
from tests.images import SMOKE

SEVEN = Path(__file__).parents[1] / "handler" / "smoke" / "7.png"


def make_forms() -> dict[str, ImageLike]:
    gray = np.asarray(Image.open(SEVEN))
    return {
        "path": SEVEN,
        "text": str(SEVEN),
        "bytes": SEVEN.read_bytes(),
        "array": gray,
        "array, dark on light": 255 - gray,
        "array [H,W,3]": np.stack([gray] * 3, 2),
        "array [H,W,4]": np.stack([gray, gray, gray, np.full_like(gray, 255)], 2),
        "array of bool": gray > 100,
        "array of 16 bits": gray.astype(np.uint16) * 257,
        **{mode: Image.open(SEVEN).convert(mode) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK")},
    }


@pytest.mark.parametrize("form", make_forms())
def test_every_form_of_an_image_is_read(form: str, client: DigitsClient) -> None:
    assert client.predict(make_forms()[form]).digit == 7


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "nowhere.png: No such file or directory; expected an image file"),
        (SEVEN.parent, "smoke: Is a directory"),
        (np.zeros((28, 28), np.float32) + 0.5, r"array float32 \[28, 28\]"),
        (np.zeros((2, 2, 2, 2), np.uint8), r"array uint8 \[2, 2, 2, 2\]"),
        (7, "int: "),
    ],
)
def test_invalid_image_is_an_error_that_names_it(image: ImageLike, message: str, client: DigitsClient) -> None:
    with pytest.raises(ImageFileError, match=message):
        client.predict(image)


def test_explanation_has_the_frame_of_its_image(client: DigitsClient) -> None:
    why, why_not = client.explain(SMOKE[7]), client.explain(SMOKE[7], target=3)
    assert (why.digit, why.target, why_not.digit, why_not.target) == (7, 7, 7, 3)
    assert why.framed == frame_with_warnings(SMOKE[7]).frame.tolist()
    assert np.shape(why.attribution) == (64, 64)
    assert np.sum(why.attribution) > 0 > np.sum(why_not.attribution)
