"""Run a workload against a server by wrk: closed loops and, with the send times of load_test.lua, open loops."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.resources import measure_cpu_seconds, measure_pss_mb
from benchmarks.servers import Server
from benchmarks.workloads import Workload
from common.errors import UserError

SCRIPT = Path(__file__).with_name("load_test.lua")
TIMEOUT_SECONDS = 10  # after which wrk counts a request as broken
MARGIN_SECONDS = 30  # for the start and the end of wrk


@dataclass(frozen=True)
class Measurement:
    """One workload on one server; latency counts from sending, in an open loop from when a request was due."""

    server: str
    workload: str
    repeat: int
    seconds: float
    images_per_second: float  # in responses with status 200
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]
    broken: int  # connections refused, broken or timed out
    rate: float | None  # requests due per second; None in a closed loop
    server_cores: float  # CPU seconds per second
    generator_cores: float
    pss_mb: float  # of the server, right after the workload

    @property
    def failures(self) -> int:
        """Requests without a response of status 200."""
        return self.broken + sum(count for status, count in self.statuses.items() if status != "200")


def describe_wrk() -> str:
    """Return wrk's version; raise UserError if it is not installed."""
    if not shutil.which("wrk"):
        raise UserError("wrk is not installed; benchmarks need it: apt install wrk (4.1.0)")
    return subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.partition("[")[0].strip()


def run_load_test(server: Server, workload: Workload, repeat: int = 0, rate: float | None = None) -> Measurement:
    """Run the workload; an open loop needs a rate, in requests per second."""
    command = ["wrk", f"-c{workload.connections}", f"-d{workload.seconds}s", f"--timeout={TIMEOUT_SECONDS}s"]
    command += ["-t1" if rate is None else f"-t{workload.connections}", "-s", str(SCRIPT)]
    command += [f"http://127.0.0.1:{server.launch.port}", "--", str(server.requests(workload.images))]
    command += [] if rate is None else [str(rate / workload.connections)]
    server_before, generator_before = measure_cpu_seconds(server.process.pid), _measure_children()
    printed = _run_wrk(command, f"{server.name}, {workload.name}", workload.seconds + MARGIN_SECONDS)
    seconds = printed["seconds"]
    return Measurement(
        server=server.name,
        workload=workload.name,
        repeat=repeat,
        images_per_second=printed["statuses"].get("200", 0) * workload.images / seconds,
        rate=rate,
        server_cores=(measure_cpu_seconds(server.process.pid) - server_before) / seconds,
        generator_cores=(_measure_children() - generator_before) / seconds,
        pss_mb=measure_pss_mb(server.process.pid),
        **printed,
    )


def _run_wrk(command: list[str], text: str, timeout: float) -> dict[str, Any]:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{text}: wrk did not end within {timeout:.0f} s: the server hangs") from error
    if run.returncode or not run.stdout:
        raise UserError(f"{text}: wrk failed: {run.stderr.strip()[-200:]}")
    printed: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return printed


def _measure_children() -> float:
    """Return the CPU seconds of child processes that have ended: while a server runs, those of wrk."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)
