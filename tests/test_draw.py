"""serving/draw_page.py over HTTP: the page's files, the responses to its requests, and the requests it rejects."""

import json
import re
import socket
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import pytest
import requests

from digits_client.client import DigitsClient
from digits_client.transport import read_token
from handler.protocol import WARNINGS
from serving import draw_page
from serving.config import ROOT, TOKEN_KINDS, Config
from serving.draw_page import SECURITY_HEADERS, make_draw_routes
from serving.local_management import LocalManagementClient
from tests.images import SMOKE

PAGE = ROOT / "serving" / "page"
FILES = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.*"))
OWN = [name for name in FILES if not name.startswith("examples/")]


def send(
    server: Config, path: str, body: bytes | None = None, method: str = "", **headers: str | None
) -> requests.Response:
    """Send a request as the page does; headers are added, or left out if they are None."""
    url = server.get_url("supervisor")
    own: dict[str, str | None] = {"Origin": url} if body is not None else {}
    return requests.request(method or ("GET" if body is None else "POST"), url + path, data=body, headers=own | headers)


def test_the_page_is_small_complete_and_under_a_strict_policy(server: Config) -> None:
    size = 0
    for name in OWN:
        response = send(server, "/draw" if name == "index.html" else f"/draw/{name}")
        assert response.content == (PAGE / name).read_bytes()
        assert {header: response.headers[header] for header in SECURITY_HEADERS} == SECURITY_HEADERS
        assert re.fullmatch(
            r"(text/(html|css|javascript); charset=utf-8|image/svg\+xml)", response.headers["Content-Type"]
        )
        size += len(response.content)
    print(f"the page has {size} bytes without its examples")
    assert size <= 100_000
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert not re.search(r"unsafe|\*|https?:|data:", policy)
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert send(server, "/draw/").status_code == 200
    assert send(server, "/draw/nothing.js").status_code == 404
    assert send(server, "/draw/../supervisor.py").status_code == 404
    assert "Content-Security-Policy" not in send(server, "/live").headers


def test_predictions_equal_those_of_the_api_and_versions_are_listed(server: Config, client: DigitsClient) -> None:
    prediction, explanation = client.predict(SMOKE[7]), client.explain(SMOKE[7], 3)
    body = send(server, "/draw/predictions", SMOKE[7]).json()
    assert body == json.loads(json.dumps(vars(prediction)))
    assert send(server, "/draw/predictions?version=1.0", SMOKE[7]).json() == body
    explained = send(server, "/draw/explanations?target=3&version=1.0", SMOKE[7]).json()
    assert (explained["digit"], explained["target"]) == (7, 3)
    assert explained["framed"] == explanation.framed
    assert explained["attribution"] == explanation.attribution
    assert send(server, "/draw/explanations", SMOKE[7]).json()["target"] == 7
    assert send(server, "/draw/state").json() == {"default": "1.0", "versions": ["1.0"], "max_bytes": 16 * 2**20}


def test_numbers_equal_those_of_the_api(server: Config, client: DigitsClient) -> None:
    image = (PAGE / "examples" / "number.png").read_bytes()
    body = send(server, "/draw/numbers", image).json()
    assert body == json.loads(json.dumps(asdict(client.read_number(image))))
    assert (body["number"], body["accepted"], body["warnings"]) == ("4071", True, ["inverted"])
    assert [digit["digit"] for digit in body["digits"]] == [4, 0, 7, 1]
    assert send(server, "/draw/numbers?version=1.0", image).json() == body


@pytest.mark.parametrize(
    ("path", "body", "code", "kind", "message"),
    [
        ("/draw/predictions", b"", 400, "InvalidImage", "0 bytes"),
        ("/draw/predictions", b"plain text", 400, "InvalidImage", "expected PNG"),
        ("/draw/predictions?version=9.9", SMOKE[7], 404, "ModelVersionNotFoundException", "9.9"),
        ("/draw/predictions?version=../models", SMOKE[7], 400, "InvalidRequest", "version is ../models; expected one"),
        ("/draw/numbers", b"plain text", 400, "InvalidImage", "expected PNG"),
        ("/draw/numbers?version=../models", SMOKE[7], 400, "InvalidRequest", "version is ../models; expected one"),
        ("/draw/explanations?target=10", SMOKE[7], 400, "InvalidRequest", "target is 10; expected a digit"),
    ],
)
def test_errors_have_the_fields_of_the_service(
    server: Config, path: str, body: bytes, code: int, kind: str, message: str
) -> None:
    response = send(server, path, body)
    assert response.status_code == 200  # the page gets a response
    error = response.json()
    assert (error["code"], error["type"]) == (code, kind)
    assert message in error["message"]


@pytest.mark.parametrize("origin", [None, "null", "http://elsewhere.example", "http://127.0.0.1:1", "https://{host}"])
def test_another_origin_is_rejected_before_its_image_is_read(server: Config, origin: str | None) -> None:
    host = server.get_url("supervisor").removeprefix("http://")
    response = send(server, "/draw/predictions", SMOKE[7], Origin=origin and origin.format(host=host))
    assert response.status_code == 403
    assert response.json()["type"] == "Forbidden"
    state = send(
        server, "/draw/state", Origin="http://elsewhere.example"
    )  # the browser hides the response from that origin
    for headers in (response.headers, state.headers):
        assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "elsewhere.example:{port}", "127.0.0.1.elsewhere.example", "[", ""]
)
def test_a_foreign_host_name_that_resolves_to_this_machine_is_rejected(server: Config, host: str) -> None:
    host = host.format(port=server.get_ports()["supervisor"][1])
    for path in ("/draw", "/draw/draw.js", "/draw/state"):
        assert send(server, path, Host=host).status_code == 400
    assert send(server, "/draw/predictions", SMOKE[7], Host=host, Origin=f"http://{host}").status_code == 400
    assert send(server, "/live", Host=host).status_code == 200


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:9999", "[::1]:9999"])
def test_a_loopback_name_is_accepted_with_any_forwarded_port(server: Config, host: str) -> None:
    host = host.format(port=server.get_ports()["supervisor"][1])
    assert send(server, "/draw/predictions", SMOKE[7], Host=host, Origin=f"http://{host}").json()["digit"] == 7


def test_the_page_is_not_served_on_a_public_address(server: Config) -> None:
    public = replace(server, properties=server.properties | {"supervisor_address": "http://0.0.0.0:8083"})
    responses: list[Any] = [getattr(route, "app", None) for route in make_draw_routes(public, lambda: None)]
    assert [response.status_code for response in responses] == [403, 403]
    assert b"only if supervisor_address is loopback, not 0.0.0.0" in responses[0].body


@pytest.mark.parametrize("chunked", [False, True])
def test_an_image_over_the_limit_is_rejected(server: Config, chunked: bool) -> None:
    size = 16 * 2**20 + 1
    if chunked:
        parts = (bytes(2**16) for _ in range(size // 2**16 + 1))
        url = server.get_url("supervisor")
        response = requests.post(f"{url}/draw/predictions", parts, headers={"Origin": url})
        status, body = response.status_code, response.content
    else:
        status, body = exchange(server, make_headers(server, str(size)))  # and no body
    assert status == 413
    assert "the image exceeds the limit of 16777216 bytes" in json.loads(body)["message"]
    for no_length in ("-1", "9" * 5000):
        assert exchange(server, make_headers(server, no_length))[0] == 400


def test_an_image_that_arrives_slowly_or_incompletely_is_dropped(
    server: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_connection(server.get_ports()["supervisor"], timeout=5) as half:
        half.sendall(make_headers(server, "1000") + SMOKE[7][:50])
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""
    monkeypatch.setattr(draw_page, "BODY_TIMEOUT_SECONDS", 0.3)
    status, body = exchange(server, make_headers(server, "1000") + b"x")
    assert (status, json.loads(body)["message"]) == (408, "the image did not arrive within 0.3 s")


def exchange(server: Config, request: bytes) -> tuple[int, bytes]:
    """Send raw bytes; returns the response's status and body."""
    with (
        socket.create_connection(server.get_ports()["supervisor"], timeout=5) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(request)
        first, _, body = stream.read().partition(b"\r\n\r\n")
    return int(first.split()[1]), body


def test_concurrent_images_are_limited(server: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that do not arrive take all slots; the next image waits until they time out."""
    monkeypatch.setattr(draw_page, "BODY_TIMEOUT_SECONDS", 1.0)
    with ExitStack() as held:
        for _ in range(draw_page.MAX_CONCURRENT_IMAGES):
            connection = held.enter_context(socket.create_connection(server.get_ports()["supervisor"]))
            connection.sendall(make_headers(server, "1000"))
        time.sleep(0.3)  # until the server has read all headers
        started = time.monotonic()
        assert send(server, "/draw/predictions", SMOKE[7]).json()["digit"] == 7
        assert time.monotonic() - started > 0.3


def test_the_pages_requests_do_not_count_in_the_metrics_of_callers(
    server: Config, client: DigitsClient, management: LocalManagementClient
) -> None:
    def read_counter(name: str) -> float:
        return sum(sample.value for sample in management.status.read_metrics(False) if sample.name == name)

    client.predict(SMOKE[7])
    requested, probes = read_counter("digits_requests_total"), read_counter("digits_probes_total")
    for path in ("/draw/predictions", "/draw/explanations", "/draw/numbers"):
        send(server, path, SMOKE[7])
    assert read_counter("digits_requests_total") == requested
    assert read_counter("digits_probes_total") >= probes + 3


def test_no_token_is_in_any_response(server: Config) -> None:
    tokens = [read_token(server.key_file, kind) for kind in TOKEN_KINDS]
    responses = [send(server, f"/draw/{name}") for name in (*FILES, "", "state", "nothing")]
    responses += [
        send(server, f"/draw/{path}", SMOKE[7])
        for path in ("predictions", "numbers", "explanations", "predictions?version=9")
    ]
    responses += [send(server, "/draw/predictions", b""), send(server, "/draw/predictions", SMOKE[7], Origin="null")]
    for response in responses:
        assert not [token for token in tokens if token in str(response.headers) or token.encode() in response.content]
        assert "Set-Cookie" not in response.headers


def test_every_warning_of_the_handler_has_a_message() -> None:
    block = re.search(r"const WARNINGS = \{(.*?)\};", (PAGE / "messages.js").read_text(), re.DOTALL)
    assert block is not None
    assert tuple(re.findall(r"^  (\w+):", block[1], re.MULTILINE)) == WARNINGS


def make_headers(server: Config, length: str) -> bytes:
    url = server.get_url("supervisor")
    lines = [
        "POST /draw/predictions HTTP/1.0",
        f"Host: {url.removeprefix('http://')}",
        f"Origin: {url}",
        f"Content-Length: {length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
