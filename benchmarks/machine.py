"""On what a benchmark ran: machine, versions, commit, as they are kept with its figures."""

import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.drive import has_wrk
from serving.archive import cores
from serving.config import ROOT

PACKAGES = ("torch", "torchserve", "fastapi", "uvicorn", "litserve")
NO_WRK = "benchmarks/generator.py, for want of wrk (apt install wrk)"


def machine() -> dict[str, str | int]:
    """What a reader must know of the machine to compare its figures."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": cores(),
        "memory_mb": psutil.virtual_memory().total // 1_000_000,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "closed_loops_by": _first_line("wrk", "-v").partition(" [")[0] if has_wrk() else NO_WRK,
        "commit": _first_line("git", "describe", "--always", "--dirty"),
    }


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _first_line(*command: str) -> str:
    """Of what a command prints; wrk ends with 1 after telling its version."""
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return next(iter(run.stdout.splitlines()), "unknown")
