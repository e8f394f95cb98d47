"""Where the time of a request goes, at 64 connections and alone: docs/performance/profile.md.

py-spy samples a worker, TorchServe's counters show how long requests waited. Under two minutes; py-spy needs root, or
the right to trace.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import requests
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.compare_servers import render_table
from benchmarks.load_test import describe_wrk, run_load_test
from benchmarks.resources import describe_machine, list_processes
from benchmarks.servers import OURS, Server, start_server
from benchmarks.workloads import ALONE, MANY, WARM_UP, Workload
from common.atomic import write_atomic
from common.errors import UserError
from serving.config import ROOT, read_config

PAGE = ROOT / "docs" / "performance" / "profile.md"
WORKLOADS = (MANY, ALONE)
SAMPLES_PER_SECOND = 200
SPY_SECONDS = 60  # until py-spy has written what it sampled
LEAST_SHARE = 0.01  # of a worker's time, to have a row
# The innermost file of a stack that is one of these says where a sample belongs.
FILES = re.compile(r"\(((?:\S*/)?(?:handler|ts|torch|json)/\S+?|digit_handler\.py):\d+\)")

TEXT = """# Where the time goes

Written by `make profile` on {cpu}, {cores} cores, commit {commit}, {date}; requests are single 28x28 PNGs.

## A worker's CPU time by file, by py-spy

The innermost file of handler, TorchServe, torch or json in a sample's stack. Waiting for a batch is left out, files
under {least:.0%} too.

{files}

## A request

Means in milliseconds: in TorchServe's queue, the batch's delay included, and in all of TorchServe, by its own counters;
at the client, connections by requests a second.

{times}
"""

Column = dict[str, float]  # row -> figure, of one workload


def run(_: argparse.Namespace) -> int:
    """Profile the server, write the page and print it."""
    describe_wrk()
    with start_server(OURS) as server:
        run_load_test(server, WARM_UP)
        times = [measure_times(server, workload) for workload in WORKLOADS]
        files = [sample_worker(server, workload) for workload in WORKLOADS]  # py-spy costs some of the throughput
    tables = {"files": render_columns(files, ".0%"), "times": render_columns(times, ".2f")}
    text = TEXT.format(**describe_machine(), **tables, least=LEAST_SHARE)
    write_atomic(PAGE, text.encode())
    print(text)
    return 0


def measure_times(server: Server, workload: Workload) -> Column:
    """Return the mean milliseconds of a request, by TorchServe's counters and by the load generator."""
    before = read_counters(server)
    measured = run_load_test(server, workload)
    counted = {name: value - before[name] for name, value in read_counters(server).items()}
    milliseconds = 1e3 * counted["ts_inference_requests"]  # of counters in microseconds
    return {
        "in the queue": counted["ts_queue_latency_microseconds"] / milliseconds,
        "in TorchServe, queue included": counted["ts_inference_latency_microseconds"] / milliseconds,
        "at the client": 1e3 * workload.connections / measured.images_per_second,
    }


def read_counters(server: Server) -> dict[str, float]:
    """Return TorchServe's counters, summed over their labels; names without `_total`."""
    config = read_config(server.folder / "config.properties")
    text = requests.get(f"{config.url('metrics')}/metrics", timeout=10).text
    totals: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name.removesuffix("_total")] += sample.value
    return totals


def sample_worker(server: Server, workload: Workload) -> Column:
    """Return the share of a worker's CPU time by file, sampled under the workload."""
    java = next(process for process in list_processes(server.process.pid) if process.name() == "java")
    with tempfile.NamedTemporaryFile("r") as raw:
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(java.children()[0].pid)]
        command += ["--duration", str(workload.seconds - 1), "--rate", str(SAMPLES_PER_SECOND)]
        command += ["--format", "raw", "--nonblocking", "--output", raw.name]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
            run_load_test(server, workload)
            _, error = spy.communicate(timeout=SPY_SECONDS)
        if spy.returncode:
            raise UserError(f"py-spy failed: {error.strip()[-200:]}")
        return share_samples(raw.read().splitlines())


def share_samples(lines: Iterable[str]) -> Column:
    """Return the shares of files in py-spy's raw lines, a stack and its number of samples; the highest first."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        if "retrieve_msg (" not in stack or "_retrieve_inference_msg (" in stack:  # else it waits for a batch
            counts[(FILES.findall(stack) or ["the rest"])[-1]] += int(samples)
    shares = {name: count / counts.total() for name, count in counts.most_common()}
    return {name: share for name, share in shares.items() if share >= LEAST_SHARE}


def render_columns(columns: Sequence[Column], form: str) -> str:
    """Return a Markdown table, a column for every workload."""
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(format(column.get(name, 0.0), form) for column in columns)) for name in names]
    return render_table(("", *(workload.name for workload in WORKLOADS)), rows)
