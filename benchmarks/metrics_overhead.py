"""What this project's metrics and request log cost: docs/performance/metrics.md.

Two servers, one as it ships and scraped as by Prometheus, one without metrics and request log. While one is under load
the other is suspended; rounds alternate, and both start several times, as one start of Java is faster than another.
Some five minutes.
"""

import argparse
import statistics
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import requests

from benchmarks.load_test import describe_wrk, run_load_test
from benchmarks.resources import describe_machine, suspend_processes
from benchmarks.servers import OURS, TITLES, WITHOUT_METRICS, Server, start_server
from benchmarks.workloads import MANY, WARM_UP
from common.atomic import write_atomic
from serving.config import ROOT, read_config

PAGE = ROOT / "docs" / "performance" / "metrics.md"
STARTS, ROUNDS, SECONDS = 3, 6, 5
SCRAPED = {OURS: ("metrics", "supervisor"), WITHOUT_METRICS: ("metrics",)}  # addresses by server

Speeds = dict[str, list[float]]  # server -> images a second, round by round

TEXT = """# What metrics and the request log cost

Written by `python -m benchmarks metrics-overhead` on {cpu}, {cores} cores, commit {commit}, {date}.

Single 28x28 PNGs at 64 connections, {rounds} on one server while the other is suspended, in turn, after {starts}
starts of both. Metrics are scraped once a round: ports 8082 and 8083 of this project as it ships, port 8082 of the same
without its metrics and request log.

As it ships {ours:,.0f} images a second, without {without:,.0f} (medians). As it ships to without, by round:
{ratio}; medians of the starts {medians}.

Cost of this project's metrics and request log: {cost:.1f}% of the throughput.
"""


def run(_: argparse.Namespace) -> int:
    """Measure, write the page and print it."""
    describe_wrk()
    machine = describe_machine()
    speeds: Speeds = {name: [] for name in SCRAPED}
    for _start in range(STARTS):
        with ExitStack() as stack:
            measure_rounds([stack.enter_context(start_server(name)) for name in SCRAPED], speeds)
    text = render_page(speeds, machine)
    write_atomic(PAGE, text.encode())
    print(text)
    return 0


def measure_rounds(servers: Sequence[Server], speeds: Speeds, rounds: int = ROUNDS) -> None:
    """Put the load on every server in turn while the others are suspended, and add the speeds; warm up first."""
    for turn in range(rounds + 1):
        for server in servers if turn % 2 else servers[::-1]:
            scrape = threading.Timer(SECONDS / 2, scrape_metrics, [server])
            with suspend_processes([other.process.pid for other in servers if other is not server]):
                scrape.start()
                speed = run_load_test(server, replace(MANY, seconds=SECONDS) if turn else WARM_UP).images_per_second
                scrape.join()
            if turn:
                speeds[server.name].append(speed)
                print(f"round {turn}, {TITLES[server.name]}: {speed:,.0f} images/s", file=sys.stderr)


def scrape_metrics(server: Server) -> None:
    """Read the server's metrics once, as Prometheus does."""
    config = read_config(server.folder / "config.properties")
    for address in SCRAPED[server.name]:
        requests.get(f"{config.url(address)}/metrics", timeout=SECONDS)


def list_ratios(speeds: Speeds) -> list[float]:
    """Return the speed with metrics beside the speed without, round by round."""
    return [ours / without for ours, without in zip(speeds[OURS], speeds[WITHOUT_METRICS], strict=True)]


def render_page(speeds: Speeds, machine: dict[str, str | int]) -> str:
    """Return the page, Markdown."""
    ratios = list_ratios(speeds)
    low, ratio, high = statistics.quantiles(ratios, n=4)
    medians = [statistics.median(ratios[first : first + ROUNDS]) for first in range(0, len(ratios), ROUNDS)]
    return TEXT.format(
        **machine,
        rounds=f"{ROUNDS} rounds of {SECONDS} s",
        starts=STARTS,
        ratio=f"median {ratio:.3f}, quartiles {low:.3f} to {high:.3f}",
        medians=", ".join(f"{value:.3f}" for value in medians),
        ours=statistics.median(speeds[OURS]),
        without=statistics.median(speeds[WITHOUT_METRICS]),
        cost=100 * (1 - ratio),
    )
