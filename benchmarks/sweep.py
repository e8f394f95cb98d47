"""python -m benchmarks.sweep: every setting of serving changed alone, beside the shipped ones, in one run.

Each change is measured between two runs of what ships, and compared with their mean: docs/performance/sweep.md has the
table, sweep.png the picture of alone against full load. Some 20 minutes.
"""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.contenders import LEFT_OUT, ours, running, without_logs
from benchmarks.drive import drive
from benchmarks.loads import Load
from benchmarks.machine import machine
from benchmarks.usage import pss_bytes
from serving.archive import cores
from serving.config import ROOT, ServingError, read_config
from serving.files import write_whole

SHIPPED = "as shipped"
KEPT = ROOT / "benchmarks" / "results" / "sweep.json"
PAGE = ROOT / "docs" / "performance" / "sweep.md"
WARM_UP = Load("warm-up", "png", 64, 10)  # Java goes on compiling for as long again, so p99 is higher than later
LOADS = {load.name: load for load in (Load("64", "png", 64, 5), Load("8", "png", 8, 3), Load("1", "png", 1, 2))}
FLOOD = Load("256", "png", 256, 3)
GROUP_SIZE = 4  # changes between two runs of what ships
DPI = 110

TEXT = """# Sweep of the settings

Written by `make sweep` on {cpu}, {cores} cores, commit {commit}, {date}.

Every row is one change to what ships, measured once between two runs of what ships; x is beside their mean. What ships
was measured {runs} times and varied by the percentages in its row: smaller differences say nothing. Requests are single
28x28 PNGs; p99 / p50 at 64 connections tells how even the service is; 256 connections are a flood. Memory is the summed
PSS, once ready.

{table}

![Alone against full load](sweep.png)
"""


@dataclass(frozen=True)
class Change:
    """To config.properties, model-config.yaml and the environment of what ships."""

    name: str
    properties: Mapping[str, str] = field(default_factory=dict)
    model: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """What was measured of a change; throughput in pictures a second, times in ms and s, memory in MB."""

    name: str
    at_64: float
    p50_at_64: float
    p99_at_64: float
    at_8: float
    alone_p50: float
    alone_p99: float
    flood_p99: float
    flood_refused: float  # share of the requests that were told 503
    start_seconds: float
    pss_mb: float


def changes(folder: Path) -> list[Change]:
    """All of them; files that they need are written into the folder."""
    vmargs = read_config().properties["vmargs"]
    silent = without_logs(folder, vmargs)
    young = [("-Xmn16m", "16"), ("-Xmn256m", "256")]
    return [
        *(Change(f"workers: {count}", model={"minWorkers": count, "maxWorkers": count}) for count in _around(cores())),
        *(Change(f"batch: {size}", model={"batchSize": size}) for size in (1, 4, 8, 12, 24, 32)),
        *(Change(f"delay: {delay} ms", model={"maxBatchDelay": delay}) for delay in (0, 2)),
        *(Change(f"queue: {size}", {"job_queue_size": str(size)}) for size in (100, 2000)),
        *(Change(f"netty threads: {count}", {"number_of_netty_threads": str(count)}) for count in (1, 2)),
        *(Change(f"netty client threads: {count}", {"netty_client_threads": str(count)}) for count in (1, 2)),
        Change("Java as it comes: G1, heap unbounded", {"vmargs": LEFT_OUT}),
        Change("parallel collector", {"vmargs": vmargs.replace("Serial", "Parallel")}),
        *(
            Change(f"young generation: {megabytes} MB", {"vmargs": vmargs.replace("-Xmn64m", option)})
            for option, megabytes in young
        ),
        Change("heap of 256 MB", {"vmargs": f"{vmargs} -Xmx256m"}),
        Change("first compiler alone", {"vmargs": f"{vmargs} -XX:TieredStopAtLevel=1"}),
        Change(
            "class-data sharing",
            {"vmargs": f"{vmargs} -XX:+AutoCreateSharedArchive -XX:SharedArchiveFile={folder / 'classes.jsa'}"},
        ),
        Change("logs off", {"vmargs": silent}),
        Change("logs synchronous", {"async_logging": "false"}),
        Change("metrics off", {"metrics_mode": "log"}),
        Change("system metrics on", {"disable_system_metrics": "false"}),
        *(
            Change(f"malloc maps what is over {kib} KiB", environment={"MALLOC_MMAP_THRESHOLD_": str(kib * 1024)})
            for kib in (128, 1024, 16384)
        ),
        Change("malloc with huge pages", environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}),
    ]


def _around(count: int) -> list[int]:
    return sorted({count - 1, count + 1, 2 * count} - {0})


def measured(change: Change) -> Point:
    with tempfile.TemporaryDirectory(prefix="sweep-") as temporary:
        folder = Path(temporary)
        plan = ours(folder, change.properties, change.model, change.environment)
        with running("sweep", change.name, plan, folder) as server:
            pss = pss_bytes(server.process.pid) / 1e6
            run = [
                drive(change.name, 0, load, plan.port, server.process.pid, server.requests(load.kind))
                for load in (WARM_UP, *LOADS.values(), FLOOD)
            ]
        _, many, few, alone, flood = run
        return Point(
            change.name,
            many.pictures_per_second,
            many.p50_ms,
            many.p99_ms,
            few.pictures_per_second,
            alone.p50_ms,
            alone.p99_ms,
            flood.p99_ms,
            flood.statuses.get("503", 0) / max(1, sum(flood.statuses.values())),
            server.seconds,
            pss,
        )


def sweep(only: str, points: list[Point]) -> None:
    """Adds a point for each change, in their order, with what ships before, among and after them."""
    with tempfile.TemporaryDirectory() as folder:
        listed = [change for change in changes(Path(folder)) if only in change.name]
        turns = [Change(SHIPPED)]
        for start in range(0, len(listed), GROUP_SIZE):
            turns += [*listed[start : start + GROUP_SIZE], Change(SHIPPED)]
        for change in (bar := tqdm(turns, unit="setting", disable=None)):
            bar.set_description(change.name)
            points.append(measured(change))


def table(points: list[Point]) -> str:
    """What ships first, then each change beside the two runs of what ships around it."""
    shipped = [point for point in points if point.name == SHIPPED]
    rows = [_shipped_row(shipped)]
    for number, point in enumerate(points):
        if point.name != SHIPPED:
            before = next(each for each in reversed(points[:number]) if each.name == SHIPPED)
            after = next((each for each in points[number:] if each.name == SHIPPED), before)
            rows.append(_row(point, [before, after]))
    head = (
        "",
        "64 connections",
        "p99 / p50",
        "8 connections",
        "alone, p50 ms",
        "256: p99 ms",
        "256: told 503",
        "start, s",
        "MB",
    )
    return tabulate(
        rows, head, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * (len(head) - 1))
    )


def _mean(points: list[Point], value: str) -> float:
    return float(sum(getattr(point, value) for point in points) / len(points))


def _shipped_row(shipped: list[Point]) -> tuple[str, ...]:
    def varied(value: str, form: str) -> str:
        middle, values = _mean(shipped, value), [getattr(point, value) for point in shipped]
        return f"{middle:{form}} ± {(max(values) - min(values)) / 2 / middle:.0%}"

    return (
        f"**{SHIPPED}**",
        varied("at_64", ",.0f"),
        f"{_mean(shipped, 'p99_at_64') / _mean(shipped, 'p50_at_64'):.2f}",
        varied("at_8", ",.0f"),
        varied("alone_p50", ".2f"),
        varied("flood_p99", ".0f"),
        f"{_mean(shipped, 'flood_refused'):.0%}",
        varied("start_seconds", ".1f"),
        varied("pss_mb", ".0f"),
    )


def _row(point: Point, around: list[Point]) -> tuple[str, ...]:
    def beside(value: str, form: str) -> str:
        own = getattr(point, value)
        return f"{own:{form}} ({own / _mean(around, value):.2f}x)"

    return (
        point.name,
        beside("at_64", ",.0f"),
        f"{point.p99_at_64 / point.p50_at_64:.2f}",
        beside("at_8", ",.0f"),
        beside("alone_p50", ".2f"),
        f"{point.flood_p99:.0f}",
        f"{point.flood_refused:.0%}",
        f"{point.start_seconds:.1f}",
        f"{point.pss_mb:.0f}",
    )


def plot(points: list[Point], path: Path) -> None:
    """Latency alone against throughput at 64 connections; what no other setting beats in both is joined."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    best = pareto(points)
    axes.plot([point.at_64 for point in best], [point.alone_p50 for point in best], "-", color="tab:green", alpha=0.5)
    for point in points:
        is_shipped = point.name == SHIPPED
        axes.plot(
            point.at_64, point.alone_p50, "*" if is_shipped else "o", color="tab:red" if is_shipped else "tab:blue"
        )
        if point in best or abs(point.alone_p50 / _mean(points, "alone_p50") - 1) > 0.15 or is_far(point, points):
            axes.annotate(
                point.name, (point.at_64, point.alone_p50), fontsize=7, xytext=(4, 3), textcoords="offset points"
            )
    axes.set(xlabel="pictures a second, 64 connections", ylabel="p50 alone, ms", ylim=(0, None))
    axes.grid(alpha=0.3)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_whole(path, buffer.getvalue())


def is_far(point: Point, points: list[Point]) -> bool:
    """Whether its throughput is unlike the others'."""
    return abs(point.at_64 / _mean(points, "at_64") - 1) > 0.15


def pareto(points: list[Point]) -> list[Point]:
    """Those that no other beats in both, throughput and latency alone; by throughput."""
    ordered = sorted(points, key=lambda point: (-point.at_64, point.alone_p50))
    best: list[Point] = []
    for point in ordered:
        if not best or point.alone_p50 < best[-1].alone_p50:
            best.append(point)
    return best


def write(points: list[Point], told: dict[str, Any]) -> None:
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    kept = {"machine": told, "points": [asdict(point) for point in points]}
    write_whole(KEPT, f"{json.dumps(kept, indent=1)}\n".encode())
    runs = sum(point.name == SHIPPED for point in points)
    write_whole(PAGE, TEXT.format(**told, runs=runs, table=table(points)).encode())
    plot(points, PAGE.with_suffix(".png"))


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="changes with it in their name; writes no document")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended however this is
    points: list[Point] = []
    try:
        told = machine()
        sweep(given.only, points)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if points:
            print(table(points))
    if not given.only:
        write(points, told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
