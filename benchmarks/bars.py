"""What the project promises of its serving, beside what was measured: met or not."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.contenders import BARE, DEFAULTS, FASTAPI, LITSERVE, OURS, TITLES
from benchmarks.loads import ALONE, BULKS, COST, FEW, FLOOD, MANY, OPEN
from benchmarks.results import Results, median

FLOOD_P99_MS = 1000.0  # what "bounded" means with 256 connections
FLAT = 1.1  # times the memory after the first fifth of a load, the most that a later sample may have


@dataclass(frozen=True)
class Bar:
    """`value` is None if it was not measured; `least` says whether the limit is one from below."""

    what: str
    value: float | None
    limit: float
    least: bool
    unit: str

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.limit if self.least else self.value <= self.limit

    def row(self) -> tuple[str, str, str, str]:
        """What, bar, measured, met."""
        verdict = {True: "met", False: "**not met**", None: ""}[self.met]
        measured = "not measured" if self.value is None else f"{_shown(self.value)}{self.unit}"
        return self.what, f"{'≥' if self.least else '≤'} {_shown(self.limit)}{self.unit}", measured, verdict


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def bars(results: Results) -> list[Bar]:
    """All of them, measured or not."""
    return [*_throughput(results), *_latency(results), *_flood(results), *_rest(results)]


def _throughput(results: Results) -> Iterator[Bar]:
    for peer, load, limit in ((FASTAPI, MANY, 1.5), (LITSERVE, MANY, 2.5), (DEFAULTS, MANY, 4.0), (FASTAPI, FEW, 0.8)):
        what = f"{load} connections, throughput beside {TITLES[peer]}"
        yield Bar(what, results.ratio(OURS, peer, load), limit, True, " x")
    bulk = results.median(OURS, BULKS)
    yield Bar("bulk JSON", bulk, 3500, True, " pictures/s")
    share = None if bulk is None else 100 * bulk / ceiling(results)
    yield Bar("bulk JSON, of cores x in process", share, 50, True, "%")
    one_core = float(results.limit["pictures_per_second"])
    yield Bar("in process, one core, full batches, framing included", one_core, 3000, True, " pictures/s")


def _latency(results: Results) -> Iterator[Bar]:
    tail = median(each.p99_ms / each.p50_ms for each in results.of(OURS, MANY))
    yield Bar(f"{MANY} connections, p99 beside p50", tail, 2, False, " x")
    alone = results.ratio(OURS, FASTAPI, ALONE, "p50_ms")
    yield Bar(f"alone, p50 beside {TITLES[FASTAPI]}", alone, 2.5, False, " x")
    yield Bar("open loop at 70% of the peak, p99", results.median(OURS, OPEN, "p99_ms"), 25, False, " ms")
    failures = median(each.failures for each in results.of(OURS, OPEN))
    yield Bar("open loop at 70% of the peak, failures", failures, 0, False, "")


def _flood(results: Results) -> Iterator[Bar]:
    """A full queue may be told by a 503; anything else is an error."""
    flood = results.of(OURS, FLOOD)
    errors = median(each.failures - each.statuses.get("503", 0) for each in flood)
    yield Bar("256 connections, errors other than 503", errors, 0, False, "")
    p99 = results.median(OURS, FLOOD, "p99_ms")
    yield Bar("256 connections, p99, any 503 included", p99, FLOOD_P99_MS, False, " ms")
    growth = median(growth_of(each.pss_mb) for each in flood)
    yield Bar("256 connections, memory at most, beside its start", growth, FLAT, False, " x")


def growth_of(samples: list[float]) -> float:
    """The highest of the samples beside the first after a fifth of them."""
    rest = samples[len(samples) // 5 :]
    return max(rest) / rest[0]


def _rest(results: Results) -> Iterator[Bar]:
    starts = [each for each in results.starts if each.contender == OURS]
    yield Bar("start to ready", median(each.seconds for each in starts), 8, False, " s")
    yield Bar("memory once ready, summed PSS", median(each.pss_mb for each in starts), 1200, False, " MB")
    yield Bar("memory at most, all loads", results.peak_mb(OURS), 1200, False, " MB")
    kept = results.ratio(OURS, BARE, COST)
    yield Bar("cost of metrics and logs", None if kept is None else 100 * (1 - kept), 5, False, "% of throughput")


def ceiling(results: Results) -> float:
    """Pictures a second if every core did nothing but the handler's work."""
    return float(results.machine["cores"] * results.limit["pictures_per_second"])
