"""Requests that docs/nginx.conf passes on, as its upstream receives them: paths, headers, connections."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.images import SMOKE
from tests.nginx import CONFIG_FILE, EXPLAIN, PREDICT, Reply, needs_nginx, run_nginx, write_config
from tests.servers import find_port

pytestmark = needs_nginx


ReceivedRequest = tuple[str, dict[str, str], bytes]  # path, headers in lower case, body


@contextmanager
def run_upstream(is_broken: Callable[[int], bool] = lambda _: False) -> Iterator[tuple[int, list[ReceivedRequest]]]:
    """Yield the port of a server in place of TorchServe, and the requests it receives.

    It responds with 200, but closes the connection at requests whose number on it `is_broken`.
    """
    received: list[ReceivedRequest] = []

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        served = 0

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.served += 1
            if is_broken(self.served):
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def run_nginx_before(upstream_port: int, folder: Path) -> Iterator[Callable[..., Reply]]:
    """Yield a function that sends requests over one connection, so that one nginx worker reuses its own connections."""
    port = find_port()
    with (
        run_nginx(folder, write_config(folder, upstream_port, port), port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
    ):

        def send(path: str = PREDICT, **headers: str) -> Reply:
            connection.request("POST", path, SMOKE[7], headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

        yield send


def test_torchserve_gets_the_path_and_token_but_no_header_of_its_own(tmp_path: Path) -> None:
    with run_upstream() as (port, received), run_nginx_before(port, tmp_path) as send:
        send(EXPLAIN + "/1.0?target=3&explain=True", explain="True", describe="True", url_path="/x", Authorization="A")
        send("//predictions/./digits/%31%2e0", **{"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=x"})
        send(**{"Content-Type": "multipart/form-data; boundary=B", "X-Target": "4"})
    assert [path for path, _, _ in received] == [EXPLAIN + "/1.0", PREDICT + "/1.0", PREDICT]
    assert [body for _, _, body in received] == [SMOKE[7]] * 3
    headers = [header for _, header, _ in received]
    assert (headers[0]["authorization"], headers[0]["x-target"]) == ("A", "3")
    assert not {"explain", "describe", "url_path", "connection", "content-type"} & headers[0].keys()
    assert headers[1]["content-type"] == "application/octet-stream"
    assert "x-target" not in headers[1]
    assert (headers[2]["content-type"], headers[2]["x-target"]) == ("multipart/form-data; boundary=B", "4")


def test_broken_kept_connection_is_retried_and_a_new_one_is_not(tmp_path: Path) -> None:
    with run_upstream(lambda number: number == 2) as (port, received), run_nginx_before(port, tmp_path) as send:
        assert [send().status for _ in range(2)] == [200, 200]
        assert len(received) == 3
    with run_upstream(lambda _: True) as (port, received), run_nginx_before(port, tmp_path) as send:
        assert send().is_error(502)
        assert len(received) == 1
    with run_nginx_before(find_port(), tmp_path) as send:  # a port without a server
        assert send().is_error(502)


def test_incomplete_requests_time_out_and_never_reach_torchserve(tmp_path: Path) -> None:
    """Shortens the file's time limits: 1 s for the headers, 2 s for the body."""
    text = CONFIG_FILE.read_text()
    for long, short in (("header_timeout 5s", "header_timeout 1s"), ("body_timeout 10s", "body_timeout 2s")):
        assert long in text
        text = text.replace(long, short)
    half = f"POST {PREDICT} HTTP/1.1\r\nHost: digits\r\nContent-Length: 1000\r\n\r\nhalf".encode()
    front = find_port()
    with run_upstream() as (port, received), run_nginx(tmp_path, write_config(tmp_path, port, front, text), front):
        begin = time.monotonic()
        lines = [socket.create_connection(("127.0.0.1", front), 30) for _ in range(3)]
        for line, words in zip(lines, (b"", half[:30], half), strict=True):
            line.sendall(words)
        for line, seconds in zip(lines, (1, 1, 2), strict=True):
            with line, suppress(ConnectionResetError):
                assert line.recv(1000) == b""
            assert seconds - 0.5 < time.monotonic() - begin < seconds + 2
    assert not received
