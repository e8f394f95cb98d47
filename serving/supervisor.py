"""Owns TorchServe: starts it, knows when it is ready, says so on 8083, stops it.

Ready means what a caller means by it: the default version has READY workers and these have answered the ten
smoke pictures right. TorchServe's own /ping says Healthy long before, and while workers crash.
"""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from serving.client import MODEL, Client
from serving.config import ROOT, Config, ServingError
from serving.torchserve import TorchServe, check_ports

SMOKE = ROOT / "handler" / "smoke"  # <digit>.png
READY_SECONDS = 120.0  # until a start is given up
STOP_SECONDS = 40.0  # more than TorchServe is given
POLL_SECONDS = 0.1
PROBE_SECONDS = 5.0  # a server that takes longer to answer one picture is not ready
LOCK_FILE = ".serve.lock"  # holds the process number


class Readiness:
    """Asks the server itself. The smoke pictures are sent when workers have changed, not at every question."""

    def __init__(self, config: Config, server: TorchServe) -> None:
        self.config, self.server = config, server
        self.lock = threading.Lock()
        self.proven: set[str] = set()  # workers that were READY when the smoke pictures were last answered right

    def problem(self, all_workers: bool = False) -> str | None:
        """Why the default version cannot answer now, None if it can; with `all_workers`, if all of them can."""
        if self.server.exit_code() is not None:
            return "TorchServe has ended"
        if not self.lock.acquire(timeout=PROBE_SECONDS):
            return "TorchServe is still being asked"
        try:
            return self._problem(Client(self.config, PROBE_SECONDS), all_workers)
        except requests.HTTPError as error:
            return f"TorchServe answers {error.response.status_code}: {error.response.text.strip()}"
        except (requests.RequestException, ServingError):  # no tokens are written yet, or nobody listens
            return "TorchServe does not answer yet"
        finally:
            self.lock.release()

    def _problem(self, client: Client, all_workers: bool) -> str | None:
        workers = client.workers()
        ready = {f"{each['version']} {each['id']} {each['pid']}" for each in workers if each["status"] == "READY"}
        if not ready or (all_workers and len(ready) < len(workers)):
            return f"{len(ready)} of {len(workers)} workers of {MODEL} are READY"
        if ready <= self.proven:
            return None
        problem = _smoke(client, workers[0]["version"])
        if problem is None:
            self.proven = ready
        return problem


def _smoke(client: Client, version: str) -> str | None:
    """By the version's own URL, so that what is counted for the default are callers' requests alone."""
    for path in sorted(SMOKE.glob("*.png")):
        response = client.predict(path.read_bytes(), version)
        if response.status_code != 200:
            return f"smoke picture {path.name}: {response.status_code} {response.text.strip()}"
        if str(response.json()["digit"]) != path.stem:
            return f"smoke picture {path.name} was read as {response.json()['digit']}"
    return None


class _Door(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is its own business: no traceback for it."""


@contextmanager
def door(config: Config, readiness: Readiness) -> Iterator[None]:
    """Our own HTTP address: /live, /ready (503 with the reason) and /metrics, while the block runs."""
    registry = CollectorRegistry()
    gauge = Gauge("digits_ready", "1 while the default version answers, else 0", registry=registry)
    gauge.set_function(lambda: float(readiness.problem() is None))

    def ready() -> tuple[int, str, bytes]:
        problem = readiness.problem()
        return 503 if problem else 200, "text/plain", (problem or "ready").encode() + b"\n"

    answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {
        "/live": lambda: (200, "text/plain", b"live\n"),
        "/ready": ready,
        "/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest(registry)),
    }
    nowhere = (404, "text/plain", f"{', '.join(answers)} are here\n".encode())

    class Door(BaseHTTPRequestHandler):
        timeout = 10  # s, for a client that sends nothing

        def do_GET(self) -> None:
            status, content_type, body = answers.get(urlsplit(self.path).path, lambda: nowhere)()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - http.server calls it so

        def log_message(self, *_: object) -> None:
            """A load balancer asks every second: no line for it."""

    server = _Door(config.ports()["supervisor"], Door)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def running(config: Config, archive: Path) -> Iterator[Readiness]:
    """TorchServe and our door, from free ports to the end of the block, when all processes are gone."""
    check_ports(config)
    config.key_file.unlink(missing_ok=True)  # of a server that was killed
    server = TorchServe(config, archive)
    readiness = Readiness(config, server)
    try:
        with door(config, readiness):
            yield readiness
    finally:
        server.stop()
        config.key_file.unlink(missing_ok=True)


def wait_ready(readiness: Readiness, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Waits until all workers answer; False if it was stopped before. ServingError if it ends or takes too long."""
    deadline = time.monotonic() + READY_SECONDS
    told = None
    while (problem := readiness.problem(all_workers=True)) and not stopped():
        if readiness.server.exit_code() is not None:
            raise ServingError(f"TorchServe ended while starting, with code {readiness.server.exit_code()}; see logs/")
        if time.monotonic() > deadline:
            raise ServingError(f"not ready after {READY_SECONDS:.0f} s: {problem}; see logs/torchserve.log")
        if problem != told:
            print(f"  {problem}", file=sys.stderr)
            told = problem
        time.sleep(POLL_SECONDS)
    return problem is None


def serve(config: Config, archive: Path) -> int:
    """Serves in the foreground until SIGINT, SIGTERM or SIGHUP; returns the exit code."""
    stop = _stop_on_signals()
    started = time.monotonic()
    print(f"starting TorchServe with {archive.name}", file=sys.stderr)
    with _own_terminal(), _lock(config), running(config, archive) as readiness:
        if wait_ready(readiness, stop.is_set):
            print(_welcome(config, time.monotonic() - started), flush=True)
        while not stop.wait(POLL_SECONDS):
            if readiness.server.exit_code() is not None:
                raise ServingError(f"TorchServe ended by itself, with code {readiness.server.exit_code()}; see logs/")
        print("stopping", file=sys.stderr)
    return 0


def _welcome(config: Config, seconds: float) -> str:
    inference, management = config.url("inference"), config.url("management")
    return f"""READY in {seconds:.1f} s
  inference   {inference}/predictions/{MODEL}
  management  {management}/models
  metrics     {config.url("metrics")}/metrics
  readiness   {config.url("supervisor")}/ready

curl -H "Authorization: Bearer $(make -s token)" -T handler/smoke/7.png {inference}/predictions/{MODEL}
"""


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: stop.set())
    return stop


@contextmanager
def _own_terminal() -> Iterator[None]:
    """Takes the terminal for the block, as a shell gives it to a job: Ctrl-C then reaches us and not `make`.

    `make` would report it as an error. Without a terminal, or in the background, nothing is done.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        before = os.tcgetpgrp(terminal)
    except OSError:
        yield
        return
    if before != os.getpgrp() or before == os.getpid():
        os.close(terminal)
        yield
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a suspended supervisor would leave its server alone
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        with suppress(OSError):  # whoever had the terminal before us is gone
            os.tcsetpgrp(terminal, before)
        os.close(terminal)


@contextmanager
def _lock(config: Config) -> Iterator[None]:
    """One server a working directory, from before its start until all its processes are gone."""
    path = config.folder / LOCK_FILE
    with path.open("a+") as file:
        if not _take(file):
            file.seek(0)
            raise ServingError(f"a server already runs here, as process {file.read()}; `make stop` ends it")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def stop(config: Config) -> bool:
    """Stops the server of this configuration and waits until all of it has ended; False if none runs."""
    path = config.folder / LOCK_FILE
    if not path.exists():
        return False
    with path.open("r+") as file:
        if _take(file):
            return False
        os.kill(int(file.read()), signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while not _take(file):
            if time.monotonic() > deadline:
                raise ServingError(f"the server still runs {STOP_SECONDS:.0f} s after it was asked to stop")
            time.sleep(POLL_SECONDS)
    return True


def _take(file: IO[str]) -> bool:
    """Whether nobody else holds the file's lock; held until the file is closed or its process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
