"""Our load generator against small servers whose behaviour is known: what it counts, what it does not hide."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import drive as driving
from benchmarks.drive import drive, has_wrk
from benchmarks.loads import Load
from benchmarks.usage import cpu_seconds, pss_bytes, watched
from serving.config import ROOT, ServingError

STALL = 0.5  # s


class Answering(http.server.BaseHTTPRequestHandler):
    """Every fourth request is refused as by a full queue."""

    protocol_version = "HTTP/1.1"
    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).count += 1
        self.before_answer()
        self.send_response(503 if type(self).count % 4 == 0 else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def before_answer(self) -> None:
        """Whatever a test wants."""

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def answering(before: Callable[[], None] = lambda: None) -> Iterator[tuple[int, type[Answering]]]:
    """Port and handler of a server that calls `before` for each of its answers."""

    class Own(Answering):
        count = 0

        def before_answer(self) -> None:
            before()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield server.server_port, Own
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """A list of three requests, of which two are the same; the third takes several sends."""
    for name, body in {"small": b"a", "large": b"b" * 1_000_000}.items():
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        (tmp_path / name).write_bytes(head.encode() + body)
    listed = tmp_path / "list"
    listed.write_text("".join(f"{tmp_path / name}\n" for name in ("small", "large", "small")))
    return listed


def generated(port: int, requests: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "benchmarks" / "generator.py"), str(port), str(requests), *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def test_closed_loop_counts_every_answer_by_its_status(requests: Path) -> None:
    with answering() as (port, server):
        told = generated(port, requests, "--seconds", "0.5", "--connections", "4")
    answered = sum(told["statuses"].values())
    assert server.count - 4 <= answered <= server.count  # the last four may be under way at the end
    assert told["statuses"]["503"] == answered // 4
    assert not any(told["errors"].values())
    assert 0 < told["p50_ms"] <= told["p99_ms"] <= told["max_ms"]


def test_open_loop_keeps_its_rate_and_waits_for_the_last_answers(requests: Path) -> None:
    with answering() as (port, server):
        told = generated(port, requests, "--seconds", "1", "--connections", "8", "--rate", "100")
    assert sum(told["statuses"].values()) == server.count
    assert 60 <= server.count <= 140


def test_a_stall_shows_in_all_that_fell_due_meanwhile(requests: Path) -> None:
    """A closed loop with as many connections would have seen four late answers, and p90 would be low."""
    requests.write_text(requests.read_text().splitlines()[0])
    begun: list[float] = []

    def stall() -> None:
        begun.append(time.monotonic())
        left = begun[0] + 0.3 + STALL - time.monotonic()
        if 0 < left < STALL:
            time.sleep(left)

    with answering(stall) as (port, _):
        told = generated(port, requests, "--seconds", "1.5", "--connections", "4", "--rate", "200")
    assert told["max_ms"] >= 0.8 * STALL * 1e3
    assert told["p90_ms"] >= 0.4 * STALL * 1e3
    assert sum(told["statuses"].values()) >= 200


def test_broken_and_refused_connections_are_counted(requests: Path) -> None:
    def breaking() -> None:
        raise ConnectionAbortedError

    with answering(breaking) as (port, _):
        told = generated(port, requests, "--seconds", "0.3", "--connections", "2")
    assert told["statuses"] == {}
    assert told["errors"]["read"] + told["errors"]["write"] > 0
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        told = generated(unused.getsockname()[1], requests, "--seconds", "0.3", "--connections", "2")
    assert told["statuses"] == {}
    assert told["errors"]["connect"] > 0


@pytest.mark.parametrize("by", ["wrk", "our own"])
def test_both_generators_tell_the_same_of_a_load(by: str, requests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "wrk" and not has_wrk():
        pytest.skip("wrk is not installed")
    monkeypatch.setattr(driving, "has_wrk", lambda: by == "wrk")
    with answering() as (port, _):
        measured = drive("some", 0, Load("4", "bulk", 4, 1.0), port, os.getpid(), requests)
    assert measured.statuses["200"] == pytest.approx(3 * measured.statuses["503"], abs=8)
    assert measured.pictures_per_second == pytest.approx(64 * measured.statuses["200"] / measured.seconds)
    assert measured.failures == measured.statuses["503"]
    assert measured.generator_cores > 0
    assert measured.pss_mb


def test_a_generator_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="failed under 4 on some"):
        drive("some", 0, Load("4", "png", 4, 1.0, rate=1.0), 9, 1, tmp_path / "missing")


def test_usage_counts_descendants() -> None:
    burn = "import time; held = bytearray(b'1') * 50_000_000; end = time.time() + 0.6\n"
    burn += "while time.time() < end: pass\ninput()"
    nest = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen([sys.executable, "-c", nest], stdin=subprocess.PIPE) as process:
        with watched(process.pid) as usage:
            time.sleep(1.2)
        assert 0.3 < usage.cpu_seconds < 1.2
        assert 50e6 < usage.pss_bytes[-1] < 200e6
        assert process.stdin is not None
        process.stdin.close()
    assert cpu_seconds(process.pid) == pss_bytes(process.pid) == 0
