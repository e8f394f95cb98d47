"""What the project promises of its serving, beside what was measured: met or not."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.comparison import Comparison
from benchmarks.servers import DEFAULTS, FASTAPI, LITSERVE, OURS, TITLES
from benchmarks.workloads import ALONE, BULK, FEW, FLOOD, MANY, OPEN

MAX_OVERHEAD_PERCENT = 5.0  # of metrics and request log


@dataclass(frozen=True)
class Target:
    """A limit for a measured value."""

    what: str
    value: float
    limit: float
    unit: str = ""
    is_minimum: bool = False

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.is_minimum else self.value <= self.limit

    def render(self) -> tuple[str, str, str, str]:
        """Return a row: what, limit, measured, verdict."""
        limit = f"{'≥' if self.is_minimum else '≤'} {_format(self.limit)}{self.unit}"
        return self.what, limit, f"{_format(self.value)}{self.unit}", "met" if self.is_met else "**not met**"


def _format(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def list_targets(results: Comparison) -> list[Target]:
    """Return all targets of serving."""
    return [*_list_throughput(results), *_list_latency(results), *_list_flood(results), *_list_start(results)]


def _list_throughput(results: Comparison) -> Iterator[Target]:
    for peer, workload, limit in (
        (FASTAPI, MANY, 1.5),
        (LITSERVE, MANY, 2.5),
        (DEFAULTS, MANY, 4.0),
        (FASTAPI, FEW, 0.8),
    ):
        what = f"{workload.name}, throughput beside {TITLES[peer]}"
        yield Target(what, results.ratio(OURS, peer, workload), limit, " x", is_minimum=True)
    yield Target(BULK.name, results.median(OURS, BULK), 3500, " images/s", is_minimum=True)


def _list_latency(results: Comparison) -> Iterator[Target]:
    tail = statistics.median(measured.p99_ms / measured.p50_ms for measured in results.select(OURS, MANY))
    yield Target(f"{MANY.name}, p99 beside p50", tail, 2, " x")
    alone = results.ratio(OURS, FASTAPI, ALONE, "p50_ms")
    yield Target(f"{ALONE.name}, p50 beside {TITLES[FASTAPI]}", alone, 2.5, " x")
    yield Target("open loop at 70% of the peak, p99", results.median(OURS, OPEN, "p99_ms"), 25, " ms")
    yield Target("open loop at 70% of the peak, failures", results.median(OURS, OPEN, "failures"), 0)


def _list_flood(results: Comparison) -> Iterator[Target]:
    flood = results.select(OURS, FLOOD)
    errors = max(measured.failures - measured.statuses.get("503", 0) for measured in flood)
    yield Target(f"{FLOOD.name}, errors other than a full queue's 503", errors, 0)
    yield Target(f"{FLOOD.name}, p99, any 503 included", results.median(OURS, FLOOD, "p99_ms"), 1000, " ms")
    pairs = zip(flood, results.select(OURS, MANY), strict=True)
    growth = statistics.median(after.pss_mb / before.pss_mb for after, before in pairs)
    yield Target(f"{FLOOD.name}, memory beside {MANY.name}", growth, 1.1, " x")


def _list_start(results: Comparison) -> Iterator[Target]:
    starts = [start for start in results.starts if start.server == OURS]
    yield Target("start to ready", statistics.median(start.seconds for start in starts), 8, " s")
    yield Target("memory once ready, summed PSS", statistics.median(start.pss_mb for start in starts), 1200, " MB")
    highest = max(measured.pss_mb for measured in results.measurements if measured.server == OURS)
    yield Target("memory after any workload", highest, 1200, " MB")
