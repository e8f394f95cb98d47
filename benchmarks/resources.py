"""CPU and memory of a server's processes, and a description of the machine."""

import platform
import subprocess
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from common.errors import UserError
from serving.archive import count_cores
from serving.config import ROOT

PACKAGES = ("torch", "torchserve", "fastapi", "uvicorn", "litserve")


def list_processes(pid: int) -> list[psutil.Process]:
    """Return the process and its descendants; an empty list if it has ended."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def measure_cpu_seconds(pid: int) -> float:
    """Return user plus system time of the process and its running descendants."""
    total = 0.0
    for process in list_processes(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def measure_pss_mb(pid: int) -> float:
    """Return the summed PSS of the process and its descendants in MB; shared pages count once."""
    total = 0
    for process in list_processes(pid):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6


def describe_machine() -> dict[str, str | int]:
    """Return hardware, versions, commit and date; raise UserError if a peer is not installed."""
    try:
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    except PackageNotFoundError as error:
        raise UserError(f"{error.name} is not installed; `make bench` installs it") from error
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": next(iter(models), platform.processor()),
        "cores": count_cores(),
        "versions": f"Python {platform.python_version()}, {versions}",
        "commit": _describe_commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _describe_commit() -> str:
    """Return the commit, marked -dirty if files differ from it."""
    run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"
