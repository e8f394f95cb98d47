"""docs/nginx.conf with Debian's nginx, in front of a real TorchServe: requests it passes on, errors and logs."""

import http.client
import json
import re
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from digits_client.client import DigitsClient
from digits_client.transport import read_token
from handler.decoding import MAX_BYTES
from serving.config import ROOT, TOKEN_KINDS, Config
from tests.handler_calls import JSON, make_batch_body
from tests.images import SMOKE
from tests.nginx import (
    CONFIG_FILE,
    EXPLAIN,
    NGINX_ADDRESS,
    PREDICT,
    format_request,
    make_nginx_command,
    make_token_headers,
    needs_nginx,
    run_behind_nginx,
    run_nginx,
    send_request,
    write_config,
)
from tests.servers import find_port, make_certificate, wait_for

HASTY, CROWD = "127.0.0.3", "127.0.0.4"  # addresses of clients; nginx limits them separately
BURST, CONNECTIONS = 200, 16  # of the file: limit_req and limit_conn
FORM = {"Content-Type": "application/x-www-form-urlencoded"}

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nginx")


@pytest.fixture(scope="module")
def front(server: Config, folder: Path) -> Iterator[Config]:
    with run_behind_nginx(server, folder) as config:
        yield config


@pytest.fixture
def client(front: Config) -> Iterator[DigitsClient]:
    """A client that sends requests to nginx, without retries."""
    with DigitsClient(server=front.make_server(), retries=0) as client:
        yield client


def test_marked_part_is_valid_in_another_nginx_configuration(tmp_path: Path) -> None:
    """The file's own comment has the command that extracts the part."""
    [command] = re.findall(r"^#   (sed .*\n.*?) > /etc", CONFIG_FILE.read_text(), re.MULTILINE)
    part = subprocess.check_output(command.replace("\\\n#", ""), shell=True, cwd=ROOT, text=True)
    logs = re.findall(r"(?:access|error)_log (\S+)", part)
    assert logs == ["/var/log/nginx/digits-access.log", "/var/log/nginx/digits-error.log"]
    (tmp_path / "part.conf").write_text(part.replace("/var/log/nginx/", f"{tmp_path}/"))
    whole = tmp_path / "whole.conf"
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ include {tmp_path}/part.conf; }}")
    run = subprocess.run(make_nginx_command(tmp_path, whole, "-t"), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_uncommented_tls_lines_reject_plain_http(server: Config, tmp_path: Path) -> None:
    make_certificate(tmp_path)
    port = find_port()
    text = CONFIG_FILE.read_text().replace(f"listen {NGINX_ADDRESS};", "").replace("../certs/", f"{tmp_path}/certs/")
    text = re.sub(r"^( *)# (listen .* ssl;|ssl_)", r"\1\2", text, flags=re.MULTILINE).replace(
        "127.0.0.1:8443", NGINX_ADDRESS
    )
    trusted = ssl.create_default_context(cafile=tmp_path / "certs/server.pem")
    with run_nginx(tmp_path, write_config(tmp_path, server.get_ports()["inference"][1], port, text), port):
        with closing(http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=trusted)) as connection:
            connection.request("POST", PREDICT, SMOKE[7], make_token_headers(server))
            assert json.loads(connection.getresponse().read())["digit"] == 7
        plain = replace(server, properties=server.properties | {"inference_address": f"http://127.0.0.1:{port}"})
        assert send_request(plain, body=SMOKE[7]).is_error(400)


def test_every_kind_of_request_passes(client: DigitsClient) -> None:
    assert client.predict(SMOKE[7]).digit == 7
    assert client.predict(SMOKE[7], "1.0").model_version == "1.0"
    assert client.api.call("PUT", PREDICT, data=SMOKE[2]).json()["digit"] == 2
    form_field = {"data": ("two.png", SMOKE[2], "image/png")}
    assert client.api.call("POST", PREDICT, files=form_field).json()["digit"] == 2
    batch = client.api.call("POST", PREDICT, data=make_batch_body(SMOKE[3], b"", SMOKE[8]), headers=JSON).json()
    assert [entry.get("digit", entry.get("code")) for entry in batch["predictions"]] == [3, 400, 8]
    text = client.api.call("POST", PREDICT, data=SMOKE[7], headers={"Accept": "text/plain"})
    assert (text.text, text.headers["Content-Type"]) == ("7", "text/plain")


def test_target_in_the_query_overrides_the_header(front: Config, client: DigitsClient) -> None:
    def target(query: str, **headers: str) -> int:
        return int(client.api.call("POST", EXPLAIN + query, data=SMOKE[7], headers=headers).json()["target"])

    assert [target(""), target("?target=3"), target("?target=")] == [7, 3, 7]
    assert [target("", **{"X-Target": "2"}), target("?target=3", **{"X-Target": "2"})] == [2, 3]
    for invalid in ("10", "%33"):
        reply = send_request(front, path=f"{EXPLAIN}?target={invalid}", body=SMOKE[7])
        assert reply.is_error(400)
        assert b"expected a digit, 0 to 9" in reply.body


def test_image_sent_as_a_form_is_predicted_and_a_form_of_millions_of_fields_is_an_error(
    client: DigitsClient,
) -> None:
    """curl --data-binary sends such images; such a form used to end a worker."""
    assert client.api.call("POST", PREDICT, data=SMOKE[7], headers=FORM).json()["digit"] == 7
    start = time.monotonic()
    fields = client.api.request("POST", PREDICT, data=b"a&" * (MAX_BYTES // 2), headers=FORM)
    assert (fields.status_code, fields.json()["type"]) == (400, "InvalidImage")
    assert time.monotonic() - start < 10


NOT_PASSED_ON = [
    *(("GET", path, 404) for path in ("/", "/ping", "/models", "/models/digits", "/metrics", "/api-description")),
    *(("POST", path, 404) for path in ("/v1/models/digits:predict", "/v2/models/digits/infer", "/invocations")),
    *(("POST", path, 404) for path in ("/models?url=x.mar", "/workflows?url=x.war", "/wfpredict/x", "/token")),
    *(("POST", path, 404) for path in ("/predictions", "/predictions/other", "/predictions/digits2", "/error")),
    *(("POST", PREDICT + tail, 404) for tail in ("/", "/1.0/extra", "/1.0%0a", "%0a", "/1.0%0d%0aX:%20y", "/%2e%2e")),
    *(("POST", PREDICT + tail, 404) for tail in ("/../../ping", "/%2e%2e/%2e%2e/models", "/..%2f..%2fping", "/-1")),
    ("OPTIONS", "/", 404),
    *((method, PREDICT, 405) for method in ("GET", "DELETE", "PATCH", "OPTIONS", "ANYTHING")),
    ("GET", EXPLAIN + "/1.0", 405),
    ("TRACE", PREDICT, 405),
    ("POST", PREDICT + "%zz", 400),
    ("POST", "/%00", 400),
    ("POST", "/" + "x" * 9000, 414),
]


@pytest.mark.parametrize(("method", "path", "status"), NOT_PASSED_ON, ids=lambda value: str(value)[:40])
def test_requests_not_passed_on_get_a_json_error(method: str, path: str, status: int, front: Config) -> None:
    reply = send_request(front, method, path)
    assert reply.is_error(status), reply
    assert (reply.headers["Server"], "x-request-id" in reply.headers) == ("nginx", False)
    assert reply.headers["Allow"] == ("POST, PUT" if status == 405 else None)


ODD = {
    "two lengths": (400, ["Content-Length: 5"]),
    "a length and chunks": (400, ["Transfer-Encoding: chunked"]),
    "chunks that are none": (501, ["Transfer-Encoding: chunked, identity"]),
    "a header of 9 KB": (400, ["X-Long: " + "x" * 9000]),
    "headers of 50 KB": (400, [f"X-{index}: {'x' * 1000}" for index in range(50)]),
    "a space before the colon": (400, ["X-Space : 1"]),
    "a folded header": (400, ["X-Folded: 1", " 2"]),
    "a control character before a name": (400, ["\x0bX-Name: 1"]),
}


def test_requests_that_proxies_and_servers_parse_differently_are_errors(front: Config) -> None:
    odd = {name: (status, format_request(front, SMOKE[7], *lines)) for name, (status, lines) in ODD.items()}
    odd["bytes before it, which TorchServe skips (CVE-2026-50020)"] = (400, b"\0\1" + format_request(front, SMOKE[7]))
    expected = {"type": "InvalidRequest", "message": "the request is no valid HTTP"}
    for name, (status, sent) in odd.items():
        with closing(socket.create_connection(front.get_ports()["inference"], timeout=30)) as connection:
            connection.sendall(sent)
            head, body = connection.recv(65536).split(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status}".encode()), name
        assert json.loads(body) == {"code": status} | expected, name


def test_body_over_the_limit_is_a_json_error_and_one_of_the_limit_passes(front: Config, client: DigitsClient) -> None:
    chunks = (b"x" * 65536 for _ in range(MAX_BYTES // 65536 + 1))
    for body in (bytes(MAX_BYTES + 1), chunks):
        assert send_request(front, body=body).is_error(413)
    assert client.predict(SMOKE[7] + bytes(MAX_BYTES - len(SMOKE[7]))).digit == 7


def test_responses_to_pipelined_requests_keep_their_order(front: Config) -> None:
    """TorchServe itself responds in the order in which its workers finish."""
    order = [index % 10 for index in range(60)]
    received = b""
    with closing(socket.create_connection(front.get_ports()["inference"], timeout=30)) as connection:
        connection.sendall(b"".join(format_request(front, SMOKE[digit]) for digit in order))
        while received.count(b'"model_version"') < len(order):
            received += connection.recv(65536)
    assert [int(digit) for digit in re.findall(rb'"digit": (\d)', received)] == order


def test_only_a_client_over_the_rate_gets_429(front: Config, client: DigitsClient) -> None:
    """Requests without a token, since TorchServe responds to them faster than the limit on any machine."""
    with ThreadPoolExecutor(CONNECTIONS // 2) as pool:
        hasty = list(
            pool.map(lambda _: send_request(front, headers={"X-Token": "none"}, source=HASTY), range(4 * BURST))
        )
    assert {reply.status for reply in hasty} == {400, 429}
    assert sum(reply.status == 400 for reply in hasty) >= BURST
    assert all(reply.is_error(429) for reply in hasty if reply.status == 429)
    assert {reply.headers["Retry-After"] for reply in hasty if reply.status == 429} == {"1"}
    assert client.predict(SMOKE[7]).digit == 7


def test_client_waits_for_retry_after(server: Config, tmp_path: Path) -> None:
    """Requests without a token; a separate nginx, since the other tests use the client's address too."""
    with (
        run_behind_nginx(server, tmp_path) as config,
        DigitsClient(server=config.make_server()) as hasty,
        ThreadPoolExecutor(8) as pool,
    ):
        key = {"Authorization": "Bearer none"}
        replies = pool.map(lambda _: hasty.api.request("POST", PREDICT, headers=key), range(2 * BURST))
        assert {reply.status_code for reply in replies} == {400}
    assert '" 429 ' in (tmp_path / "nginx-access.log").read_text()


def test_client_with_too_many_open_requests_gets_429(front: Config, client: DigitsClient) -> None:
    address, half = front.get_ports()["inference"], format_request(front, bytes(1000))[:-500]
    with ExitStack() as crowd:
        lines = [crowd.enter_context(socket.create_connection(address, 30, (CROWD, 0))) for _ in range(CONNECTIONS + 3)]
        for line in lines:
            line.sendall(half)
        wait_for(lambda: len(list_readable(lines)) == 3, 5)
        assert all(line.recv(65536).startswith(b"HTTP/1.1 429") for line in list_readable(lines))
        assert send_request(front, body=SMOKE[7], source=CROWD).is_error(429)
        assert client.predict(SMOKE[7]).digit == 7
    wait_for(lambda: send_request(front, body=SMOKE[7], source=CROWD).status == 200, 5)


def list_readable(lines: list[socket.socket]) -> list[socket.socket]:
    return select.select(lines, [], [], 0)[0]


def test_logs_contain_no_token_and_no_query(server: Config, client: DigitsClient, folder: Path) -> None:
    """By default, nginx writes the last of these requests to its error log."""
    client.api.request("POST", EXPLAIN + "?target=5&secret=hidden", data=SMOKE[7])
    client.api.request("POST", "/nowhere?secret=hidden")
    client.api.request("POST", PREDICT + "?secret=hidden", data=bytes(MAX_BYTES + 1))
    logs = "".join(path.read_text() for path in folder.glob("*.log"))
    assert f'"POST {EXPLAIN}" 200' in logs
    assert '"POST /nowhere" 404' in logs
    assert f'"POST {PREDICT}" 413' in logs
    assert not [
        word
        for word in ("hidden", "target", *(read_token(server.key_file, kind) for kind in TOKEN_KINDS))
        if word in logs
    ]
