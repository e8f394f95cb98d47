"""Compare this project with FastAPI, LitServe and TorchServe's defaults in one run: docs/performance/bench.md.

All servers have a current model, the same framing and the same number of workers. They take turns, so that a machine
that slows down affects all of them. Takes about 20 minutes; `--quick` two, without the page.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tabulate import tabulate

from benchmarks.comparison import Comparison, Start
from benchmarks.in_process import describe_rates
from benchmarks.load_test import describe_wrk, run_load_test
from benchmarks.resources import describe_machine, measure_pss_mb
from benchmarks.servers import DEFAULTS, FASTAPI, LARGE, LITSERVE, OURS, TITLES, start_server
from benchmarks.workloads import IMAGES, OPEN_LOOP_RATIO, WARM_UP, WORKLOADS, Workload
from common.atomic import write_atomic
from handler.classifier import MODEL_BATCH_SIZE
from serving.config import ROOT

PAGE = ROOT / "docs" / "performance" / "bench.md"
SERVERS = (OURS, LARGE, FASTAPI, LITSERVE, DEFAULTS)
REPEATS = 3
QUICK_SECONDS = 2  # per workload

TEXT = """# Serving benchmark

Written by `make bench`. All figures come from this one run, on one machine, at one commit.

- commit {commit}, {date}
- {cpu}, {cores} cores
- {versions}
- load generator: {wrk}

All servers run the default model, apart from one of this project, which runs the large one; all have the same framing
and {cores} worker processes. The peers are in `benchmarks/peers/`. FastAPI and LitServe are configured as their
documentation recommends for a CPU. TorchServe has its defaults, except for one thread per worker, which its performance
guide recommends: otherwise workers compete for the cores. A peer is ready when it predicts its first image, this
project when all its workers are READY.

One server runs at a time, on loopback, and shares the cores with the load generator. It is warmed up after its start.
There are {repeats} repeats, in which the servers take turns. Figures are medians, with minimum and maximum; x is the
median ratio of this project to the peer in the same repeat. With few connections, one worker of FastAPI may get all of
them. In closed loops wrk corrects its latencies for requests that a slow one delayed. Requests are 28x28 PNGs, {images}
different ones; a batch request has 64.

## Throughput, images per second

{throughput}

## Latency, p50 / p99 in milliseconds

The open loop sends {share:.0%} of the server's own maximum throughput in the same repeat. Its latency counts from when
a request was due, so it has no coordinated omission. Failures are requests without status 200.

{latency}

## CPU and memory

Cores in use, of {cores}: server + load generator. Memory is the summed PSS of all processes, once ready and at its
maximum after any workload. From the start command to ready this project takes {start}.

{usage}

## Without a server

One thread's images per second, in batches of {batch}; a PNG is also decoded and framed.

{rates}
"""


def compare_servers(args: argparse.Namespace) -> int:
    """Compare the servers and write the page, or print it after a quick run."""
    machine = describe_machine() | {"wrk": describe_wrk(), "rates": describe_rates(0.1 if args.quick else 1)}
    workloads = [WARM_UP, *WORKLOADS]
    if args.quick:
        workloads = [replace(workload, seconds=QUICK_SECONDS) for workload in workloads]
    results = Comparison()
    for repeat in range(1 if args.quick else REPEATS):
        for name in SERVERS:
            measure_server(name, repeat, workloads, results)
    text = render_page(results, machine)
    if args.quick:
        print("QUICK: one short repeat, not for publication; use `make bench` for that.\n")
    else:
        write_atomic(PAGE, text.encode())
    print(text)
    return 0


def measure_server(name: str, repeat: int, workloads: Sequence[Workload], results: Comparison) -> None:
    """Start a server, warm it up by the first workload and measure the others."""
    with start_server(name) as server:
        results.starts.append(Start(name, server.start_seconds, measure_pss_mb(server.process.pid)))
        run_load_test(server, workloads[0])
        for workload in workloads[1:]:
            rate = OPEN_LOOP_RATIO * results.peak_rate(name, repeat) if workload.is_open else None
            measured = run_load_test(server, workload, repeat, rate)
            results.measurements.append(measured)
            figures = f"{measured.images_per_second:,.0f} images/s, p99 {measured.p99_ms:.1f} ms"
            print(f"repeat {repeat + 1}, {TITLES[name]}, {workload.name}: {figures}", file=sys.stderr)


def render_page(results: Comparison, machine: dict[str, str | int]) -> str:
    """Return the page as Markdown."""
    starts = [start.seconds for start in results.starts if start.server == OURS]
    return TEXT.format(
        **machine,
        repeats=len(starts),
        images=IMAGES,
        batch=MODEL_BATCH_SIZE,
        share=OPEN_LOOP_RATIO,
        throughput=_render_table(_list_workloads(results, _format_throughput)),
        latency=_render_table(_list_workloads(results, _format_latency)),
        usage=_render_table([*_list_workloads(results, _format_cores), *_list_memory(results)]),
        start=f"{min(starts):.1f} to {max(starts):.1f} s",
    )


def _render_table(rows: Iterable[tuple[str, ...]]) -> str:
    head = ("", *(TITLES[name] for name in SERVERS))
    aligned = ("left", *["right"] * len(SERVERS))
    return tabulate(list(rows), head, tablefmt="github", disable_numparse=True, colalign=aligned)


def _list_workloads(results: Comparison, cell: Callable[[Comparison, str, Workload], str]) -> list[tuple[str, ...]]:
    return [(workload.name, *(cell(results, name, workload) for name in SERVERS)) for workload in WORKLOADS]


def _format_throughput(results: Comparison, name: str, workload: Workload) -> str:
    speeds = [measured.images_per_second for measured in results.select(name, workload)]
    text = f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})"
    return text if name == OURS or workload.is_open else f"{text}, {results.ratio(OURS, name, workload):.2f}x"


def _format_latency(results: Comparison, name: str, workload: Workload) -> str:
    failures = sum(measured.failures for measured in results.select(name, workload))
    text = f"{results.median(name, workload, 'p50_ms'):.1f} / {results.median(name, workload, 'p99_ms'):.1f}"
    return text + (f", {failures:,} failed" if failures else "")


def _format_cores(results: Comparison, name: str, workload: Workload) -> str:
    cores = [results.median(name, workload, value) for value in ("server_cores", "generator_cores")]
    return " + ".join(f"{value:.2f}" for value in cores)


def _list_memory(results: Comparison) -> list[tuple[str, ...]]:
    ready = [statistics.median(start.pss_mb for start in results.starts if start.server == name) for name in SERVERS]
    maximum = [max(measured.pss_mb for measured in results.measurements if measured.server == name) for name in SERVERS]
    rows = {"ready, MB": ready, "maximum, MB": maximum}
    return [(title, *(f"{value:,.0f}" for value in values)) for title, values in rows.items()]
