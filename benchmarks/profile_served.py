"""python -m benchmarks.profile_served: where the time of a request goes, at 64 connections and alone.

py-spy looks into a worker 200 times a second, Linux tells what Java's threads used, TorchServe's counters how long
requests waited and were worked on, an idle handler what would be left: docs/performance/profile.md. Two minutes; py-spy
needs root, or the right to trace.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from prometheus_client.parser import text_string_to_metric_families
from tabulate import tabulate

from benchmarks.contenders import IDLE, OURS, Server, started
from benchmarks.drive import Measured, drive
from benchmarks.loads import Load
from benchmarks.machine import machine
from benchmarks.page import written
from benchmarks.usage import family
from serving.config import ROOT, ServingError, read_config

PAGE = ROOT / "docs" / "performance" / "profile.md"
WARM_UP = Load("warm-up", "png", 64, 20)
LOADS = (Load("64 connections", "png", 64, 10), Load("alone", "png", 1, 10))
SAMPLED_SECONDS, SAMPLES_A_SECOND = 8, 200
SPY_SECONDS = 60  # it may take for its last
ELSEWHERE = "the rest"
# What a sample is, by the first that is part of its stack, from file or function names.
WORKER = {
    "reading a message": ("_retrieve_inference_msg (",),  # first: its buffer is in a module of ours
    "reading the PNG": ("plain_png.py", "decoding.py", "time_limit.py"),
    "framing": ("examine_grey", "paper.py", "marks.py"),
    "the model's call": ("torch/nn/modules",),
    "answers and JSON": ("reader.py", "json/", "_respond", "_response"),
    "rows of the batch": ("digit_handler.py", "sent.py"),
    "TorchServe's protocol": ("ts/protocol", "ts/service.py", "ts/context.py", "ts/metrics", "model_service_worker.py"),
}
JAVA = {
    "network (netty)": ("epollEventLoop",),
    "batches (W-9000 …)": ("W-",),
    "compilers": ("C1 Compiler", "C2 Compiler"),
    "garbage collector": ("VM Thread", "GC Thread"),
}

TEXT = """# Where the time goes

Written by `make profile` on {cpu}, {cores} cores, commit {commit}, {date}; requests are single 28x28 PNGs.

## A worker, share of its CPU time, by py-spy

Without the wait for a batch's first byte, which comes with what follows it into a buffer.

{worker}

## Java, cores in use, by its threads

{java}

## A request, in milliseconds, and how many a second

TorchServe's own counters, as means: how long a request waited in the queue, the batch's delay included, and how long it
was worked on in all. What the client measures has HTTP and the operating system's wake-ups on top; its mean is
connections by requests a second.

{request}

## The least

TorchServe under the same settings, the batch's delay of a millisecond among them, with a handler that does nothing:
what no handler can go below. In milliseconds and requests a second, measured after the above, in the same run.

{least}
"""


@dataclass(frozen=True)
class Profile:
    """Of one load: shares of a worker's samples, cores of Java's threads, and the mean ms that TorchServe tells."""

    measured: Measured
    worker: dict[str, float]
    java: dict[str, float]
    queue_ms: float
    inference_ms: float


def named(stack: str, names: dict[str, tuple[str, ...]]) -> str:
    return next((name for name, parts in names.items() if any(part in stack for part in parts)), ELSEWHERE)


def shares(raw: Iterable[str]) -> dict[str, float]:
    """Of py-spy's raw lines, a stack with its number of samples each, without those that wait for a batch.

    Such are all that read a message's first byte, though what follows it comes into the buffer with it.
    """
    counted: Counter[str] = Counter()
    for line in raw:
        stack, _, samples = line.rpartition(" ")
        if "retrieve_msg (" not in stack or "_retrieve_inference_msg (" in stack:
            counted[named(stack, WORKER)] += int(samples)
    return {name: counted[name] / max(1, counted.total()) for name in (*WORKER, ELSEWHERE)}


def profiled(server: Server, load: Load) -> Profile:
    """The load twice: py-spy, at the second, costs some of the throughput."""
    java, worker = _processes(server)
    threads, counters = _thread_seconds(java), _counters(server)
    measured = _drive(server, load)
    # A compiler's thread that has ended took its seconds with it.
    used = {name: max(0.0, seconds - threads[name]) for name, seconds in _thread_seconds(java).items()}
    told = {name: value - counters[name] for name, value in _counters(server).items()}
    count = told["ts_inference_requests"]
    return Profile(
        measured,
        _spied(server, load, worker),
        {name: seconds / load.seconds for name, seconds in used.items()},
        told["ts_queue_latency_microseconds"] / count / 1e3,
        told["ts_inference_latency_microseconds"] / count / 1e3,
    )


def _spied(server: Server, load: Load, worker: psutil.Process) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        command = [str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(worker.pid)]
        command += ["--duration", str(SAMPLED_SECONDS), "--rate", str(SAMPLES_A_SECOND)]
        command += ["--format", "raw", "--nonblocking", "--output", str(raw)]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _drive(server, load)
            _, error = spy.communicate(timeout=SPY_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise ServingError(f"py-spy has not ended {SPY_SECONDS} s after the load") from late
        finally:
            spy.kill()
        if spy.returncode or not raw.is_file():
            raise ServingError(f"py-spy failed: {error.strip()[-200:]}")
        return shares(raw.read_text().splitlines())


def _processes(server: Server) -> tuple[psutil.Process, psutil.Process]:
    """Java and one of its workers."""
    listed = family(server.process.pid)
    java = next(process for process in listed if process.name() == "java")
    return java, next(process for process in java.children() if process.name().startswith("python"))


def _thread_seconds(java: psutil.Process) -> dict[str, float]:
    """CPU seconds of Java's threads so far, by what they do."""
    seconds: Counter[str] = Counter(dict.fromkeys((*JAVA, ELSEWHERE), 0))
    for thread in java.threads():
        name = Path(f"/proc/{java.pid}/task/{thread.id}/comm").read_text()
        seconds[named(name, JAVA)] += thread.user_time + thread.system_time  # type: ignore[assignment]  # a float
    return dict(seconds)


def _counters(server: Server) -> dict[str, float]:
    """TorchServe's, summed over their labels."""
    config = read_config(server.folder / "config.properties")
    text = requests.get(config.url("metrics") + "/metrics", timeout=10).text
    summed: Counter[str] = Counter()
    for family_ in text_string_to_metric_families(text):
        for sample in family_.samples:
            summed[sample.name.removesuffix("_total")] += sample.value  # type: ignore[assignment]  # a float
    return dict(summed)


def page(told: dict[str, str | int], profiles: list[Profile], idle: list[Measured]) -> str:
    loads = [profile.measured.load for profile in profiles]
    worker = [(name, *(f"{profile.worker[name]:.0%}" for profile in profiles)) for name in (*WORKER, ELSEWHERE)]
    java = [(name, *(f"{profile.java[name]:.2f}" for profile in profiles)) for name in (*JAVA, ELSEWHERE)]
    java.append(("all of the server, workers included", *(f"{each.measured.server_cores:.2f}" for each in profiles)))
    tables = {"worker": worker, "java": java, "request": _request(profiles), "least": _client(idle)}
    return TEXT.format(**told, **{name: _table(rows, loads) for name, rows in tables.items()})


def _request(profiles: list[Profile]) -> Iterator[tuple[str, ...]]:
    yield "in the queue", *(f"{each.queue_ms:.2f}" for each in profiles)
    yield "worked on, queue included", *(f"{each.inference_ms:.2f}" for each in profiles)
    yield from _client([each.measured for each in profiles])


def _client(measured: list[Measured]) -> Iterator[tuple[str, ...]]:
    means = (1e3 * load.connections / each.pictures_per_second for load, each in zip(LOADS, measured, strict=True))
    yield "as the client sees it, mean", *(f"{mean:.2f}" for mean in means)
    yield "as the client sees it, p50", *(f"{each.p50_ms:.2f}" for each in measured)
    yield "requests a second", *(f"{each.pictures_per_second:,.0f}" for each in measured)


def _table(rows: Iterable[tuple[str, ...]], loads: list[str]) -> str:
    aligned = ("left", *["right"] * len(loads))
    return tabulate(list(rows), ("", *loads), tablefmt="github", disable_numparse=True, colalign=aligned)


def text() -> str:
    told = machine()
    with tempfile.TemporaryDirectory(prefix="profile-") as folder, started(OURS, Path(folder)) as server:
        _drive(server, WARM_UP)
        profiles = [profiled(server, load) for load in LOADS]
    with tempfile.TemporaryDirectory(prefix="profile-") as folder, started(IDLE, Path(folder)) as server:
        _drive(server, WARM_UP)
        return page(told, profiles, [_drive(server, load) for load in LOADS])


def _drive(server: Server, load: Load) -> Measured:
    return drive(server.name, 0, load, server.plan.port, server.process.pid, server.requests(load.kind))


if __name__ == "__main__":
    sys.exit(written(PAGE, text))
