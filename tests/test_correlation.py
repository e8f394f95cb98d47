"""Tests of X-Correlation-ID in the handler and TorchServe, and of DigitsClient when responses are mixed up."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from digits_client.client import DigitsClient
from digits_client.exceptions import UnreachableError
from digits_client.transport import read_token
from handler.digit_handler import DigitHandler
from handler.protocol import CORRELATION_HEADER
from serving.config import Config
from tests.handler_calls import EXPLAIN, JSON, make_batch_body, make_context
from tests.images import SMOKE

PREDICT = "/predictions/digits"


def test_every_response_has_its_requests_correlation_id(handler: DigitHandler, model_dir: Path) -> None:
    rows = [{"body": SMOKE[1]}, {"body": b""}, {"body": make_batch_body(SMOKE[2])}, {"body": b"{"}, {"body": SMOKE[3]}]
    headers = [
        {CORRELATION_HEADER: f"row-{row}_{row}.{row}"} | other
        for row, other in enumerate([{}, {}, JSON, JSON, EXPLAIN])
    ]
    context = make_context(model_dir, len(rows), headers)
    handler.handle(rows, context)
    assert [context.get_response_headers(row)[CORRELATION_HEADER] for row in range(len(rows))] == [
        row[CORRELATION_HEADER] for row in headers
    ]


@pytest.mark.parametrize("value", ["", "a" * 65, "a b", "a\r\nSet-Cookie: b", "\u0663", {"content-type": ""}])
def test_invalid_correlation_id_is_not_echoed(value: Any, handler: DigitHandler, model_dir: Path) -> None:
    context = make_context(model_dir, 1, [{CORRELATION_HEADER: value}])
    handler.handle([{"body": SMOKE[1]}], context)
    assert CORRELATION_HEADER not in context.get_response_headers(0)


def test_correlation_id_is_echoed_through_torchserve(client: DigitsClient) -> None:
    for image, name in ((SMOKE[1], CORRELATION_HEADER), (b"none", CORRELATION_HEADER.lower())):
        response = client.api.request("POST", PREDICT, data=image, headers={name: "mine"})
        assert response.headers[CORRELATION_HEADER] == "mine"


class LateProxy(BaseHTTPRequestHandler):
    """Repeats the first response on a connection, so that all later ones arrive one request late."""

    protocol_version = "HTTP/1.1"
    server_url = ""

    def setup(self) -> None:
        super().setup()
        self.received: list[requests.Response] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append(requests.post(self.server_url + self.path, body, headers=dict(self.headers), timeout=10))
        response = self.received[0] if len(self.received) == 1 else self.received.pop(0)
        self.send_response(response.status_code)
        for name in {"Content-Type", CORRELATION_HEADER} & set(response.headers):
            self.send_header(name, response.headers[name])
        self.send_header("Content-Length", str(len(response.content)))
        self.end_headers()
        self.wfile.write(response.content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def run_late_proxy(server: Config) -> Iterator[Config]:
    """Run a LateProxy; yield the server's configuration with the proxy's inference address."""
    handler = type("LateProxyOfServer", (LateProxy,), {"server_url": server.get_url("inference")})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        try:
            yield replace(server, properties=server.properties | {"inference_address": address})
        finally:
            proxy.shutdown()


def test_late_responses_are_detected_by_correlation_id(server: Config) -> None:
    """TorchServe 0.12.0 may mix up responses when workers are removed; a plain session accepts them."""
    with (
        run_late_proxy(server) as config,
        DigitsClient(server=config.make_server()) as client,
        requests.Session() as session,
    ):
        session.headers["Authorization"] = f"Bearer {read_token(server.key_file, 'inference')}"
        read = [session.post(config.get_url("inference") + PREDICT, SMOKE[digit]).json()["digit"] for digit in range(4)]
        assert read == [0, 0, 1, 2]
        assert [client.predict(SMOKE[digit]).digit for digit in range(10)] == list(range(10))


def test_client_without_retries_reports_a_mismatched_response(server: Config) -> None:
    with run_late_proxy(server) as config, DigitsClient(server=config.make_server(), retries=0) as client:
        assert client.predict(SMOKE[1]).digit == 1
        with pytest.raises(UnreachableError, match="returned the response of another request"):
            client.predict(SMOKE[2])
        assert client.predict(SMOKE[3]).digit == 3
