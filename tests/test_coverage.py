"""Line coverage in `make test-slow` includes TorchServe's workers, which run an extracted copy of the handler."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.config import ROOT
from serving.java_command import make_environment

SETTINGS = ("COVERAGE_PROCESS_START", "COVERAGE_FILE")
WORKER = """
import sys, digit_handler
from handler.protocol import parse_headers
digit_handler.Handler().handle(parse_headers({}))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("is_terminated", [False, True], ids=["exits", "is terminated"])
def test_lines_of_a_worker_are_measured_as_the_checkouts(
    is_terminated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTINGS[0], str(ROOT / "pyproject.toml"))
    monkeypatch.setenv(SETTINGS[1], str(tmp_path / "data"))
    extracted = tmp_path / "models" / "5765615538794adf"
    shutil.copytree(ROOT / "handler", extracted / "handler")
    (extracted / "digit_handler.py").write_text(
        "class Handler:\n    def handle(self, headers):\n        return headers\n"
    )
    command = [sys.executable, "-c", WORKER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=extracted, env=make_environment(tmp_path), **pipes) as worker:  # type: ignore[call-overload]
        worker.stdout.readline()
        if is_terminated:
            worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=30)
    assert worker.returncode == (-signal.SIGTERM if is_terminated else 0)

    files = measure_lines(tmp_path)
    assert 3 in files["handler/digit_handler.py"]
    source = (ROOT / "handler" / "protocol.py").read_text().splitlines()
    inside = 1 + next(number for number, line in enumerate(source) if "correlation_id, is_probe = None, False" in line)
    assert inside in files["handler/protocol.py"]


def measure_lines(folder: Path) -> dict[str, list[int]]:
    """Return the executed lines of every file of the checkout."""
    environment = {name: value for name, value in os.environ.items() if name != SETTINGS[0]}
    for words in (["combine", "--quiet"], ["json", "--quiet", "-o", str(folder / "report.json")]):
        subprocess.run([sys.executable, "-m", "coverage", *words], cwd=ROOT, env=environment, check=True)
    report = json.loads((folder / "report.json").read_text())
    return {path: file["executed_lines"] for path, file in report["files"].items()}
