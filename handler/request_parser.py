"""Parse a row of TorchServe's batch into a request: predict, read_number, predict_batch, explain or describe."""

import binascii
import json
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from handler.decoding import ImageError, identify_content
from handler.protocol import MAX_INSTANCES, NUMBER, READ_HEADER, parse_headers
from handler.records import ImageRecord, InternalError, Request, RequestError

MAX_BRACKETS = 1_000  # brackets in a JSON body; parsing deep or wide JSON would cost far more than its bytes
MAX_COMMAS = 10_000  # commas in a JSON body, for the same reason; brackets and commas within strings count too
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"RIFF", b"II", b"MM")  # no JSON begins like an image

_READ = READ_HEADER.lower()

Row = dict[str, Any]  # field -> its content; a raw body is the field "body"
Headers = Mapping[str, Any]  # as sent; TorchServe adds form fields and query parameters as dicts


def parse_request(row: Row, headers: Headers) -> Request:
    """Parse a row by its fields and headers; an invalid request becomes one image with an error."""
    try:
        request = _parse_row(row, headers)
    except ImageError as error:
        request = Request("predict", [ImageRecord(error=error.drop_traceback())])
    except Exception as error:
        request = Request("predict", [ImageRecord(error=InternalError.from_exception(error))])
    request.correlation_id, request.is_probe = parse_headers(headers)
    return request


def _parse_row(row: Row, headers: Headers) -> Request:
    if headers.get("describe") == "True" and not row:  # TorchServe's management API sends neither field nor body
        return Request("describe", [])
    explain = headers.get("explain") == "True"  # set by TorchServe, last, so callers cannot override it
    named = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    if _is_json(row.get("body"), named.get("content-type", "")):
        if explain:
            raise RequestError(400, "a batch request cannot be explained; send one image as the raw body")
        if _READ in named:
            message = f'{READ_HEADER} is for one image; a batch request is {{"read": "{NUMBER}", "instances": […]}}'
            raise RequestError(400, message)
        return Request("predict_batch", _parse_instances(row["body"]))
    reads_number = _parse_read(named.get(_READ))
    if explain:
        if reads_number:
            raise RequestError(400, f"a number cannot be explained; send an image of one digit without {READ_HEADER}")
        target = _parse_target(row.get("target", named.get("x-target")))
        return Request("explain", [ImageRecord(_find_image(row))], target=target)
    plain = _get_media_type(named.get("accept", "")) == "text/plain"
    image = ImageRecord(_find_image(row), reads_number=reads_number)
    return Request("read_number" if reads_number else "predict", [image], plain)


def _parse_read(value: Any) -> bool:
    """Return whether the header or the field `read` of a batch request demands a number; without it, a digit."""
    if value is None:
        return False
    if value != NUMBER:
        message = f"the request reads {ascii(value)[:40]}; expected '{NUMBER}', or nothing for one digit"
        raise RequestError(400, message)
    return True


def _get_media_type(header: str) -> str:
    """Return the first media type of a header, without parameters."""
    return header.partition(",")[0].partition(";")[0].strip().lower()


def _is_json(body: Any, content_type: str) -> bool:
    """Return whether the body is JSON by its Content-Type and no image; a dict is JSON that TorchServe has parsed."""
    if _get_media_type(content_type) != "application/json":
        return False
    return isinstance(body, dict) or (isinstance(body, bytes | bytearray) and not body.startswith(SIGNATURES))


def _parse_instances(body: bytes | bytearray | dict[str, Any]) -> list[ImageRecord]:
    parsed = body if isinstance(body, dict) else _parse_json(body)
    instances = parsed.get("instances") if isinstance(parsed, dict) else None
    if not isinstance(instances, list):
        raise RequestError(400, 'the JSON has no list "instances"; expected {"instances": [{"b64": "…"}, …]}')
    if len(instances) > MAX_INSTANCES:
        raise RequestError(413, f"the JSON has {len(instances)} instances; at most {MAX_INSTANCES} are accepted")
    reads_number = _parse_read(parsed.get("read"))
    return [_parse_instance(instance, reads_number) for instance in instances]


def _parse_json(body: bytes | bytearray) -> Any:
    for name, limit in (("[", MAX_BRACKETS), ("{", MAX_BRACKETS), (",", MAX_COMMAS)):
        if (count := body.count(name.encode())) > limit:
            raise RequestError(413, f"the JSON has {count} '{name}'; at most {limit} are accepted")
    try:
        return json.loads(body)
    except RecursionError as error:
        raise RequestError(400, "the JSON is nested too deeply") from error
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {ascii(str(error))[1:-1][:80]}") from error


def _parse_instance(instance: Any, reads_number: bool) -> ImageRecord:
    """Parse one instance of a batch request; an invalid one gets its own error."""
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        message = 'the instance has no text "b64"; expected {"b64": "…"} with the image in base64'
        return ImageRecord(error=ImageError(400, message))
    try:
        return ImageRecord(b64decode(text, validate=True), reads_number=reads_number)
    except (binascii.Error, ValueError) as error:
        message = f"the instance's b64 is not base64 without line breaks or data: prefix: {error}"
        return ImageRecord(error=ImageError(400, message))


def _find_image(row: Row) -> bytes:
    """Return the image's bytes: the multipart field `data`, else the raw body."""
    content = row.get("data", row.get("body"))
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    text = content if isinstance(content, str) else next(iter(row), "")  # TorchServe reads some bodies as a form
    if found := identify_content(text[:64].encode()):
        raise ImageError(400, found)
    fields = ascii(", ".join(sorted(row)))[1:-1][:80] if row else "none"
    advice = "send it as the raw body or as the multipart field data"
    raise ImageError(400, f"no image among the request's fields ({fields}); {advice}")


def _parse_target(value: Any) -> int | None:
    """Parse the form field `target`, or the header X-Target: TorchServe 0.12.0 drops the query of /explanations."""
    if value is None:
        return None
    text = value.decode(errors="replace") if isinstance(value, bytes | bytearray) else str(value)
    if len(text) != 1 or text not in "0123456789":
        raise RequestError(400, f"target is {ascii(text)[:40]}; expected a digit, 0 to 9")
    return int(text)
