"""benchmarks/: the page, and short runs against real servers."""

import json
import re
import shutil
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import psutil
import pytest
import requests

from benchmarks import load_test, servers
from benchmarks.compare_servers import SERVERS, measure_server, render_page
from benchmarks.comparison import Comparison, Start
from benchmarks.in_process import describe_rates
from benchmarks.load_test import Measurement, run_load_test
from benchmarks.resources import list_processes
from benchmarks.servers import DEFAULTS, FASTAPI, LARGE, LITSERVE, OURS, TITLES, Launch, start_server
from benchmarks.workloads import IMAGES, JSON, PATH, WARM_UP, WORKLOADS, encode_raw, write_requests
from common.errors import UserError
from common.models import MODEL_FOLDERS
from digits_client.encoding import encode_batch
from handler.preprocessing import frame
from serving.config import ROOT
from tests.images import SMOKE

_, _, MANY, _, BULK, OPEN = WORKLOADS
EXTRA = {FASTAPI: "fastapi", LITSERVE: "litserve", DEFAULTS: "ts"}
SPEED = {OURS: 2000.0, LARGE: 1500.0, FASTAPI: 1000.0, LITSERVE: 800.0, DEFAULTS: 500.0}
MACHINE: dict[str, str | int] = dict.fromkeys(("cpu", "versions", "commit", "date", "wrk", "rates"), "some") | {
    "cores": 2
}
needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed (Debian: wrk)")


def make_results() -> Comparison:
    """Return the figures of three repeats."""
    results = Comparison([Start(name, 5.0, 680.0) for name in SERVERS])
    for workload, repeat, name in product(WORKLOADS, range(3), SERVERS):
        speed = SPEED[name] * (2 if workload is BULK else 1) / (1 + (repeat == 1))  # the machine slows down
        fields = (8.0, speed, 10.0, 18.0, {"200": 9}, 0, 700.0 if workload is OPEN else None, 1.8, 0.1, 700.0)
        results.measurements.append(Measurement(name, workload.name, repeat, *fields))
    return results


def test_page_has_every_server_and_workload_and_ratios_within_repeats() -> None:
    results = make_results()
    assert results.ratio(OURS, FASTAPI, MANY) == 2.0  # though the machine was half as fast in one repeat
    page = render_page(results, MACHINE)
    assert all(f" {TITLES[name]} |" in page for name in SERVERS)
    assert all(f"| {workload.name}" in page for workload in WORKLOADS)
    assert "1,000 (500 to 1,000), 2.00x" in page
    assert "one run, on one machine, at one commit" in page


def test_rates_without_a_server_are_of_both_models() -> None:
    lines = describe_rates(seconds=0.01).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"- {model}, {what}" for model in MODEL_FOLDERS for what in ("frames classified", "PNGs predicted")
    ]


def test_requests_are_different_images_and_batches_of_64(tmp_path: Path) -> None:
    for images, count in ((1, IMAGES), (64, 7)):
        write_requests(tmp_path / "requests", images, encode_raw, {"Authorization": "Bearer token"})
        requests_ = re.split(rb"\d+\nPOST ", (tmp_path / "requests").read_bytes())[1:]
        head, _, body = requests_[-1].partition(b"\r\n\r\n")
        assert len(set(requests_)) == count
        assert f"Content-Length: {len(body)}\r\n".encode() in head
        frame(body if images == 1 else b64decode(json.loads(body)["instances"][63]["b64"]))


def test_missing_wrk_and_an_ended_server_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOGS", tmp_path)
    monkeypatch.setitem(servers.LAUNCHES, FASTAPI, lambda _: Launch(["false"], 9))
    with pytest.raises(UserError, match=r"FastAPI \+ uvicorn ended with code 1; see .*fastapi\.log"):
        start_server(FASTAPI).__enter__()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"wrk is not installed; .* apt install wrk"):
        load_test.describe_wrk()


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRA)
def test_peer_predicts_as_the_project_does_and_all_its_processes_stop(name: str) -> None:
    pytest.importorskip(EXTRA[name], reason="of the bench extra: pip install -r requirements-bench.txt")
    expected = json.loads((ROOT / "model" / "model.json").read_text())["smoke"]
    with start_server(name) as server:
        processes = list_processes(server.process.pid)
        url, headers = f"http://127.0.0.1:{server.launch.port}{PATH}", server.launch.headers()
        predictions = []
        for body, kind in (server.launch.encode(SMOKE[7]), (encode_batch([SMOKE[7], SMOKE[3]]), JSON)):
            response = requests.post(url, body, headers=headers | {"Content-Type": kind}, timeout=30).json()
            predictions += response.get("predictions", [response])
    assert [prediction["digit"] for prediction in predictions] == [7, 7, 3]
    assert predictions[0]["probabilities"] == pytest.approx(expected["7"], abs=1e-4)
    assert predictions[2].keys() == {"digit", "confidence", "accepted", "probabilities", "warnings", "model_version"}
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@contextmanager
def suspend_processes(pid: int) -> Iterator[None]:
    processes = list_processes(pid)
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(processes):
            process.resume()


@needs_wrk
@pytest.mark.slow
@pytest.mark.serial
def test_short_run_measures_and_its_open_loop_shows_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    results = Comparison()
    with start_server(OURS) as server:
        monkeypatch.setattr("benchmarks.compare_servers.start_server", lambda _: nullcontext(server))
        measure_server(OURS, 0, [replace(workload, seconds=2) for workload in (WARM_UP, MANY, OPEN)], results)
        with ThreadPoolExecutor(1) as pool:
            stalled = pool.submit(run_load_test, server, replace(OPEN, seconds=4), rate=100.0)
            time.sleep(1)
            with suspend_processes(server.process.pid):
                time.sleep(1)
    closed, open_loop = results.measurements
    assert closed.failures == open_loop.failures == stalled.result().failures == 0
    assert closed.server_cores > closed.generator_cores > 0
    assert open_loop.images_per_second == pytest.approx(0.7 * closed.images_per_second, rel=0.2)
    assert stalled.result().p99_ms >= 900  # of the 100 requests due in that second, not only of those in flight
    assert stalled.result().statuses["200"] >= 350
