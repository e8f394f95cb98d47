"""What docs/nginx.conf passes on, seen from TorchServe's place: paths, headers, connections, who never arrives."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.nginx import EXPLAIN, PREDICT, Reply, free_port, needs_nginx, placed, started
from tests.pictures import SMOKE

HEADER_SECONDS, BODY_SECONDS = 5, 10  # of the file

pytestmark = needs_nginx


@dataclass
class Upstream:
    """In TorchServe's place: what arrived there, as method, path, headers in lower case and body."""

    port: int
    arrived: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def upstream(breaks: Callable[[int], bool] = lambda _: False) -> Iterator[Upstream]:
    """Answers 200, but breaks the connection at some requests, by their number on it."""

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        served = 0

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorded.arrived.append((self.command, self.path, headers, body))
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
        recorded = Upstream(serving.server_port)
        thread = Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield recorded
        finally:
            serving.shutdown()
            thread.join()


@contextmanager
def in_front_of(back: int, folder: Path) -> Iterator[Callable[..., Reply]]:
    """Asks nginx, all on one connection and so one nginx worker, whose kept connections are the ones used again."""
    port = free_port()
    with (
        started(folder, placed(folder, back, port), port),
        closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection,
    ):

        def asked(path: str = PREDICT, **headers: str) -> Reply:
            connection.request("POST", path, SMOKE[7], headers)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())

        yield asked


def test_torchserve_sees_the_path_the_token_and_no_word_of_its_own(tmp_path: Path) -> None:
    with upstream() as behind, in_front_of(behind.port, tmp_path) as asked:
        asked(EXPLAIN + "/1.0?target=3&explain=True", explain="True", describe="True", url_path="/x", Authorization="A")
        asked("//predictions/./digits/%31%2e0", **{"Content-Type": "Application/X-WWW-Form-Urlencoded; charset=x"})
        asked(**{"Content-Type": "multipart/form-data; boundary=B", "X-Target": "4"})
    first, second, third = behind.arrived
    assert first[:2] == ("POST", EXPLAIN + "/1.0")
    assert (first[2]["authorization"], first[2]["x-target"]) == ("A", "3")
    assert not {"explain", "describe", "url_path", "connection", "content-type"} & first[2].keys()
    assert (second[1], second[2]["content-type"]) == (PREDICT + "/1.0", "application/octet-stream")
    assert "x-target" not in second[2]
    assert (third[2]["content-type"], third[2]["x-target"]) == ("multipart/form-data; boundary=B", "4")
    assert [each[3] for each in behind.arrived] == [SMOKE[7]] * 3


def test_a_kept_connection_that_breaks_costs_no_request_and_a_new_one_is_not_asked_twice(tmp_path: Path) -> None:
    with upstream(lambda number: number == 2) as behind, in_front_of(behind.port, tmp_path) as asked:
        assert [asked().status for _ in range(2)] == [200, 200]
        assert len(behind.arrived) == 3
    with upstream(lambda _: True) as behind, in_front_of(behind.port, tmp_path) as asked:
        assert asked().refuses(502)
        assert len(behind.arrived) == 1


def test_nobody_behind_it_is_told_in_json(tmp_path: Path) -> None:
    with in_front_of(free_port(), tmp_path) as asked:
        assert asked().refuses(502)


def test_who_sends_nothing_or_half_a_body_is_cut_off_and_torchserve_never_hears_of_them(tmp_path: Path) -> None:
    with upstream() as behind:
        port = free_port()
        with started(tmp_path, placed(tmp_path, behind.port, port), port):
            half = f"POST {PREDICT} HTTP/1.1\r\nHost: digits\r\nContent-Length: 1000\r\n\r\nhalf".encode()
            said = {b"": HEADER_SECONDS, half[:30]: HEADER_SECONDS, half: BODY_SECONDS}
            begun = time.monotonic()
            lines = [(socket.create_connection(("127.0.0.1", port), 30), *each) for each in said.items()]
            for line, words, _ in lines:
                line.sendall(words)
            for line, _, seconds in lines:
                with line, suppress(ConnectionResetError):
                    assert line.recv(1000) == b""
                assert seconds - 0.5 < time.monotonic() - begun < seconds + 2
    assert not behind.arrived
