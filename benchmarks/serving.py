"""python -m benchmarks.serving [--quick]: this project beside FastAPI, LitServe and TorchServe's defaults, in one run.

The same released model behind each, the same framing, the same number of workers, one server at a time, on this
machine alone: docs/performance/bench.md has the figures, benchmarks/results/bench.json all that was measured. Some 31
minutes; with --quick two, one short repeat of the most telling loads, which is printed and changes no document.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.contenders import BARE, LOGS, OURS, TITLES, Server, started
from benchmarks.drive import Measured, drive
from benchmarks.loads import COSTS, FLOODS, LOADS, QUICK_LOADS, QUICK_WARM_UP, WARM_UP, Load, open_loop
from benchmarks.machine import NO_WRK, machine
from benchmarks.report import COMPARED, peak, plot, report
from benchmarks.results import Results, Start
from benchmarks.usage import pss_bytes
from serving.archive import build_archive
from serving.config import ROOT, ServingError
from serving.files import write_whole

REPEATS = 3
KEPT = ROOT / "benchmarks" / "results" / "bench.json"
MEASURED = LOGS / "measured.json"
LEFT = f"what was measured, if anything, is in {MEASURED}; the documents are as they were"
QUICK_KEPT = KEPT.with_name("bench-quick.json")
REPORT = ROOT / "docs" / "performance" / "bench.md"


class Run:
    """Collects what is measured; one server runs at a time."""

    def __init__(self, quick: bool) -> None:
        self.warm_up = QUICK_WARM_UP if quick else WARM_UP
        self.machine, self.archive_bytes = machine(), _archive_bytes()
        self.limit: dict[str, Any] = {}
        self.starts: list[Start] = []
        self.measured: list[Measured] = []
        loads = len(QUICK_LOADS) if quick else REPEATS * len(LOADS)
        others = 1 if quick else 1 + len(COMPARED) + 1 + 2 * REPEATS
        self.bar = tqdm(total=len(COMPARED) * loads + others, unit="load", disable=None)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *raised: object) -> None:
        """However it ends, what was measured is kept."""
        self.bar.close()
        if self.measured:
            self.results().write(MEASURED)

    def compare(self, loads: list[Load], repeats: int) -> None:
        """Every load on every contender; the repeats of one are as far apart as may be."""
        for repeat in range(repeats):
            for name in COMPARED:
                self.put(name, repeat, loads)

    def put(self, name: str, repeat: int, loads: list[Load]) -> None:
        """The loads on a server that is started for them, once it is warm."""
        self.tell(name, "starting")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder, started(name, Path(folder)) as server:
            self.starts.append(Start(name, server.seconds, pss_bytes(server.process.pid) / 1e6))
            for load in self.warm_up:
                self.drive(server, repeat, load)
            for load in loads:
                self.measured.append(self.drive(server, repeat, load))
                self.bar.update()

    def drive(self, server: Server, repeat: int, load: Load) -> Measured:
        self.tell(server.name, load.name)
        return drive(server.name, repeat, load, server.plan.port, server.process.pid, server.requests(load.kind))

    def in_process(self, rounds: int) -> None:
        self.tell(OURS, "in process")
        command = [sys.executable, "-m", "benchmarks.in_process", "--rounds", str(rounds)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if run.returncode:
            raise ServingError(f"benchmarks.in_process failed: {run.stderr.strip()[-200:]}")
        self.bar.update()
        self.limit = json.loads(run.stdout.splitlines()[-1])

    def tell(self, name: str, doing: str) -> None:
        self.bar.set_description(f"{TITLES[name]}: {doing}")

    def results(self) -> Results:
        return Results(self.machine, self.limit, self.archive_bytes, self.starts, self.measured)


def _archive_bytes() -> int:
    with tempfile.TemporaryDirectory() as store:
        return build_archive("1.0", Path(store)).stat().st_size


def quick() -> Results:
    """One repeat of the most telling loads."""
    with Run(quick=True) as run:
        run.in_process(rounds=3)
        run.compare(QUICK_LOADS, repeats=1)
        return run.results()


def whole() -> Results:
    with Run(quick=False) as run:
        run.in_process(rounds=15)
        run.compare(LOADS, REPEATS)
        for name in COMPARED:
            loads = [open_loop(peak(run.results(), name)), *([FLOODS] if name == OURS else [])]
            run.put(name, 0, loads)
        for repeat in range(REPEATS):
            for name in (OURS, BARE):
                run.put(name, repeat, [COSTS])
        return run.results()


def main() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes, for a first look; writes no document")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended however this is
    try:
        _run(given.quick)
    except KeyboardInterrupt:
        print(f"\nstopped; {LEFT}", file=sys.stderr)
        return 130
    except (ServingError, OSError) as error:
        print(f"error: {error}; {LEFT}", file=sys.stderr)
        return 1
    return 0


def _run(is_quick: bool) -> None:
    results = quick() if is_quick else whole()
    results.write(QUICK_KEPT if is_quick else KEPT)
    text = report(results)
    if is_quick:
        print("QUICK: one short repeat of some loads. No figure to quote; `make bench` measures them.\n")
    print(text)
    if not is_quick:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        write_whole(REPORT, text.encode())
        plot(results, REPORT.with_suffix(".png"))
    if results.machine["closed_loops_by"] == NO_WRK:
        print("wrk is not installed; `apt install wrk` makes closed loops cost less CPU")


if __name__ == "__main__":
    sys.exit(main())
