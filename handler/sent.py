"""What a row of TorchServe's batch asks for, by its headers and fields: a digit, many, a reason, a description."""

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, NamedTuple

from handler.decoding import ImageError

MAX_ITEMS = 256  # pictures in one JSON body
MAX_BRACKETS = 1_000  # of a JSON body, in strings too: neither deep nor wide bodies cost more than their bytes
MAX_COMMAS = 10_000
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"RIFF", b"II", b"MM")  # no JSON begins like a picture

Row = dict[str, Any]  # field -> what was sent in it; a raw body is the field "body"
Headers = Mapping[str, Any]  # as sent; fields of forms and queries are among them, as dicts


class RequestError(ImageError):
    """A request that cannot be answered whatever its pictures are."""

    type = "InvalidRequest"
    reason = "invalid_request"


class LateError(ImageError):
    """A picture that was not looked at, because those before it took all the time there is."""

    type = "DeadlineExceeded"
    reason = "late"


class InternalError(ImageError):
    """A picture that was not answered, through no fault of its sender's."""

    type = "InternalServerException"  # as TorchServe calls it
    reason = "internal_error"


class Sent(NamedTuple):
    """`kind` is digit, digits, explanation or description; `pictures` are files' bytes, or why they are none."""

    kind: str
    pictures: list[bytes | ImageError]
    plain: bool = False  # the bare digit is wanted, as text
    target: int | None = None  # the digit to be explained


def read(row: Row, headers: Headers) -> Sent:
    """What the row asks for; RequestError or ImageError if that cannot be told."""
    if headers.get("describe") == "True" and not row:  # TorchServe's management API sends neither field nor body
        return Sent("description", [])
    explain = headers.get("explain") == "True"  # TorchServe's, last and so valid, whatever else was sent
    named = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    if _is_json(row.get("body"), named.get("content-type", "")):
        if explain:
            raise RequestError(400, "JSON with many pictures cannot be explained; send one picture as the raw body")
        return Sent("digits", _instances(row["body"]))
    if explain:
        return Sent("explanation", [_picture(row)], target=_target(row.get("target", named.get("x-target"))))
    return Sent("digit", [_picture(row)], plain=_media_type(named.get("accept", "")) == "text/plain")


def _media_type(header: str) -> str:
    """The first one of a header, without parameters."""
    return header.partition(",")[0].partition(";")[0].strip().lower()


def _is_json(body: Any, content_type: str) -> bool:
    """By its Content-Type, unless it is a picture all the same; a dict is JSON that TorchServe has read already."""
    if _media_type(content_type) != "application/json":
        return False
    return isinstance(body, dict) or (isinstance(body, bytes | bytearray) and not body.startswith(SIGNATURES))


def _instances(body: bytes | bytearray | dict[str, Any]) -> list[bytes | ImageError]:
    sent = body if isinstance(body, dict) else _parsed(body)
    instances = sent.get("instances") if isinstance(sent, dict) else None
    if not isinstance(instances, list):
        raise RequestError(400, 'the JSON has no list "instances"; expected {"instances": [{"b64": "…"}, …]}')
    if len(instances) > MAX_ITEMS:
        raise RequestError(413, f"the JSON has {len(instances)} instances; at most {MAX_ITEMS} are accepted")
    return [_decoded(instance) for instance in instances]


def _parsed(body: bytes | bytearray) -> Any:
    for name, most in (("[", MAX_BRACKETS), ("{", MAX_BRACKETS), (",", MAX_COMMAS)):
        if (count := body.count(name.encode())) > most:
            raise RequestError(413, f"the JSON has {count} '{name}'; at most {most} are accepted")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise RequestError(400, "the JSON is nested too deep") from error
    except ValueError as error:
        raise RequestError(400, f"the body is no JSON: {ascii(str(error))[1:-1][:80]}") from error


def _decoded(instance: Any) -> bytes | ImageError:
    """One item of a bulk request; what is wrong with it concerns no other."""
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        return ImageError(400, 'the instance has no text "b64"; expected {"b64": "…"} with the picture in base64')
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        return ImageError(400, f"the instance's b64 is no base64, without line breaks or data: prefix: {error}")


def _picture(row: Row) -> bytes:
    """The picture's bytes: the multipart field `data`, else the raw body."""
    sent = row.get("data", row.get("body"))
    if isinstance(sent, bytes | bytearray):
        return bytes(sent)
    fields = ascii(", ".join(sorted(row)))[1:-1][:80] if row else "none"  # a misread body may be one
    raise ImageError(
        400, f"no picture among the request's fields ({fields}); send it as the raw body or as the multipart field data"
    )


def _target(sent: Any) -> int | None:
    """The form's field `target`, or the header X-Target: TorchServe 0.12.0 drops the query of /explanations."""
    if sent is None:
        return None
    text = sent.decode(errors="replace") if isinstance(sent, bytes | bytearray) else str(sent)
    if len(text) != 1 or text not in "0123456789":
        raise RequestError(400, f"target is {ascii(text)[:40]}; expected a digit, 0 to 9")
    return int(text)
