"""TorchServe's gRPC API, as docs/reference/http-api.md describes it: no call ends a worker."""

import json
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import requests

from handler.digit_handler import DigitHandler
from serving.config import Config
from tests.handler_calls import make_context
from tests.images import SMOKE

INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService/"
INVALID = b"no image"


def encode_field(number: int, value: bytes) -> bytes:
    """Encode a field of bytes or text, as Protocol Buffers do."""
    length, size = b"", len(value)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def encode_request(fields: dict[str, bytes], version: str = "", sequence: str = "") -> bytes:
    """Encode a PredictionsRequest: model_name, model_version, input and sequence_id."""
    entries = [encode_field(1, name.encode()) + encode_field(2, value) for name, value in fields.items()]
    named = encode_field(1, b"digits") + encode_field(2, version.encode())
    request = named + b"".join(encode_field(3, entry) for entry in entries)
    return request + encode_field(4, sequence.encode()) if sequence else request


def decode_prediction(message: bytes) -> dict[str, Any]:
    """Decode a PredictionResponse, whose only field is the body."""
    body = message[message.index(b'{"') :]
    assert encode_field(1, body) == message
    return dict(json.loads(body))


class Caller:
    """Calls a server's methods by their names; messages are bytes."""

    def __init__(self, server: Config) -> None:
        self.server = server
        ports = server.get_ports()
        self.channels = {
            api: grpc.insecure_channel(f"{ports[name][0]}:{ports[name][1]}")
            for api, name in ((INFERENCE, "grpc_inference"), (MANAGEMENT, "grpc_management"))
        }

    def make_metadata(self, kind: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {read_token(self.server, kind)}")] if kind else []

    def call(self, method: str, request: bytes, kind: str = "inference", api: str = INFERENCE) -> bytes:
        make = self.channels[api].unary_unary(api + method)
        response: bytes = make(request, metadata=self.make_metadata(kind), timeout=10)
        return response

    def stream(self, request: bytes, kind: str = "inference") -> list[bytes]:
        make = self.channels[INFERENCE].unary_stream(INFERENCE + "StreamPredictions")
        return list(make(request, metadata=self.make_metadata(kind), timeout=10))

    def stream_both_ways(self, *messages: bytes) -> list[bytes]:
        make = self.channels[INFERENCE].stream_stream(INFERENCE + "StreamPredictions2")
        return list(make(iter(messages), metadata=self.make_metadata("inference"), timeout=10))


def read_token(server: Config, kind: str) -> str:
    """Read a token of this kind; any other word stands for itself."""
    keys = json.loads(server.key_file.read_text())
    return str(keys[kind]["key"]) if kind in keys else kind


@pytest.fixture
def caller(server: Config) -> Iterator[Caller]:
    """A caller; its calls must leave the workers that were there."""
    caller = Caller(server)
    before = list_workers(server)
    assert len(before) == 2
    yield caller
    assert caller.call("Ping", b"")
    for channel in caller.channels.values():
        channel.close()
    assert list_workers(server) == before


def list_workers(server: Config) -> list[tuple[int, str]]:
    headers = {"Authorization": f"Bearer {read_token(server, 'management')}"}
    [model] = requests.get(server.get_url("management") + "/models/digits", headers=headers, timeout=10).json()
    return [(worker["pid"], worker["status"]) for worker in model["workers"]]


def predict_by_http(server: Config, image: bytes) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {read_token(server, 'inference')}"}
    url = server.get_url("inference") + "/predictions/digits"
    return dict(requests.post(url, image, headers=headers, timeout=10).json())


def test_ping_is_healthy(caller: Caller) -> None:
    assert b'"Healthy"' in caller.call("Ping", b"")


@pytest.mark.parametrize(
    "image", [SMOKE[7], INVALID, b"", SMOKE[7] + bytes(5_000_000)], ids=["valid", "invalid", "empty", "large"]
)
def test_predictions_are_those_of_http(image: bytes, caller: Caller) -> None:
    expected = predict_by_http(caller.server, image)
    assert ("digit" in expected) == image.startswith(SMOKE[7])
    for fields in ({"data": image}, {"body": image}):
        assert decode_prediction(caller.call("Predictions", encode_request(fields, "1.0"))) == expected
        assert [decode_prediction(message) for message in caller.stream(encode_request(fields))] == [expected]


def test_fields_named_as_http_headers_have_no_effect(caller: Caller) -> None:
    """Requests by gRPC have no headers, so they are neither explained nor described."""
    fields = {"data": SMOKE[3], "explain": b"True", "host": b"x", "ts_stream_next": b"true"}
    for message in [caller.call("Predictions", encode_request(fields)), *caller.stream(encode_request(fields))]:
        assert decode_prediction(message)["digit"] == 3
    [message] = caller.stream(encode_request({"describe": b"True"}))
    assert decode_prediction(message)["code"] == 400


@pytest.mark.parametrize("kind", ["management", "wrong", ""])
def test_wrong_token_is_permission_denied(kind: str, caller: Caller) -> None:
    request = encode_request({"data": SMOKE[7]})
    assert get_error(lambda: caller.call("Ping", b"", kind)) == grpc.StatusCode.PERMISSION_DENIED
    assert get_error(lambda: caller.call("Predictions", request, kind)) == grpc.StatusCode.PERMISSION_DENIED
    assert get_error(lambda: caller.stream(request, kind)) == grpc.StatusCode.PERMISSION_DENIED


def test_unsupported_calls_leave_workers_running(caller: Caller) -> None:
    seven = {"data": SMOKE[7]}
    for _ in range(3):  # a response to StreamPredictions2 comes sometimes before and sometimes after its failure
        assert get_error(lambda: caller.stream(b"\xff")) is not None
        assert get_error(lambda: caller.stream(encode_request(seven, "9.9"))) == grpc.StatusCode.INTERNAL
        assert get_error(lambda: caller.call("Predictions", encode_request({"data": bytes(1 << 24)}))) is not None
        assert get_error(lambda: caller.stream_both_ways(encode_request(seven, sequence="a"))) is not None
        assert b"sequenceId is required" in caller.stream_both_ways(encode_request(seven))[0]


def test_management_describes_the_model(caller: Caller) -> None:
    for customized in (b"", b"\x18\x01"):
        message = caller.call("DescribeModel", encode_field(1, b"digits") + customized, "management", MANAGEMENT)
        assert b'"modelName": "digits"' in message


def get_error(call: Callable[[], object]) -> Any:
    """Return the status code of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


@pytest.mark.parametrize("start", ["HTTP/1.0", "HTTP/1.1", "HTTP/1.1\r\nHost: x", "HTTP/1.1\r\nts_stream_next: true"])
def test_http_responses_are_not_chunked_with_or_without_a_host(start: str, caller: Caller) -> None:
    """A stream's header would make the response chunked, which HTTP/1.0 does not know."""
    head = f"POST /predictions/digits {start}\r\nContent-Length: {len(SMOKE[7])}\r\nConnection: close\r\n"
    head += f"Authorization: Bearer {read_token(caller.server, 'inference')}\r\n\r\n"
    with socket.create_connection(caller.server.get_ports()["inference"], 10) as connection:
        connection.sendall(head.encode() + SMOKE[7])
        response = HTTPResponse(connection)
        response.begin()
        assert response.getheader("Content-Length")
        assert response.getheader("ts_stream_next") is None
        assert json.loads(response.read()) == predict_by_http(caller.server, SMOKE[7])


def test_only_requests_by_grpc_end_a_stream_or_get_no_response(handler: DigitHandler, model_dir: Path) -> None:
    sequence = {"ts_request_sequence_id": "a", "ts_request_sequence_end": "true"}
    http: dict[str, Any] = {"body": {"content-type": None}, "Content-Length": "3"}
    headers: list[dict[str, Any]] = [{"data": {"content-type": None}}, {}, sequence, http, http | sequence]
    context = make_context(model_dir, len(headers), headers)
    context.request_ids = {row: str(row) for row in range(len(headers))}
    handler.handle([{"data": SMOKE[7]}, {}, {"data": SMOKE[7]}, {"body": INVALID}, {"body": SMOKE[7]}], context)
    ends = [context.get_response_headers(row).get("ts_stream_next") for row in range(len(headers))]
    assert ends == ["false", "false", None, None, None]
    assert sorted(context.request_ids) == [0, 1, 3, 4]
