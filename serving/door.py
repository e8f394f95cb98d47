"""The supervisor's own HTTP address, 8083: /live, /ready, /metrics and the page to draw on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from serving.config import Config
from serving.draw import HEADERS, PATH, QUESTIONS, Draw, Told

POLL_SECONDS = 0.1  # until it sees that it is to end


class _Door(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], answers: dict[str, Callable[[], Told]], draw: Draw) -> None:
        self.answers, self.draw = answers, draw
        super().__init__(address, _Request)

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is its own business: no traceback for it."""


class _Request(BaseHTTPRequestHandler):
    server: _Door
    timeout = 10  # s, for a client that sends nothing
    wbufsize = -1  # head and body in one piece: a server that ends answers to the end or not at all

    def do_GET(self) -> None:
        path = self._path()
        if path in QUESTIONS:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)
        elif _is_draws(path):
            self._answer(*self.server.draw.get(path, self.headers))
        elif path in self.server.answers:
            self._answer(*self.server.answers[path]())
        else:
            self._answer(404, "text/plain", f"{', '.join([*self.server.answers, PATH])} are here\n".encode())

    do_HEAD = do_GET  # noqa: N815 - http.server calls it so

    def do_POST(self) -> None:
        if self._path() in QUESTIONS:
            self._answer(*self.server.draw.post(self.path, self.headers, self.rfile))
        else:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Of http.server, which would answer in HTML, and 501 to a method that is only not allowed."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, f"allowed here: {self._allowed()}"
        self.close_connection = True
        self._answer(code, "text/plain", f"{message or explain or HTTPStatus(code).phrase}\n".encode())

    def _path(self) -> str:
        return urlsplit(getattr(self, "path", "")).path  # a request that is no HTTP has none

    def _allowed(self) -> str:
        return "POST" if self._path() in QUESTIONS else "GET, HEAD"

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", self._allowed())
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if _is_draws(self._path()):
            for name, value in HEADERS.items():
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """A load balancer asks every second: no line for it."""


@contextmanager
def door(config: Config, registry: CollectorRegistry, problem: Callable[[], str | None]) -> Iterator[None]:
    """Answers while the block runs; /ready says 503 with the `problem`, if there is one."""

    def ready() -> Told:
        reason = problem()
        return 503 if reason else 200, "text/plain", (reason or "ready").encode() + b"\n"

    answers: dict[str, Callable[[], Told]] = {
        "/live": lambda: (200, "text/plain", b"live\n"),
        "/ready": ready,
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
    }
    with _Door(config.ports()["supervisor"], answers, Draw(config, problem)) as server:
        threading.Thread(target=server.serve_forever, args=[POLL_SECONDS], daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def _is_draws(path: str) -> bool:
    return path == PATH or path.startswith(f"{PATH}/")
