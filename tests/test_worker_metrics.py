"""serving/worker_metrics.py: metrics of real start_worker processes are summed, also after they have ended."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import values

from handler.metrics import Metrics
from handler.protocol import METRICS_FOLDER
from handler.records import Request
from serving.config import ROOT
from serving.worker_metrics import WorkerMetrics

COUNTING = """
import sys
from handler.metrics import Metrics
from handler.records import Request
metrics = Metrics(sys.argv[2])
metrics.record([Request("predict", [])] * int(sys.argv[1]), 0.3)
print("counted", flush=True)
sys.stdin.read()
"""


def start_worker(metrics: WorkerMetrics, requests: int, version: str = "1.0") -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", COUNTING, str(requests), version],
        cwd=ROOT,
        env=os.environ | {METRICS_FOLDER: str(metrics.folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def read_totals(metrics: WorkerMetrics) -> dict[str, float]:
    samples = [sample for metric in metrics.collect() for sample in metric.samples]
    names = {sample.name + sample.labels.get("le", "") + sample.labels.get("kind", ""): sample for sample in samples}
    wanted = (
        "digits_requests_totalpredict",
        "digits_handler_duration_seconds_bucket0.5",
        "digits_handler_duration_seconds_count",
    )
    return {name: names[name].value for name in wanted}


@pytest.fixture
def metrics(tmp_path: Path) -> WorkerMetrics:
    made = WorkerMetrics(tmp_path / "logs" / "metrics")
    made.reset_folder()
    return made


def test_workers_that_end_are_still_counted(metrics: WorkerMetrics) -> None:
    workers = [start_worker(metrics, requests) for requests in (3, 4, 5)]
    expected = {
        "digits_requests_totalpredict": 12,
        "digits_handler_duration_seconds_bucket0.5": 12,
        "digits_handler_duration_seconds_count": 12,
    }
    assert read_totals(metrics) == expected
    for process in workers:
        process.kill()
        process.communicate()
    assert read_totals(metrics) == expected
    metrics.reset_folder()
    assert list(metrics.collect()) == []


def test_an_empty_new_file_does_not_affect_the_others(metrics: WorkerMetrics) -> None:
    process = start_worker(metrics, 1)
    (metrics.folder / f"counter_{process.pid + 1}.db").touch()  # of a process that lives or has ended
    (metrics.folder / f"histogram_{os.getpid()}.db").touch()
    assert read_totals(metrics)["digits_requests_totalpredict"] == 1
    process.communicate("")
    assert read_totals(metrics)["digits_requests_totalpredict"] == 1


def raise_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


def test_on_a_full_disk_a_worker_serves_and_counts_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr("os.posix_fallocate", raise_full)
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())  # type: ignore[no-untyped-call]
    metrics = Metrics("1.0")
    metrics.record([Request("predict", [])], 0.3)
    samples = [sample for metric in metrics.registry.collect() for sample in metric.samples]
    assert [sample.value for sample in samples if sample.name == "digits_handler_duration_seconds_count"] == [1]
