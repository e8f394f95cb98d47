"""digits_client/transport.py: lookup of servers and tokens, and documented errors."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from digits_client import DigitsClient, ManagementClient, Server, find_server
from digits_client.adapters import CORRELATION_HEADER
from digits_client.batch_predict import MAX_BATCH_SIZE
from digits_client.exceptions import TOKEN_VARIABLES, ApiError, DigitsError, UnexpectedResponseError, UnreachableError
from digits_client.transport import MAX_BODY_BYTES, PROBE_HEADER, READ_HEADER, TokenSource, read_token, write_server
from handler import decoding, protocol
from serving.config import ROOT, TOKEN_KINDS, Config
from tests.images import SMOKE
from tests.servers import configure_free_ports, run_in_process

PREDICT = "/predictions/digits"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder that clients find; the environment has no tokens."""
    for name in TOKEN_VARIABLES.values():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIGITS_HOME", str(tmp_path))
    return tmp_path


def write_tokens(path: Path, token: str = "") -> None:
    path.write_text(json.dumps({kind: {"key": token or f"{kind}-of-file"} for kind in TOKEN_KINDS}))


def test_names_and_limits_of_client_and_handler_are_equal() -> None:
    headers = CORRELATION_HEADER, PROBE_HEADER, READ_HEADER
    assert headers == (protocol.CORRELATION_HEADER, protocol.PROBE_HEADER, protocol.READ_HEADER)
    assert (MAX_BATCH_SIZE, MAX_BODY_BYTES) == (protocol.MAX_INSTANCES, decoding.MAX_BYTES)


def test_running_server_is_found_by_its_file_without_tokens(server: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (server.folder / "server.json").read_text()
    assert not [kind for kind in TOKEN_KINDS if read_token(server.key_file, kind) in text]
    monkeypatch.setenv("DIGITS_HOME", str(server.folder))
    assert find_server() == server.make_server()
    with DigitsClient() as client, ManagementClient() as management:
        assert client.predict(SMOKE[7]).digit == 7
        assert management.get_default().version == "1.0"


def test_invalid_server_file_means_default_addresses(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "{", "[]", '{"inference": "http://x", "what": 1}'):
        (home / "server.json").write_text(text)
        assert find_server() == Server(key_file=str(home / "key_file.json"))
    monkeypatch.delenv("DIGITS_HOME")
    assert find_server().key_file.startswith(str(ROOT))


@pytest.mark.parametrize(
    ("api", "url", "expected"),
    [
        ("inference", "http://digits.example:90/", "http://digits.example:90 http://digits.example:8081 http"),
        ("inference", "https://digits.example/api", "https://digits.example/api https://digits.example:8081 http"),
        ("inference", "http://[::1]:8080", "http://[::1]:8080 http://[::1]:8081 http"),
        ("management", "https://10.0.0.1", "https://10.0.0.1:8080 https://10.0.0.1 http"),
    ],
)
def test_url_of_one_api_determines_the_others(api: str, url: str, expected: str, home: Path) -> None:
    """The key file is not used, since no other machine should get this machine's tokens."""
    write_tokens(home / "key_file.json")
    found = find_server(url, api)
    assert " ".join((found.inference, found.management, found.supervisor)).startswith(expected)
    assert found.key_file == found.inference_token == TokenSource("inference", None, found).read() == ""
    assert (found.supervisor[-5:], found.metrics[-5:]) == (":8083", ":8082")


def test_url_of_the_local_server_finds_its_tokens(home: Path) -> None:
    here = Server("https://10.0.0.1:1", "https://10.0.0.1:2", certificate="a.pem", key_file=str(home / "keys"))
    write_server(here, home)
    assert find_server("https://10.0.0.1:1/") == find_server("https://10.0.0.1:2", "management") == here
    write_server(Server(key_file=str(home / "keys")), home)
    assert find_server("http://localhost:8080").key_file == str(home / "keys")
    write_server(Server("http://localhost:8080", key_file=str(home / "keys")), home)
    assert find_server("http://localhost:8080") == find_server("http://127.0.0.1:8080")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x:99999", "http://[::1", "", "http://x:y"]
)
def test_invalid_url_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(
        DigitsError, match=re.escape(f"{url}: not a server address; expected an address such as http://127")
    ):
        DigitsClient(url)


@pytest.mark.parametrize("kind", TOKEN_VARIABLES)
def test_token_argument_overrides_environment_and_file(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokens(home / "key_file.json")
    assert TokenSource(kind, None, find_server()).read() == f"{kind}-of-file"
    monkeypatch.setenv(TOKEN_VARIABLES[kind], "of-environment")
    for server in (find_server(), find_server("http://digits.example")):
        assert TokenSource(kind, None, server).read() == "of-environment"
        assert TokenSource(kind, "given", server).read() == "given"
        assert "of-environment" not in repr(server)


def test_a_token_replaced_again_during_the_request_is_read_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def reject_and_replace(_method: str, _path: str, options: dict[str, Any]) -> requests.Response:
        sent.append(options["headers"]["Authorization"])
        response = requests.Response()
        response.status_code, response._content = 400, b'{"type": "InvalidKeyException"}'
        if len(sent) == 3:
            response.status_code = 200
        write_tokens(home / "key_file.json", f"token-{len(sent)}")
        return response

    write_tokens(home / "key_file.json", "token-0")
    with DigitsClient() as client:
        monkeypatch.setattr(client.api, "_send", reject_and_replace)
        assert client.api.call("GET", "/ping").status_code == 200
    assert sent == ["Bearer token-0", "Bearer token-1", "Bearer token-2"]


def test_wrong_token_in_the_environment_is_an_error(server: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_HOME", str(server.folder))
    monkeypatch.setenv("DIGITS_INFERENCE_TOKEN", "wrong")
    with (
        DigitsClient() as client,
        pytest.raises(ApiError, match=r"InvalidKeyException.*DIGITS_INFERENCE_TOKEN and DIGITS_MANAGEMENT"),
    ):
        client.predict(SMOKE[7])


@pytest.mark.parametrize("token", ["two\nlines", "tokén", "€", "a b"])
def test_error_of_an_invalid_token_does_not_show_it(token: str) -> None:
    with pytest.raises(DigitsError, match="the inference token has other characters than visible ASCII") as raised:
        DigitsClient("http://127.0.0.1:9", token)
    assert token not in str(raised.value)


@pytest.mark.parametrize(
    "words", ["predict handler/smoke/7.png", "models", "promote 1.0", "explain handler/smoke/7.png", "token"]
)
def test_error_of_another_users_key_file_names_the_variable(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure_free_ports(tmp_path)
    write_tokens(config.key_file)
    read_text = Path.read_text

    def deny(path: Path, *values: str | None, **options: str | None) -> str:
        if path == config.key_file:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *values, **options)

    monkeypatch.setattr(Path, "read_text", deny)
    run = run_in_process(config, *words.split())
    kind = "MANAGEMENT" if words.startswith(("models", "promote")) else "INFERENCE"
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith(f"error: {config.key_file}: Permission denied: only the user who runs the server")
    assert f"set DIGITS_{kind}_TOKEN" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"inference": null}', b'{"inference": {}}', None])
def test_invalid_key_file_is_an_error_that_names_it(content: bytes | None, home: Path) -> None:
    path = home / "key_file.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with (
        DigitsClient() as client,
        pytest.raises(UnreachableError, match=f"{path}: (holds no inference|Is a directory)"),
    ):
        client.predict(SMOKE[7])


def test_absent_server_is_an_immediate_error(tmp_path: Path) -> None:
    config = configure_free_ports(tmp_path)
    start = time.monotonic()
    with DigitsClient(server=config.make_server()) as client:
        with pytest.raises(UnreachableError, match="no tokens: the server is not running or is starting"):
            client.predict(SMOKE[7])
        write_tokens(config.key_file)
        with pytest.raises(UnreachableError, match=r"does not answer \(ConnectionError\); `make status` says"):
            client.predict(SMOKE[7])
    for host in ("a" * 64, "a..b"):
        with DigitsClient(f"http://{host}:9", "token") as client, pytest.raises(UnreachableError, match=host):
            client.predict(SMOKE[7])
    assert time.monotonic() - start < 5


@pytest.fixture(scope="module")
def another_service() -> Iterator[Callable[[bytes], Server]]:
    """A web server that responds to every request with 200 and the same body."""
    body = b""

    class FixedResponse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - as http.server calls them

        def log_message(self, *_: object) -> None: ...

    def set_body(new_body: bytes) -> Server:
        nonlocal body
        body = new_body
        url = f"http://127.0.0.1:{web_server.server_port}"
        return Server(url, url, url, url, inference_token="a", management_token="a")

    with ThreadingHTTPServer(("127.0.0.1", 0), FixedResponse) as web_server:
        threading.Thread(target=web_server.serve_forever, daemon=True).start()
        yield set_body
        web_server.shutdown()


@pytest.mark.parametrize("body", [b"<html>{</html>", b"", b"\xff", b"{}", b"[]", b"[{}]", b"null", b'"text"', b"1"])
def test_another_service_at_the_address_is_a_documented_error(
    body: bytes, another_service: Callable[[bytes], Server]
) -> None:
    with ManagementClient(server=another_service(body), retries=0) as client:
        calls: list[Callable[[], object]] = [
            *(lambda: client.inference.predict(SMOKE[7]), lambda: client.inference.explain(SMOKE[7])),
            *(client.get_default, client.rollback, client.status.read_state),
            *(lambda: client.register("digits-1.1.mar"), lambda: client.scale(1)),
            *(lambda: client.promote("1.0"), lambda: client.unregister("1.0")),
        ]
        for call in calls:
            with pytest.raises(DigitsError):
                call()
        with suppress(UnexpectedResponseError):
            assert client.list_versions() == {}
        with suppress(UnexpectedResponseError):
            client.status.read_metrics()
        results = list(client.inference.predict_batch([SMOKE[1], SMOKE[2]]))
        assert [type(result) for result in results] == [UnexpectedResponseError] * 2


def is_rejected(config: Config, api: str, path: str, authorization: str) -> bool:
    response = requests.get(config.get_url(api) + path, headers={"Authorization": authorization}, timeout=10)
    return (response.status_code, response.json()["type"]) == (400, "InvalidKeyException")


def test_only_the_apis_own_token_is_valid(server: Config) -> None:
    """test_openapi.py checks every operation without its token."""
    tokens = {kind: read_token(server.key_file, kind) for kind in TOKEN_KINDS}
    for api, path in (("inference", PREDICT), ("management", "/models")):
        own = tokens[api]
        others = [f"Bearer {token}" for kind, token in tokens.items() if kind != api]
        for invalid in ("", "Bearer", f"Bearer {own[:-1]}", own, f"Basic {own}", *others):
            assert is_rejected(server, api, path, invalid), invalid
