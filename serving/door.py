"""The supervisor's own HTTP address, 8083: /live, /ready and /metrics."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from serving.config import Config


class _Door(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is its own business: no traceback for it."""


@contextmanager
def door(config: Config, registry: CollectorRegistry, problem: Callable[[], str | None]) -> Iterator[None]:
    """Answers while the block runs; /ready says 503 with the `problem`, if there is one."""

    def ready() -> tuple[int, str, bytes]:
        reason = problem()
        return 503 if reason else 200, "text/plain", (reason or "ready").encode() + b"\n"

    answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {
        "/live": lambda: (200, "text/plain", b"live\n"),
        "/ready": ready,
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
    }
    nowhere = (404, "text/plain", f"{', '.join(answers)} are here\n".encode())

    class Door(BaseHTTPRequestHandler):
        timeout = 10  # s, for a client that sends nothing

        def do_GET(self) -> None:
            self._answer(*answers.get(urlsplit(self.path).path, lambda: nowhere)())

        do_HEAD = do_GET  # noqa: N815 - http.server calls it so

        def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
            """Of http.server, which would answer in HTML, and 501 to a method that is only not allowed."""
            if code == HTTPStatus.NOT_IMPLEMENTED:
                code, message = HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD are allowed here"
            self.close_connection = True
            self._answer(code, "text/plain", f"{message or explain or HTTPStatus(code).phrase}\n".encode())

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A load balancer asks every second: no line for it."""

    server = _Door(config.ports()["supervisor"], Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
