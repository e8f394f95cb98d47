"""handler/request_parser.py: what a row asks for, whatever is sent."""

import json
import time
import tracemalloc
from typing import Any

import pytest

from handler.decoding import MAX_BYTES, ImageError
from handler.protocol import MAX_INSTANCES
from handler.request_parser import MAX_BRACKETS, MAX_COMMAS, parse_request
from tests.handler_calls import EXPLAIN, JSON, make_batch_body
from tests.images import SEVENS


def parse(row: dict[str, Any], headers: dict[str, Any]) -> tuple[str, list[Any]]:
    """Parse a row; returns the kind and each image's bytes or error."""
    request = parse_request(row, headers)
    return request.kind, [image.error or image.content for image in request.images]


def refusal(body: Any, headers: dict[str, Any] | None = None, **fields: bytes) -> tuple[int, str, str]:
    _, [error] = parse({"body": body, **fields}, headers or JSON)
    assert isinstance(error, ImageError)
    return error.status, error.type, error.message


def test_instances_are_pictures_in_order() -> None:
    assert parse({"body": make_batch_body(b"one", b"two")}, JSON) == ("digits", [b"one", b"two"])


def test_content_type_and_accept_are_read_whatever_their_case_and_parameters() -> None:
    assert (
        parse_request({"body": make_batch_body(b"one")}, {"content-TYPE": "Application/JSON; charset=utf-8"}).kind
        == "digits"
    )
    assert parse_request({"body": b"one"}, {"ACCEPT": "text/plain;q=0.9, */*"}).plain
    for accept in ("*/*", "application/json, text/plain, */*", "text/html", "", "text/plainly"):
        assert not parse_request({"body": b"one"}, {"Accept": accept}).plain


def test_json_that_torchserve_has_parsed_is_the_same() -> None:
    assert parse({"body": json.loads(make_batch_body(b"one"))}, JSON) == parse({"body": make_batch_body(b"one")}, JSON)


@pytest.mark.parametrize("form", SEVENS)
def test_a_picture_sent_as_json_is_a_picture(form: str) -> None:
    picture = SEVENS[form]()
    assert parse({"body": picture}, JSON) == ("digit", [picture])


def test_json_without_its_content_type_is_no_json() -> None:
    assert parse_request({"body": make_batch_body(b"one")}, {}).kind == "digit"


def test_json_may_begin_with_a_byte_order_mark() -> None:
    assert parse({"body": b"\xef\xbb\xbf" + make_batch_body(b"one")}, JSON) == ("digits", [b"one"])


def test_a_bad_instance_is_its_own_error_among_the_others() -> None:
    items = [{"b64": "!"}, {"b64": 7}, {}, 3, None, [], {"b64": "ab\u00e9="}, {"b64": "YQ=="}]
    pictures = parse({"body": json.dumps({"instances": items}).encode()}, JSON)[1]
    assert pictures[-1] == b"a"
    errors = [each for each in pictures[:-1] if isinstance(each, ImageError)]
    assert len(errors) == 7
    assert {(each.status, each.type) for each in errors} == {(400, "InvalidImage")}
    assert "b64" in errors[1].message


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "no JSON"),
        (b"{\xff}", 400, "no JSON"),
        (b"", 400, "no JSON"),
        (b"7", 400, 'no list "instances"'),
        (b'{"instances": ' + b"9" * 5000 + b"}", 400, "no JSON"),
        (b'{"instances": {}}', 400, 'no list "instances"'),
        (b'{"pictures": []}', 400, 'no list "instances"'),
        (make_batch_body(*[b""] * (MAX_INSTANCES + 1)), 413, "257 instances; at most 256"),
        (b"[" * (MAX_BRACKETS + 1), 413, "1001 '['; at most 1000"),
        (b'{"a":' * (MAX_BRACKETS + 1), 413, "1001 '{'"),
        (b"[1" + b",1" * (MAX_COMMAS + 1), 413, "10001 ','"),
        (b"[" * MAX_BRACKETS, 400, "nested too deep"),
        (b'{"a":' * MAX_BRACKETS, 400, "nested too deep"),
    ],
)
def test_a_body_that_is_no_bulk_request_is_refused_whole(body: bytes, status: int, told: str) -> None:
    code, kind, message = refusal(body)
    assert (code, kind) == (status, "InvalidRequest")
    assert told in message


def test_as_many_instances_as_allowed_are_read() -> None:
    assert len(parse({"body": make_batch_body(*[b"x"] * MAX_INSTANCES)}, JSON)[1]) == MAX_INSTANCES


def test_a_body_of_the_limit_costs_little() -> None:
    """Whatever 16 MiB of JSON hold, reading them takes a moment and no memory to speak of."""
    for body in (
        b"[" + b"[]," * (MAX_BYTES // 3),
        b'{"instances":[' + b"1," * (MAX_BYTES // 2),
        b'{"' + b"\\u00e9" * 2**21,
    ):
        tracemalloc.start()
        started = time.process_time()
        assert refusal(body)[1] == "InvalidRequest"
        assert time.process_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_BYTES
        tracemalloc.stop()


def test_explanations_are_of_one_picture_and_a_digit() -> None:
    assert parse({"body": b"one"}, EXPLAIN) == ("explanation", [b"one"])
    assert parse_request({"data": b"one", "target": b"3"}, EXPLAIN).target == 3
    assert parse_request({"body": b"one"}, {**EXPLAIN, "X-Target": "0"}).target == 0
    for target in (b"10", b"x", b"", b"-1", b"\xff", "\u0663".encode()):
        assert refusal(b"one", EXPLAIN, target=target)[:2] == (400, "InvalidRequest")
    assert "cannot be explained" in refusal(make_batch_body(b"one"), JSON | EXPLAIN)[2]


def test_what_a_row_is_for_is_torchserves_word_alone() -> None:
    """Fields of forms and queries are among the headers as dicts; other spellings of them are the sender's own."""
    field = {"content-type": ""}
    for headers in (
        {"explain": field},
        {"Explain": "True"},
        {"explain": "False"},
        {"describe": "True"},
        {"accept": field},
    ):
        assert parse({"body": b"one"}, headers) == ("digit", [b"one"])
    assert parse({}, {"describe": "True"}) == ("description", [])
