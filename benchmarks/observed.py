"""python -m benchmarks.observed: what metrics and the log of requests cost, and whether mean times agree.

Two servers, one as it ships, scraped as Prometheus would, one that neither counts nor logs; while one is asked, the
other is suspended. Rounds alternate: docs/performance/metrics.md. Three minutes.
"""

import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from benchmarks.contenders import BARE, OURS, Server, started
from benchmarks.drive import Measured, drive
from benchmarks.loads import Load
from benchmarks.machine import machine
from benchmarks.page import written
from benchmarks.usage import family
from serving.config import ROOT, Config, read_config

PAGE = ROOT / "docs" / "performance" / "metrics.md"
WARM_UP = Load("warm-up", "png", 64, 15)
LOAD = Load("64", "png", 64, 5)
ROUNDS = 12
SCRAPE_SECONDS = 5.0

TEXT = """# What metrics and the log of requests cost

Written by `python -m benchmarks.observed` on {cpu}, {cores} cores, commit {commit}, {date}.

Single 28x28 PNGs at 64 connections, in {rounds} rounds of {seconds:.0f} s for each server in turn, the other one
suspended meanwhile. On: as it ships, ports 8082 and 8083 scraped every {scrape:.0f} s. Off: a handler that neither
counts nor logs, a supervisor that does not watch, TorchServe without metrics and logs.

| | pictures a second, median |
|---|---|
| on | {on:,.0f} |
| off | {off:,.0f} |

The median of the rounds' ratios is {ratio:.3f}, their quartiles {low:.3f} and {high:.3f}: metrics and log cost
{cost:.1f}%.

Of whole requests, the mean by TorchServe's counters (`ts_inference_latency_microseconds` over
`ts_inference_requests_total`) was {theirs:.2f} ms, by the load generator (connections over requests a second)
{ours:.2f} ms: {apart:.1f}% apart. What a request spends between the generator and TorchServe's network threads, no
counter of TorchServe's has.
"""


@contextmanager
def suspended(server: Server) -> Iterator[None]:
    """The server, with all its processes, stands still while the block runs."""
    processes = [psutil.Process(server.process.pid), *family(server.process.pid)]
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.suspend()
    try:
        yield
    finally:
        for each in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                each.resume()


@contextmanager
def scraped(config: Config) -> Iterator[None]:
    """Both addresses of metrics are asked every SCRAPE_SECONDS while the block runs."""
    ended = threading.Event()

    def scrape() -> None:
        while not ended.wait(SCRAPE_SECONDS):
            for api in ("metrics", "supervisor"):
                requests.get(config.url(api) + "/metrics", timeout=SCRAPE_SECONDS)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def counted(config: Config) -> tuple[float, float]:
    """Seconds and requests that TorchServe's counters have of the default version by now."""
    text = requests.get(config.url("metrics") + "/metrics", timeout=SCRAPE_SECONDS).text
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    samples = [each for family in text_string_to_metric_families(lines) for each in family.samples]
    told = {each.name: each.value for each in samples if each.labels.get("model_version") == "default"}
    return told["ts_inference_latency_microseconds"] / 1e6, told["ts_inference_requests_total"]


def measured() -> str:
    """The page's text."""
    told = machine()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as first,
        tempfile.TemporaryDirectory(prefix="bench-") as second,
        started(OURS, Path(first)) as on,
        started(BARE, Path(second)) as off,
    ):
        return _page(told, on, off)


def _page(told: dict[str, str | int], on: Server, off: Server) -> str:
    config = read_config(on.folder / "config.properties")
    speeds: dict[str, list[float]] = {OURS: [], BARE: []}
    with tqdm(total=2 * (ROUNDS + 1), unit=" rounds", leave=False, disable=None) as bar:
        for asked, other in ((on, off), (off, on)):
            with suspended(other):
                _drive(asked, WARM_UP)
            bar.update()
        seconds, served = counted(config)
        for turn in range(ROUNDS):
            for asked, other in ((on, off), (off, on))[:: 1 if turn % 2 else -1]:
                with suspended(other), scraped(config) if asked is on else nullcontext():
                    speeds[asked.name].append(_drive(asked, LOAD).pictures_per_second)
                bar.update()
        seconds, served = (now - then for now, then in zip(counted(config), (seconds, served), strict=True))
    return _text(told, speeds, seconds / served)


def _text(told: dict[str, str | int], speeds: dict[str, list[float]], theirs: float) -> str:
    ratios = [on / off for on, off in zip(speeds[OURS], speeds[BARE], strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4)
    ours = statistics.mean(LOAD.connections / speed for speed in speeds[OURS])
    return TEXT.format(
        **{name: told[name] for name in ("cpu", "cores", "commit", "date")},
        rounds=ROUNDS, seconds=LOAD.seconds, scrape=SCRAPE_SECONDS,
        on=statistics.median(speeds[OURS]), off=statistics.median(speeds[BARE]),
        ratio=ratio, low=low, high=high, cost=100 * (1 - ratio),
        theirs=1000 * theirs, ours=1000 * ours, apart=100 * (ours - theirs) / ours,
    )  # fmt: skip


def _drive(server: Server, load: Load) -> Measured:
    return drive(server.name, 0, load, server.plan.port, server.process.pid, server.requests(load.kind))


if __name__ == "__main__":
    sys.exit(written(PAGE, measured))
