"""A run's figures as docs/performance/bench.md and its plot."""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from tabulate import tabulate

from benchmarks.bars import bars, ceiling
from benchmarks.contenders import BARE, DEFAULTS, FASTAPI, LITSERVE, OURS, TITLES
from benchmarks.loads import (
    BULK,
    BULKS,
    COST,
    LOADS,
    MANY,
    MIX,
    ONE_PHOTO_IN,
    OPEN,
    OPEN_SECONDS,
    PICTURES,
    Load,
)
from benchmarks.results import Results, median
from serving.files import write_whole

DPI = 110
UNSTEADY = 1.2  # times the lowest of repeats: a higher highest is shown with it
COMPARED = (OURS, FASTAPI, LITSERVE, DEFAULTS)
LOAD_TITLES = {MIX: "mix, 8 connections", BULKS: "bulk JSON, 4 connections"}

PAGE = """# Serving benchmark

Written by `make bench`; all that was measured is in `benchmarks/results/`.

- {cpu}, {cores} cores, {memory_mb:,} MB, {system}
- Python {python}, torch {torch}, torchserve {torchserve}, fastapi {fastapi}, uvicorn {uvicorn}, litserve {litserve}
- commit {commit}, {date}; closed loops by {closed_loops_by}

The same released model, framing and answer behind each server, {workers} worker processes each; the peers are in
`benchmarks/peers/`. FastAPI and LitServe are set up as their documentation recommends for a CPU; TorchServe's defaults
are its own, but for one thread a worker, which its performance guide recommends: without that they fight for the cores.
A peer counts as ready when it answers its first picture, this project when all its workers do.

One server runs at a time, on loopback, and shares the cores with the load generator. Each server is warmed up when it
has started. Loads run {repeats}, the servers taking turns, the open loop and 256 connections for 30 s once. Figures are
medians; x is the median of the repeats' ratios, this project beside the other. Where repeats differ by a fifth, lowest
and highest are shown: few connections to FastAPI may all come to one of its workers, the other being idle. wrk adds to
its latencies those of requests that a slow one kept from being sent, which makes p99 of closed loops higher.

A load of connections sends 28x28 PNGs, {pngs} different ones, each connection one after the other. In the mix one of
{one_photo_in} pictures is a JPEG of 12 megapixels. A bulk request has {bulk} pictures.

## The bars

{bars}

## Throughput, pictures a second

{throughput}

![Throughput and latency by connections](bench.png)

## Latency, milliseconds

{latency}

## Open loop

70% of each server's own peak, for {open_seconds:.0f} s, at random moments. Latency counts from when a request was due,
not from when a connection was free, so it has no coordinated omission.

{open_loop}

## CPU and memory

Cores in use, of {cores}: the server's, and the load generator's own beside it. Memory is the summed PSS of all
processes, once ready and at its highest under all loads.

{usage}

## What could be reached

In process, without a server, one core handles {one_core:,.0f} pictures a second in full batches of {batch}, framing
included. {cores} cores could thus do {ceiling:,.0f}, were there no HTTP, no queue and no load generator.

{limit}

The archive has {archive_kb:,.0f} kB. From the command of `make serve` to ready: {start}.
{cost}
"""


def report(results: Results) -> str:
    """The page, Markdown."""
    repeats = len(results.of(OURS, MANY))
    starts = [each.seconds for each in results.starts if each.contender == OURS]
    return PAGE.format(
        **results.machine,
        workers=results.machine["cores"],
        repeats={1: "once"}.get(repeats, f"{repeats} times"),
        pngs=PICTURES,
        one_photo_in=ONE_PHOTO_IN,
        bulk=BULK,
        bars=_table(("what", "bar", "measured", ""), [bar.row() for bar in bars(results)]),
        throughput=_by_load(results, _throughput),
        latency=_by_load(results, _latency),
        open_seconds=OPEN_SECONDS,
        open_loop=_open_loop(results),
        usage=_usage(results),
        one_core=results.limit["pictures_per_second"],
        batch=results.limit["batch"],
        ceiling=ceiling(results),
        limit=_limit(results),
        archive_kb=results.archive_bytes / 1e3,
        start=f"{min(starts):.1f} to {max(starts):.1f} s in {len(starts)} starts",
        cost=_cost(results),
    )


def peak(results: Results, contender: str) -> float:
    """The most single pictures a second, by connections."""
    return max(results.median(contender, load.name) or 0.0 for load in LOADS if load.kind == "png")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    aligned = ("left", *["right"] * (len(head) - 1))
    return tabulate(rows, head, tablefmt="github", disable_numparse=True, colalign=aligned)


def _number(value: float | None, form: str = ",.0f") -> str:
    return "" if value is None else format(value, form)


def _title(load: Load) -> str:
    return LOAD_TITLES.get(load.name, f"{load.name} connection{'s' * (load.connections > 1)}")


def _measured_loads(results: Results) -> list[Load]:
    return [load for load in LOADS if results.of(OURS, load.name)]


def _by_load(results: Results, cell: Callable[[Results, str, str], str]) -> str:
    rows = [(_title(load), *(cell(results, name, load.name) for name in COMPARED)) for load in _measured_loads(results)]
    return _table(("", *(TITLES[name] for name in COMPARED)), rows)


def _throughput(results: Results, name: str, load: str) -> str:
    shown = _number(results.median(name, load)) + _range([each.pictures_per_second for each in results.of(name, load)])
    return shown if name == OURS else f"{shown} ({_number(results.ratio(OURS, name, load), '.2f')}x)"


def _range(values: list[float]) -> str:
    """Lowest and highest, where they are not much the same."""
    return f", {min(values):,.0f} to {max(values):,.0f}" if max(values) > UNSTEADY * min(values) else ""


def _latency(results: Results, name: str, load: str) -> str:
    """p50 / p99 and, where some failed, how many."""
    values = [_number(results.median(name, load, value), ".1f") for value in ("p50_ms", "p99_ms")]
    failures = sum(each.failures for each in results.of(name, load))
    return " / ".join(values) + (f", {failures:,} failed" if failures else "")


def _open_loop(results: Results) -> str:
    head = ("", "due a second", "p50", "p99", "p99.9", "highest", "failures", "generator, cores")
    rows = []
    for name in COMPARED:
        for each in results.of(name, OPEN):
            times = [_number(value, ".1f") for value in (each.p50_ms, each.p99_ms, each.p999_ms, each.max_ms)]
            due, cores = _number(each.rate), f"{each.generator_cores:.2f}"
            rows.append((TITLES[name], due, *times, f"{each.failures:,}", cores))
    return _table(head, rows)


def _usage(results: Results) -> str:
    loads = _measured_loads(results)
    head = ("", *(_title(load) for load in loads), "ready, MB", "highest, MB")
    return _table(head, [(TITLES[name], *_usage_row(results, name, loads)) for name in COMPARED])


def _usage_row(results: Results, name: str, loads: list[Load]) -> Iterator[str]:
    for load in loads:
        values = [results.median(name, load.name, value) for value in ("server_cores", "generator_cores")]
        yield " + ".join(_number(value, ".2f") for value in values)
    ready = [each.pss_mb for each in results.starts if each.contender == name]
    yield _number(median(ready))
    yield _number(results.peak_mb(name))


def _limit(results: Results) -> str:
    rows = []
    for load in _measured_loads(results):
        served = results.median(OURS, load.name) or 0.0
        rows.append((_title(load), f"{served:,.0f}", f"{ceiling(results):,.0f}", f"{served / ceiling(results):.0%}"))
    return _table(("", "served", "cores x in process", "share"), rows)


def _cost(results: Results) -> str:
    if results.median(BARE, COST) is None:
        return "What metrics and logs cost was not measured."
    shipped, bare = (_number(results.median(name, COST)) for name in (OURS, BARE))
    return f"With metrics and logs {shipped}, without {bare} pictures a second at 64 connections, interleaved."


def plot(results: Results, path: Path) -> None:
    """Throughput and latency of every contender by connections."""
    loads = [load for load in _measured_loads(results) if load.kind == "png"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    speed, latency = figure.subplots(1, 2)
    across = [load.connections for load in loads]
    for name in COMPARED:
        [line] = speed.plot(across, [results.median(name, load.name) for load in loads], "o-", label=TITLES[name])
        for value, style in (("p50_ms", "o-"), ("p99_ms", "v--")):
            values = [results.median(name, load.name, value) for load in loads]
            latency.plot(across, values, style, color=line.get_color())
    speed.set(title="pictures a second", xlabel="connections", xscale="log", ylim=(0, None), xticks=across)
    latency.set(title="ms: p50 (solid), p99 (dashed)", xlabel="connections", xscale="log", yscale="log", xticks=across)
    for axes in (speed, latency):
        axes.set_xticks(across, [str(each) for each in across])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    speed.legend()
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_whole(path, buffer.getvalue())
