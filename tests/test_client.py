"""digits_client/client.py against a real server: forms of images, errors, explanations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits_client.client import DigitsClient
from digits_client.encoding import ImageLike
from digits_client.exceptions import ApiError, ImageFileError
from handler.preprocessing import frame_with_warnings
from tests.images import SMOKE, encode
from tests.number_images import draw_number, encode_number

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


def test_number_is_read_alone_and_in_batches(client: DigitsClient) -> None:
    number = client.read_number(encode_number("40271"))
    assert (number.number, number.accepted) == ("40271", True)
    assert [digit.digit for digit in number.digits] == [4, 0, 2, 7, 1]
    assert number.digits[0].box[:2] == (8, 8)
    results = list(client.read_numbers([encode_number("12"), b"", encode_number("345")]))
    assert [getattr(result, "number", None) for result in results] == ["12", None, "345"]


def test_several_lines_are_an_error_of_their_own_image(client: DigitsClient) -> None:
    lines = encode(Image.fromarray(np.concatenate((draw_number("12"), draw_number("12")))))
    with pytest.raises(ApiError, match="422 several_lines: the image shows 2 lines") as caught:
        client.read_number(lines)
    assert caught.value.is_about_image


def test_explanation_has_the_frame_of_its_image(client: DigitsClient) -> None:
    why, why_not = client.explain(SMOKE[7]), client.explain(SMOKE[7], target=3)
    assert (why.digit, why.target, why_not.digit, why_not.target) == (7, 7, 7, 3)
    assert why.framed == frame_with_warnings(SMOKE[7]).frame.tolist()
    assert np.shape(why.attribution) == (64, 64)
    assert np.sum(why.attribution) > 0 > np.sum(why_not.attribution)
