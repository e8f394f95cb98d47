"""What docs/nginx.conf passes on, seen from TorchServe's place: paths, headers, connections, who never arrives."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.images import SMOKE
from tests.nginx import EXPLAIN, FILE, PREDICT, Reply, needs_nginx, placed, started
from tests.servers import find_port

pytestmark = needs_nginx


Arrived = tuple[str, dict[str, str], bytes]  # path, headers in lower case, body


@contextmanager
def upstream(breaks: Callable[[int], bool] = lambda _: False) -> Iterator[tuple[int, list[Arrived]]]:
    """Yield the port of a server in TorchServe's place, and what arrives there.

    It answers 200, but breaks the connection at some requests, by their number on it.
    """
    arrived: list[Arrived] = []

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        served = 0

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.served += 1
            if breaks(self.served):
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recorder) as serving:
        thread = Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield serving.server_port, arrived
        finally:
            serving.shutdown()
            thread.join()


@contextmanager
def in_front_of(back: int, folder: Path) -> Iterator[Callable[..., Reply]]:
    """Asks nginx, all on one connection and so one nginx worker, whose kept connections are the ones used again."""
    port = find_port()
    with (
        started(folder, placed(folder, back, port), port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
    ):

        def send(path: str = PREDICT, **headers: str) -> Reply:
            connection.request("POST", path, SMOKE[7], headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

        yield send


def test_torchserve_sees_the_path_the_token_and_no_word_of_its_own(tmp_path: Path) -> None:
    with upstream() as (port, arrived), in_front_of(port, tmp_path) as send:
        send(EXPLAIN + "/1.0?target=3&explain=True", explain="True", describe="True", url_path="/x", Authorization="A")
        send("//predictions/./digits/%31%2e0", **{"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=x"})
        send(**{"Content-Type": "multipart/form-data; boundary=B", "X-Target": "4"})
    assert [path for path, _, _ in arrived] == [EXPLAIN + "/1.0", PREDICT + "/1.0", PREDICT]
    assert [body for _, _, body in arrived] == [SMOKE[7]] * 3
    headers = [each for _, each, _ in arrived]
    assert (headers[0]["authorization"], headers[0]["x-target"]) == ("A", "3")
    assert not {"explain", "describe", "url_path", "connection", "content-type"} & headers[0].keys()
    assert headers[1]["content-type"] == "application/octet-stream"
    assert "x-target" not in headers[1]
    assert (headers[2]["content-type"], headers[2]["x-target"]) == ("multipart/form-data; boundary=B", "4")


def test_a_kept_connection_that_breaks_costs_no_request_and_a_new_one_is_not_asked_twice(tmp_path: Path) -> None:
    with upstream(lambda number: number == 2) as (port, arrived), in_front_of(port, tmp_path) as send:
        assert [send().status for _ in range(2)] == [200, 200]
        assert len(arrived) == 3
    with upstream(lambda _: True) as (port, arrived), in_front_of(port, tmp_path) as send:
        assert send().refuses(502)
        assert len(arrived) == 1
    with in_front_of(find_port(), tmp_path) as send:  # where nobody listens
        assert send().refuses(502)


def test_who_sends_nothing_or_half_a_body_is_cut_off_and_torchserve_never_hears_of_them(tmp_path: Path) -> None:
    """With less patience than the file has: headers have 1 s here, and the body has 2."""
    text = FILE.read_text()
    for long, short in (("header_timeout 5s", "header_timeout 1s"), ("body_timeout 10s", "body_timeout 2s")):
        assert long in text
        text = text.replace(long, short)
    half = f"POST {PREDICT} HTTP/1.1\r\nHost: digits\r\nContent-Length: 1000\r\n\r\nhalf".encode()
    front = find_port()
    with upstream() as (port, arrived), started(tmp_path, placed(tmp_path, port, front, text), front):
        begin = time.monotonic()
        lines = [socket.create_connection(("127.0.0.1", front), 30) for _ in range(3)]
        for line, words in zip(lines, (b"", half[:30], half), strict=True):
            line.sendall(words)
        for line, seconds in zip(lines, (1, 1, 2), strict=True):
            with line, suppress(ConnectionResetError):
                assert line.recv(1000) == b""
            assert seconds - 0.5 < time.monotonic() - begin < seconds + 2
    assert not arrived
