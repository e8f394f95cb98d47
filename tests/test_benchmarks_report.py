"""What a run's figures make of the bars and of the page."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bars import bars, growth_of
from benchmarks.contenders import BARE, OURS, TITLES
from benchmarks.drive import Measured
from benchmarks.loads import COST, FLOOD, LOADS, OPEN
from benchmarks.machine import PACKAGES
from benchmarks.report import COMPARED, peak, plot, report
from benchmarks.results import Results, Start

SPEED = {"ours": 2000.0, "fastapi": 1000.0, "litserve": 800.0, "defaults": 500.0, "bare": 2050.0}
MACHINE = dict.fromkeys(PACKAGES, "1.0") | {"cpu": "some", "system": "some", "python": "3.11", "closed_loops_by": "wrk"}


def measured(contender: str, load: str, repeat: int = 0) -> Measured:
    return Measured(
        contender=contender,
        load=load,
        repeat=repeat,
        seconds=8.0,
        pictures_per_second=SPEED[contender] * (2 if load == "bulk" else 1),
        p50_ms=10.0,
        p90_ms=12.0,
        p99_ms=18.0,
        p999_ms=19.0,
        max_ms=20.0,
        statuses={"200": 16000, "503": 5} if load == FLOOD else {"200": 16000},
        errors={"connect": 0, "read": 0, "write": 0, "timeout": 0},
        server_cores=1.8,
        generator_cores=0.1,
        pss_mb=[700.0, 710.0, 715.0, 712.0, 711.0],
        rate=1400.0 if load == OPEN else None,
    )


@pytest.fixture
def results() -> Results:
    runs = [measured(name, load.name, repeat) for name in COMPARED for load in LOADS for repeat in range(3)]
    runs += [measured(name, OPEN) for name in COMPARED] + [measured(OURS, FLOOD)]
    runs += [measured(name, COST, repeat) for name in (OURS, BARE) for repeat in range(3)]
    starts = [Start(name, 5.0, 680.0) for name in COMPARED]
    machine = MACHINE | {"cores": 2, "memory_mb": 25_000, "commit": "abc", "date": "2026-01-01"}
    return Results(machine, {"batch": 16, "pictures_per_second": 3900.0, "rounds": []}, 120_000, starts, runs)


def verdicts(results: Results) -> dict[str, bool | None]:
    return {bar.what: bar.met for bar in bars(results)}


def changed(results: Results, load: str, **values: object) -> Results:
    """The same with other values of this project's under a load."""
    runs = [
        replace(each, **values) if (each.contender, each.load) == (OURS, load) else each  # type: ignore[arg-type]
        for each in results.measured
    ]
    return replace(results, measured=runs)


def test_all_bars_are_met_by_good_figures(results: Results) -> None:
    assert set(verdicts(results).values()) == {True}


@pytest.mark.parametrize(
    ("load", "values", "missed"),
    [
        ("64", {"pictures_per_second": 1499.0}, {"FastAPI", "LitServe", "TorchServe's"}),
        ("64", {"p99_ms": 20.1}, {"p99 beside p50"}),
        ("8", {"pictures_per_second": 799.0}, {"8 connections"}),
        ("1", {"p50_ms": 25.1}, {"alone"}),
        ("bulk", {"pictures_per_second": 3499.0}, {"bulk JSON"}),
        (OPEN, {"p99_ms": 25.1}, {"open loop at 70% of the peak, p99"}),
        (OPEN, {"errors": {"read": 1}}, {"open loop at 70% of the peak, failures"}),
        (FLOOD, {"statuses": {"200": 9, "500": 1}}, {"256 connections, errors"}),
        (FLOOD, {"pss_mb": [700.0, 700.0, 771.0, 700.0, 700.0]}, {"256 connections, memory"}),
        (COST, {"pictures_per_second": 1940.0}, {"cost"}),
        ("mix", {"pss_mb": [1201.0]}, {"memory at most"}),
    ],
)
def test_a_bar_that_is_missed_is_called_so(
    results: Results, load: str, values: dict[str, object], missed: set[str]
) -> None:
    told = [what for what, met in verdicts(changed(results, load, **values)).items() if met is False]
    assert told
    assert all(any(part in what for part in missed) for what in told)
    assert all(any(part in what for what in told) for part in missed)
    assert "**not met**" in report(changed(results, load, **values))


def test_ratios_are_of_the_repeats_that_ran_together(results: Results) -> None:
    """A machine that is half as fast in one repeat changes no ratio."""
    runs = [
        replace(each, pictures_per_second=each.pictures_per_second / 2) if each.repeat == 1 else each
        for each in results.measured
    ]
    assert replace(results, measured=runs).ratio(OURS, "fastapi", "64") == 2.0


def test_a_quick_run_says_what_it_has_not_measured(results: Results) -> None:
    quick = replace(results, measured=[each for each in results.measured if each.load in ("1", "64")])
    assert verdicts(quick)["bulk JSON"] is None
    assert "not measured" in report(quick)


def test_the_page_shows_every_contender_and_load(results: Results, tmp_path: Path) -> None:
    page = report(results)
    assert all(TITLES[name] in page for name in COMPARED)
    assert all(f"| {load.connections} connection" in page for load in LOADS if load.kind == "png")
    assert "2,000" in page
    assert "(2.00x)" in page
    plot(results, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_kept_figures_are_all_that_was_measured(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "results" / "bench.json")
    kept = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert Measured(**kept["measured"][0]) == results.measured[0]
    assert len(kept["measured"]) == len(results.measured)


def test_the_peak_is_the_best_of_single_pictures(results: Results) -> None:
    assert peak(changed(results, "32", pictures_per_second=2500.0), OURS) == 2500.0


def test_growth_leaves_the_warm_up_out() -> None:
    assert growth_of([100.0, 700.0, 705.0, 707.0, 700.0]) == pytest.approx(1.01)
