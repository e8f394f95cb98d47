"""Tests of the reading of numbers through the handler, as TorchServe's worker calls it."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from handler.digit_handler import DigitHandler
from tests.handler_calls import JSON, READ, call_handler
from tests.images import SMOKE, encode
from tests.number_images import GAP, crop_digit, draw_number, encode_number


def read_number(handler: DigitHandler, model_dir: Path, image: bytes) -> tuple[int, Any]:
    [(status, response)] = call_handler(handler, model_dir, [{"body": image}], [READ])
    return status, response


def test_number_has_the_fields_of_the_public_api(handler: DigitHandler, model_dir: Path) -> None:
    status, response = read_number(handler, model_dir, encode_number("40271"))
    assert status == 200
    assert list(response) == ["number", "confidence", "accepted", "digits", "warnings", "model_version"]
    assert (response["number"], response["accepted"], response["warnings"]) == ("40271", True, [])
    assert 0.9 < response["confidence"] <= 1
    digit = response["digits"][2]
    assert list(digit) == ["digit", "confidence", "accepted", "probabilities", "box"]
    assert digit["confidence"] == digit["probabilities"][2] == max(digit["probabilities"])
    assert sum(digit["probabilities"]) == pytest.approx(1)


@pytest.mark.parametrize("number", ["7", "10", "0123456789", "5" * 32])
def test_number_of_any_length_is_read(number: str, handler: DigitHandler, model_dir: Path) -> None:
    assert read_number(handler, model_dir, encode_number(number))[1]["number"] == number


@pytest.mark.parametrize("number", ["33", "58", "92", "388"])
def test_touching_digits_are_read(number: str, handler: DigitHandler, model_dir: Path) -> None:
    response = read_number(handler, model_dir, encode_number(number, gap=-2))[1]
    assert response["number"] == number
    right = 8
    for digit, box in zip(number, (digit["box"] for digit in response["digits"]), strict=True):
        right += crop_digit(int(digit)).shape[1] - 2
        assert box[0] + box[2] == pytest.approx(right + 1, abs=3)


def test_over_32_digits_are_an_error(handler: DigitHandler, model_dir: Path) -> None:
    status, error = read_number(handler, model_dir, encode_number("5" * 33))
    assert (status, error["type"]) == (422, "InvalidImage")
    assert "33 digits; expected a number of 1 to 32 digits" in error["message"]


@pytest.mark.parametrize("scale", [1, 9])
def test_boxes_are_in_pixels_of_the_image_as_sent(scale: int, handler: DigitHandler, model_dir: Path) -> None:
    gray = np.kron(draw_number("27", margin=20), np.ones((scale, scale), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated; upright after a quarter turn to the right
    stored = encode(Image.fromarray(np.rot90(gray)), "JPEG", exif=exif, quality=95)
    _, response = read_number(handler, model_dir, stored)
    assert response["number"] == "27"
    widths, heights = zip(*((crop_digit(digit).shape[::-1]) for digit in (2, 7)), strict=True)
    tops = [20 + (max(heights) - height) // 2 for height in heights]
    expected = [[20, tops[0], widths[0], heights[0]], [20 + widths[0] + GAP, tops[1], widths[1], heights[1]]]
    for digit, box in zip(response["digits"], expected, strict=True):
        assert digit["box"] == pytest.approx([scale * side for side in box], abs=2 * scale)


def test_row_of_boxes_is_read_without_its_lines(handler: DigitHandler, model_dir: Path) -> None:
    gray = cv2.resize(draw_number("4711", gap=16, margin=20), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    height, width = gray.shape
    cv2.rectangle(gray, (20, 20), (width - 21, height - 21), 200, 3)
    left = 60
    for digit in (4, 7, 1):
        left += 3 * (crop_digit(digit).shape[1] + 16)
        cv2.line(gray, (left - 24, 20), (left - 24, height - 21), 200, 3)
    _, response = read_number(handler, model_dir, encode(Image.fromarray(255 - gray)))
    assert (response["number"], response["warnings"]) == ("4711", ["inverted", "lines_removed"])


def test_decimal_point_is_left_over_and_the_number_rejected(handler: DigitHandler, model_dir: Path) -> None:
    gray = draw_number("314", gap=12)
    left = 8 + crop_digit(3).shape[1] + 4
    gray[24:28, left : left + 4] = 255
    _, response = read_number(handler, model_dir, encode(Image.fromarray(gray)))
    assert (response["number"], response["accepted"], response["warnings"]) == ("314", False, ["unread_marks"])


def test_several_lines_are_an_error_with_their_boxes(handler: DigitHandler, model_dir: Path) -> None:
    gray = np.concatenate((draw_number("12"), draw_number("12")))
    status, error = read_number(handler, model_dir, encode(Image.fromarray(gray)))
    assert (status, error["code"], error["type"]) == (422, 422, "several_lines")
    assert error["lines"] == [[8, 8, *error["lines"][0][2:]], [8, 8 + len(gray) // 2, *error["lines"][0][2:]]]


def test_blank_image_is_an_error(handler: DigitHandler, model_dir: Path) -> None:
    status, error = read_number(handler, model_dir, encode(Image.new("L", (60, 28))))
    assert (status, error["type"]) == (422, "InvalidImage")


def test_marks_that_can_be_no_digits_are_an_error(handler: DigitHandler, model_dir: Path) -> None:
    gray = np.zeros((70, 160), np.uint8)
    for top in (20, 32, 44):
        gray[top : top + 10, 20:140] = 255
    status, error = read_number(handler, model_dir, encode(Image.fromarray(gray)))
    assert (status, error["message"][:26]) == (422, "the image shows no digits;")


def test_image_of_one_row_is_no_internal_error(handler: DigitHandler, model_dir: Path) -> None:
    gray = np.zeros((1, 512), np.uint8)
    gray[:, ::4] = 255
    assert read_number(handler, model_dir, encode(Image.fromarray(gray)))[0] in (200, 422)


def test_batch_request_reads_numbers_and_errors_alone(handler: DigitHandler, model_dir: Path) -> None:
    images = [encode_number("12"), b"", encode_number("345")]
    body = json.dumps({"read": "number", "instances": [{"b64": b64encode(image).decode()} for image in images]})
    rows = [{"body": body.encode()}, {"body": SMOKE[7]}]
    [(_, numbers), (_, digit)] = call_handler(handler, model_dir, rows, [JSON, {}])
    results = [result.get("number", result.get("code")) for result in numbers["predictions"]]
    assert results == ["12", 400, "345"]
    assert digit["digit"] == 7
