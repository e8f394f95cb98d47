"""Tests of handler/request_parser.py: the kind and the images of any request."""

import json
import time
import tracemalloc
from base64 import b64encode
from typing import Any

import pytest

from handler.decoding import MAX_BYTES, ImageError
from handler.protocol import MAX_INSTANCES
from handler.request_parser import MAX_BRACKETS, MAX_COMMAS, parse_request
from tests.handler_calls import EXPLAIN, JSON, READ, make_batch_body
from tests.images import SEVENS, SMOKE

BASE64 = b64encode(SMOKE[7]).decode()


def parse(row: dict[str, Any], headers: dict[str, Any]) -> tuple[str, list[Any]]:
    """Parse a row; return the kind and the images' bytes or errors."""
    request = parse_request(row, headers)
    return request.kind, [image.error or image.content for image in request.images]


def get_error(body: Any, headers: dict[str, Any] | None = None, **fields: bytes) -> tuple[int, str, str]:
    _, [error] = parse({"body": body, **fields}, headers or JSON)
    assert isinstance(error, ImageError)
    return error.status, error.type, error.message


def test_instances_are_images_in_order() -> None:
    assert parse({"body": make_batch_body(b"one", b"two")}, JSON) == ("predict_batch", [b"one", b"two"])


def test_content_type_and_accept_ignore_case_and_parameters() -> None:
    assert (
        parse_request({"body": make_batch_body(b"one")}, {"content-TYPE": "Application/JSON; charset=utf-8"}).kind
        == "predict_batch"
    )
    assert parse_request({"body": b"one"}, {"ACCEPT": "text/plain;q=0.9, */*"}).plain
    for accept in ("*/*", "application/json, text/plain, */*", "text/html", "", "text/plainly"):
        assert not parse_request({"body": b"one"}, {"Accept": accept}).plain


def test_json_that_torchserve_has_parsed_is_the_same() -> None:
    assert parse({"body": json.loads(make_batch_body(b"one"))}, JSON) == parse({"body": make_batch_body(b"one")}, JSON)


@pytest.mark.parametrize("form", SEVENS)
def test_image_with_the_content_type_of_json_is_an_image(form: str) -> None:
    content = SEVENS[form]()
    assert parse({"body": content}, JSON) == ("predict", [content])


def test_json_without_its_content_type_is_an_image() -> None:
    assert parse_request({"body": make_batch_body(b"one")}, {}).kind == "predict"


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert parse({"body": b"\xef\xbb\xbf" + make_batch_body(b"one")}, JSON) == ("predict_batch", [b"one"])


def test_bad_instance_fails_alone() -> None:
    items = [{"b64": "!"}, {"b64": 7}, {}, 3, None, [], {"b64": "ab\u00e9="}, {"b64": "YQ=="}]
    images = parse({"body": json.dumps({"instances": items}).encode()}, JSON)[1]
    assert images[-1] == b"a"
    errors = [error for error in images[:-1] if isinstance(error, ImageError)]
    assert len(errors) == 7
    assert {(error.status, error.type) for error in errors} == {(400, "InvalidImage")}
    assert "b64" in errors[1].message


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"{", 400, "not JSON"),
        (b"{\xff}", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"7", 400, 'no list "instances"'),
        (b'{"instances": ' + b"9" * 5000 + b"}", 400, "not JSON"),
        (b'{"instances": {}}', 400, 'no list "instances"'),
        (b'{"images": []}', 400, 'no list "instances"'),
        (make_batch_body(*[b""] * (MAX_INSTANCES + 1)), 413, "257 instances; at most 256"),
        (b"[" * (MAX_BRACKETS + 1), 413, "1001 '['; at most 1000"),
        (b'{"a":' * (MAX_BRACKETS + 1), 413, "1001 '{'"),
        (b"[1" + b",1" * (MAX_COMMAS + 1), 413, "10001 ','"),
        (b"[" * MAX_BRACKETS, 400, "nested too deeply"),
        (b'{"a":' * MAX_BRACKETS, 400, "nested too deeply"),
    ],
)
def test_invalid_batch_request_gets_one_error(body: bytes, status: int, expected: str) -> None:
    code, kind, message = get_error(body)
    assert (code, kind) == (status, "InvalidRequest")
    assert expected in message


def test_maximum_number_of_instances_is_parsed() -> None:
    assert len(parse({"body": make_batch_body(*[b"x"] * MAX_INSTANCES)}, JSON)[1]) == MAX_INSTANCES


def test_body_of_the_maximum_size_costs_little() -> None:
    """Any 16 MiB of JSON are parsed in less than a second and with little memory."""
    for body in (
        b"[" + b"[]," * (MAX_BYTES // 3),
        b'{"instances":[' + b"1," * (MAX_BYTES // 2),
        b'{"' + b"\\u00e9" * 2**21,
    ):
        tracemalloc.start()
        started = time.process_time()
        assert get_error(body)[1] == "InvalidRequest"
        assert time.process_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_BYTES
        tracemalloc.stop()


@pytest.mark.parametrize("row", [{"body": BASE64}, {"data": BASE64}, {BASE64: ""}], ids=["text", "field", "form"])
def test_base64_text_that_torchserve_has_decoded_is_named(row: dict[str, Any]) -> None:
    _, [error] = parse(row, {})
    assert (error.status, error.type) == (400, "InvalidImage")
    assert error.message.startswith("base64 text; send the image's bytes, ")


def test_explain_request_has_one_image_and_a_target() -> None:
    assert parse({"body": b"one"}, EXPLAIN) == ("explain", [b"one"])
    assert parse_request({"data": b"one", "target": b"3"}, EXPLAIN).target == 3
    assert parse_request({"body": b"one"}, {**EXPLAIN, "X-Target": "0"}).target == 0
    for target in (b"10", b"x", b"", b"-1", b"\xff", "\u0663".encode()):
        assert get_error(b"one", EXPLAIN, target=target)[:2] == (400, "InvalidRequest")
    assert "cannot be explained" in get_error(make_batch_body(b"one"), JSON | EXPLAIN)[2]


def test_only_torchserve_sets_the_kind_of_a_request() -> None:
    """Form fields and query parameters are among the headers as dicts; other spellings come from the caller."""
    field = {"content-type": ""}
    for headers in (
        {"explain": field},
        {"Explain": "True"},
        {"explain": "False"},
        {"describe": "True"},
        {"accept": field},
    ):
        assert parse({"body": b"one"}, headers) == ("predict", [b"one"])
    assert parse({}, {"describe": "True"}) == ("describe", [])


@pytest.mark.parametrize("name", ["X-Digits-Read", "x-digits-read"])
def test_header_demands_a_number(name: str) -> None:
    request = parse_request({"body": SMOKE[7]}, {name: "number"})
    assert request.kind == "read_number"
    assert [image.reads_number for image in request.images] == [True]


def test_batch_reads_numbers_by_its_json() -> None:
    body = json.dumps({"read": "number", "instances": [{"b64": BASE64}]}).encode()
    request = parse_request({"body": body}, JSON)
    assert (request.kind, request.images[0].reads_number) == ("predict_batch", True)
    assert get_error(body, JSON | READ)[2].startswith("X-Digits-Read is for one image; a batch request is {")


def test_other_values_of_read_are_invalid() -> None:
    body = json.dumps({"read": 7, "instances": []}).encode()
    assert get_error(body) == (
        400,
        "InvalidRequest",
        "the request reads 7; expected 'number', or nothing for one digit",
    )
    assert get_error(SMOKE[7], {"X-Digits-Read": "word"})[2].startswith("the request reads 'word'; expected")
    assert "cannot be explained" in get_error(SMOKE[7], EXPLAIN | READ)[2]
