"""python -m benchmarks.observed: what metrics and the log of requests cost, and whether mean times agree.

Three servers, one as it ships, scraped as Prometheus would, one without this project's metrics and log, one without
TorchServe's too; while one is asked, the others are suspended. Rounds alternate, and all are started anew several
times, as one start of Java is faster than another: docs/performance/metrics.md. Eight minutes.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from benchmarks.contenders import BARE, OURS, UNOBSERVED, Server, started
from benchmarks.drive import Measured, drive
from benchmarks.loads import Load
from benchmarks.machine import machine
from benchmarks.page import written
from benchmarks.usage import family
from serving.config import ROOT, Config, read_config

PAGE = ROOT / "docs" / "performance" / "metrics.md"
WARM_UP = Load("warm-up", "png", 64, 10)
LOAD = Load("64", "png", 64, 5)
ASKED = {OURS: ("metrics", "supervisor"), UNOBSERVED: ("metrics",), BARE: ()}  # server -> what is scraped of it
STARTS, ROUNDS = 3, 6
SCRAPE_SECONDS = 5.0
LAST_SECONDS = 0.5  # for requests that the load leaves behind: in a suspended server they would take long

TEXT = """# What metrics and the log of requests cost

Written by `python -m benchmarks.observed` on {cpu}, {cores} cores, commit {commit}, {date}.

Single 28x28 PNGs at 64 connections, in {rounds} rounds of {seconds:.0f} s for each server in turn, the others suspended
meanwhile, after each of {starts} starts. Metrics are scraped every {scrape:.0f} s: ports 8082 and 8083 of the first,
port 8082 of the second server.

| | pictures a second, median | as it ships to this one, median of all rounds | quartiles | medians of the starts |
|---|---|---|---|---|
| as it ships | {ours:,.0f} | | | |
| neither handler nor supervisor counts or logs requests | {unobserved:,.0f} | {own} |
| and TorchServe keeps no metrics and logs either | {bare:,.0f} | {all} |

By the median of all rounds this project's metrics and log cost {cost:.1f}%, with TorchServe's own {cost_all:.1f}%. The
second has the first in it: where it is smaller, starts of one server differ by more than what is measured.

Of whole requests, the mean by TorchServe's counters (`ts_inference_latency_microseconds` over
`ts_inference_requests_total`) was {theirs:.2f} ms, by the load generator (connections over requests a second)
{ours_mean:.2f} ms: {apart:.1f}% apart. What a request spends between the generator and TorchServe's network threads, no
counter of TorchServe's has.
"""


@contextmanager
def suspended(servers: list[Server]) -> Iterator[None]:
    """The servers, with all their processes, stand still while the block runs."""
    pids = [server.process.pid for server in servers]
    processes = [each for pid in pids for each in (psutil.Process(pid), *family(pid))]
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
def scraped(config: Config, apis: Sequence[str]) -> Iterator[None]:
    """The metrics of these addresses are asked every SCRAPE_SECONDS while the block runs, first after half of that."""
    ended = threading.Event()

    def scrape() -> None:
        wait = SCRAPE_SECONDS / 2
        while not ended.wait(wait):
            wait = SCRAPE_SECONDS
            for api in apis:
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


@dataclass
class Rounds:
    """What was measured so far."""

    speeds: dict[str, list[float]]  # pictures a second, by server
    seconds: float = 0.0  # by TorchServe's counters, of so many requests
    served: float = 0.0


def measured() -> str:
    """The page's text."""
    told, rounds = machine(), Rounds({name: [] for name in ASKED})
    with tqdm(total=STARTS * len(ASKED) * (1 + ROUNDS), unit=" rounds", leave=False, disable=None) as bar:
        for _ in range(STARTS):
            with ExitStack() as stack:
                servers = []
                for name in ASKED:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
                    servers.append(stack.enter_context(started(name, Path(folder))))
                _start(servers, rounds, bar)
    return _text(told, rounds)


def _start(servers: list[Server], rounds: Rounds, bar: "tqdm[Any]") -> None:
    configs = {server.name: read_config(server.folder / "config.properties") for server in servers}
    for server in servers:
        with _alone(server, servers):
            _drive(server, WARM_UP)
        bar.update()
    seconds, served = counted(configs[OURS])
    for turn in range(ROUNDS):
        first = turn % len(servers)
        for server in servers[first:] + servers[:first]:
            with _alone(server, servers), scraped(configs[server.name], ASKED[server.name]):
                rounds.speeds[server.name].append(_drive(server, LOAD).pictures_per_second)
            bar.update()
    now = counted(configs[OURS])
    rounds.seconds, rounds.served = rounds.seconds + now[0] - seconds, rounds.served + now[1] - served


def _alone(server: Server, servers: list[Server]) -> AbstractContextManager[None]:
    return suspended([each for each in servers if each is not server])


def _text(told: dict[str, str | int], rounds: Rounds) -> str:
    own, every = (_ratios(rounds.speeds[OURS], rounds.speeds[name]) for name in (UNOBSERVED, BARE))
    ours = LOAD.connections / statistics.mean(rounds.speeds[OURS])
    theirs = rounds.seconds / rounds.served
    return TEXT.format(
        **{name: told[name] for name in ("cpu", "cores", "commit", "date")},
        **{name: statistics.median(each) for name, each in rounds.speeds.items()},
        rounds=ROUNDS, seconds=LOAD.seconds, starts=STARTS, scrape=SCRAPE_SECONDS,
        own=_cells(own), all=_cells(every), cost=_cost(own), cost_all=_cost(every),
        theirs=1000 * theirs, ours_mean=1000 * ours, apart=100 * (ours - theirs) / ours,
    )  # fmt: skip


def _ratios(on: list[float], off: list[float]) -> list[float]:
    return [one / other for one, other in zip(on, off, strict=True)]


def _cost(ratios: list[float]) -> float:
    """In percent."""
    return 100 * (1 - statistics.median(ratios))


def _cells(ratios: list[float]) -> str:
    low, median, high = statistics.quantiles(ratios, n=4)
    starts = [statistics.median(ratios[first : first + ROUNDS]) for first in range(0, len(ratios), ROUNDS)]
    return f"{median:.3f} | {low:.3f} to {high:.3f} | {', '.join(f'{each:.3f}' for each in starts)}"


def _drive(server: Server, load: Load) -> Measured:
    done = drive(server.name, 0, load, server.plan.port, server.process.pid, server.requests(load.kind))
    time.sleep(LAST_SECONDS)
    return done


if __name__ == "__main__":
    sys.exit(written(PAGE, measured))
