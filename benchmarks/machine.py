"""On what a benchmark ran: machine, versions, commit, as they are kept with its figures."""

import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.drive import has_wrk
from serving.archive import cores
from serving.config import ROOT, ServingError

PACKAGES = ("torch", "torchserve", "fastapi", "uvicorn", "litserve")
UNKNOWN = "unknown"
WRITTEN = ("docs/performance", "benchmarks/results")
NO_WRK = "benchmarks/generator.py, for want of wrk (apt install wrk)"


def machine() -> dict[str, str | int]:
    """What a reader must know of the machine to compare its figures; ServingError without the bench extra."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "closed_loops_by": _first_line("wrk", "-v").partition(" [")[0] if has_wrk() else NO_WRK,
        "commit": _commit(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ServingError(f"{package} is not installed; `make bench` installs what is compared") from error


def _commit() -> str:
    """With a mark if files differ from it; those that benchmarks write do not count."""
    changed = _first_line("git", "status", "--porcelain", "--", *(f":!{folder}" for folder in WRITTEN))
    return _first_line("git", "describe", "--always") + ("-dirty" if changed != UNKNOWN else "")


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _first_line(*command: str) -> str:
    """Of what a command prints; wrk ends with 1 after telling its version."""
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return next(iter(run.stdout.splitlines()), UNKNOWN)
