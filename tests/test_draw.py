"""serving/draw_page.py over HTTP: the page's files, the responses to its requests, and the callers it refuses."""

import json
import re
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
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
from tests.pictures import SMOKE

PAGE = ROOT / "serving" / "page"
FILES = sorted(path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*.*"))
OWN = [name for name in FILES if not name.startswith("examples/")]


def ask(
    server: Config, path: str, body: bytes | None = None, method: str = "", **headers: str | None
) -> requests.Response:
    """As the page asks; headers are added, or left out if they are None."""
    url = server.get_url("supervisor")
    own: dict[str, str | None] = {"Origin": url} if body is not None else {}
    return requests.request(method or ("GET" if body is None else "POST"), url + path, data=body, headers=own | headers)


def test_the_page_is_small_whole_and_under_a_strict_policy(server: Config) -> None:
    size = 0
    for name in OWN:
        response = ask(server, "/draw" if name == "index.html" else f"/draw/{name}")
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
    assert ask(server, "/draw/").status_code == 200
    assert ask(server, "/draw/nothing.js").status_code == 404
    assert ask(server, "/draw/../supervisor.py").status_code == 404
    assert "Content-Security-Policy" not in ask(server, "/live").headers


def test_images_are_answered_as_by_the_api_and_versions_are_named(server: Config, client: DigitsClient) -> None:
    answer, explanation = client.predict(SMOKE[7]), client.explain(SMOKE[7], 3)
    told = ask(server, "/draw/predictions", SMOKE[7]).json()
    assert told == json.loads(json.dumps(vars(answer)))
    assert ask(server, "/draw/predictions?version=1.0", SMOKE[7]).json() == told
    why = ask(server, "/draw/explanations?target=3&version=1.0", SMOKE[7]).json()
    assert (why["digit"], why["target"]) == (7, 3)
    assert why["framed"] == explanation.framed
    assert why["attribution"] == explanation.attribution
    assert ask(server, "/draw/explanations", SMOKE[7]).json()["target"] == 7
    assert ask(server, "/draw/state").json() == {"default": "1.0", "versions": ["1.0"], "max_bytes": 16 * 2**20}


@pytest.mark.parametrize(
    ("path", "body", "code", "kind", "message"),
    [
        ("/draw/predictions", b"", 400, "InvalidImage", "0 bytes"),
        ("/draw/predictions", b"no picture", 400, "InvalidImage", "expected PNG"),
        ("/draw/predictions?version=9.9", SMOKE[7], 404, "ModelVersionNotFoundException", "9.9"),
        ("/draw/predictions?version=../models", SMOKE[7], 400, "InvalidRequest", "version is ../models; expected one"),
        ("/draw/explanations?target=10", SMOKE[7], 400, "InvalidRequest", "target is 10; expected a digit"),
    ],
)
def test_what_is_refused_is_told_in_the_services_shape(
    server: Config, path: str, body: bytes, code: int, kind: str, message: str
) -> None:
    response = ask(server, path, body)
    assert response.status_code == 200  # the page was answered
    told = response.json()
    assert (told["code"], told["type"]) == (code, kind)
    assert message in told["message"]


@pytest.mark.parametrize("origin", [None, "null", "http://elsewhere.example", "http://127.0.0.1:1", "https://{host}"])
def test_another_origin_is_refused_before_its_picture_is_read(server: Config, origin: str | None) -> None:
    host = server.get_url("supervisor").removeprefix("http://")
    response = ask(server, "/draw/predictions", SMOKE[7], Origin=origin and origin.format(host=host))
    assert response.status_code == 403
    assert response.json()["type"] == "Forbidden"
    state = ask(server, "/draw/state", Origin="http://elsewhere.example")  # only the browser keeps it from the origin
    for headers in (response.headers, state.headers):
        assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["elsewhere.example", "elsewhere.example:{port}", "127.0.0.1.elsewhere.example", "[", ""]
)
def test_a_foreign_name_that_was_made_to_point_here_is_refused(server: Config, host: str) -> None:
    host = host.format(port=server.get_ports()["supervisor"][1])
    for path in ("/draw", "/draw/draw.js", "/draw/state"):
        assert ask(server, path, Host=host).status_code == 400
    assert ask(server, "/draw/predictions", SMOKE[7], Host=host, Origin=f"http://{host}").status_code == 400
    assert ask(server, "/live", Host=host).status_code == 200


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:9999", "[::1]:9999"])
def test_a_loopback_name_is_answered_whatever_port_was_forwarded(server: Config, host: str) -> None:
    host = host.format(port=server.get_ports()["supervisor"][1])
    assert ask(server, "/draw/predictions", SMOKE[7], Host=host, Origin=f"http://{host}").json()["digit"] == 7


def test_the_page_is_not_there_on_an_address_that_others_reach(server: Config) -> None:
    public = replace(server, properties=server.properties | {"supervisor_address": "http://0.0.0.0:8083"})
    responses: list[Any] = [getattr(route, "app", None) for route in make_draw_routes(public, lambda: None)]
    assert [response.status_code for response in responses] == [403, 403]
    assert b"only while supervisor_address is loopback, not 0.0.0.0" in responses[0].body


@pytest.mark.parametrize("chunked", [False, True])
def test_an_image_over_the_limit_is_refused(server: Config, chunked: bool) -> None:
    size = 16 * 2**20 + 1
    if chunked:
        parts = (bytes(2**16) for _ in range(size // 2**16 + 1))
        url = server.get_url("supervisor")
        response = requests.post(f"{url}/draw/predictions", parts, headers={"Origin": url})
        status, body = response.status_code, response.content
    else:
        status, body = exchange(server, head(server, str(size)))  # and no body
    assert status == 413
    assert "the picture has over 16777216 bytes, the limit" in json.loads(body)["message"]
    for no_length in ("-1", "9" * 5000):
        assert exchange(server, head(server, no_length))[0] == 400


def test_an_image_that_arrives_too_slowly_or_by_half_is_given_up(
    server: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_connection(server.get_ports()["supervisor"], timeout=5) as half:
        half.sendall(head(server, "1000") + SMOKE[7][:50])
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1) == b""
    monkeypatch.setattr(draw_page, "BODY_TIMEOUT_SECONDS", 0.3)
    status, body = exchange(server, head(server, "1000") + b"x")
    assert (status, json.loads(body)["message"]) == (408, "the picture did not arrive within 0.3 s")


def exchange(server: Config, request: bytes) -> tuple[int, bytes]:
    """Send raw bytes; returns the response's status and body."""
    with (
        socket.create_connection(server.get_ports()["supervisor"], timeout=5) as asking,
        asking.makefile("rb") as answer,
    ):
        asking.sendall(request)
        first, _, body = answer.read().partition(b"\r\n\r\n")
    return int(first.split()[1]), body


def test_no_more_than_a_few_are_read_at_once(server: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """All turns are taken by images that do not arrive; the next image waits until they are given up."""
    monkeypatch.setattr(draw_page, "BODY_TIMEOUT_SECONDS", 1.0)
    with ExitStack() as held:
        for _ in range(draw_page.MAX_CONCURRENT_IMAGES):
            connection = held.enter_context(socket.create_connection(server.get_ports()["supervisor"]))
            connection.sendall(head(server, "1000"))
        time.sleep(0.3)  # until the server has read all heads
        started = time.monotonic()
        assert ask(server, "/draw/predictions", SMOKE[7]).json()["digit"] == 7
        assert time.monotonic() - started > 0.3


def test_what_the_page_asks_moves_no_callers_figures(
    server: Config, client: DigitsClient, management: LocalManagementClient
) -> None:
    def counted(name: str) -> float:
        return sum(each.value for each in management.status.read_metrics(False) if each.name == name)

    client.predict(SMOKE[7])
    requested, probes = counted("digits_requests_total"), counted("digits_probes_total")
    for path in ("/draw/predictions", "/draw/explanations", "/draw/predictions"):
        ask(server, path, SMOKE[7])
    assert counted("digits_requests_total") == requested
    assert counted("digits_probes_total") >= probes + 3


def test_no_token_is_in_any_answer(server: Config) -> None:
    tokens = [read_token(server.key_file, kind) for kind in TOKEN_KINDS]
    asked = [ask(server, f"/draw/{name}") for name in (*FILES, "", "state", "nothing")]
    asked += [
        ask(server, f"/draw/{path}", SMOKE[7]) for path in ("predictions", "explanations", "predictions?version=9")
    ]
    asked += [ask(server, "/draw/predictions", b""), ask(server, "/draw/predictions", SMOKE[7], Origin="null")]
    for each in asked:
        assert not [token for token in tokens if token in str(each.headers) or token.encode() in each.content]
        assert "Set-Cookie" not in each.headers


def test_every_warning_of_the_handler_has_words() -> None:
    block = re.search(r"const WARNINGS = \{(.*?)\};", (PAGE / "words.js").read_text(), re.DOTALL)
    assert block is not None
    assert tuple(re.findall(r"^  (\w+):", block[1], re.MULTILINE)) == WARNINGS


def head(server: Config, length: str) -> bytes:
    url = server.get_url("supervisor")
    lines = [
        "POST /draw/predictions HTTP/1.0",
        f"Host: {url.removeprefix('http://')}",
        f"Origin: {url}",
        f"Content-Length: {length}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
