"""Puts a load on a server: closed loops by wrk if it is installed; else, and open ones, by our own generator."""

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loads import Load
from benchmarks.usage import watched
from serving.config import ServingError

HERE = Path(__file__).parent
MARGIN_SECONDS = 30.0  # beyond a load's own, for its generator to start and to wait for the last answers
TIMEOUT_SECONDS = 10  # of one request


@dataclass(frozen=True)
class Measured:
    """One load on one contender. Times count from sending (closed loops) or from when a request was due (open)."""

    contender: str
    load: str
    repeat: int
    seconds: float
    pictures_per_second: float  # of requests that were answered with 200
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    statuses: dict[str, int]
    errors: dict[str, int]  # of connections: connect, read, write, timeout
    server_cores: float  # CPU seconds a second
    generator_cores: float
    pss_mb: list[float]  # a sample every five seconds
    rate: float | None  # requests a second that were due; None in closed loops

    @property
    def failures(self) -> int:
        """Requests that were not answered with 200."""
        return sum(self.errors.values()) + sum(count for status, count in self.statuses.items() if status != "200")


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def drive(contender: str, repeat: int, load: Load, port: int, server: int, requests: Path) -> Measured:
    """Puts the load on the server, a process and its descendants, which listens on the port."""
    command = _wrk(load, port, requests) if load.rate is None and has_wrk() else _own(load, port, requests)
    before = _children_seconds()
    with watched(server) as usage:
        run = _run(command, load.seconds + MARGIN_SECONDS)
    if run.returncode or not run.stdout:
        raise ServingError(f"{command[0]} failed under {load.name} on {contender}: {run.stderr.strip()[-200:]}")
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    answered = told["statuses"].get("200", 0) * load.pictures / told["seconds"]
    return Measured(
        contender=contender,
        load=load.name,
        repeat=repeat,
        pictures_per_second=answered,
        server_cores=usage.cpu_seconds / told["seconds"],
        generator_cores=(_children_seconds() - before) / told["seconds"],
        pss_mb=[sample / 1e6 for sample in usage.pss_bytes],
        rate=load.rate,
        **told,
    )


def _run(command: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise ServingError(f"{command[0]} has not ended after {seconds:.0f} s: the server hangs") from error


def _wrk(load: Load, port: int, requests: Path) -> list[str]:
    options = ["-t1", f"-c{load.connections}", f"-d{load.seconds:.0f}s", "--timeout", f"{TIMEOUT_SECONDS}s"]
    return ["wrk", *options, "-s", str(HERE / "wrk.lua"), f"http://127.0.0.1:{port}", "--", str(requests)]


def _own(load: Load, port: int, requests: Path) -> list[str]:
    command = [sys.executable, str(HERE / "generator.py"), str(port), str(requests)]
    command += ["--seconds", str(load.seconds), "--connections", str(load.connections)]
    return command if load.rate is None else [*command, "--rate", str(load.rate)]


def _children_seconds() -> float:
    """CPU of processes of ours that have ended: while a server runs, the load generators."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
