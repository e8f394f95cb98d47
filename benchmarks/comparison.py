"""Results of a benchmark run: start times, memory and measurements, with medians and ratios."""

import statistics
from dataclasses import dataclass, field

from benchmarks.load_test import Measurement
from benchmarks.workloads import Workload

SPEED = "images_per_second"


@dataclass(frozen=True)
class Start:
    """One start of a server: seconds until it was ready, and its memory at that time."""

    server: str
    seconds: float
    pss_mb: float


@dataclass(frozen=True)
class Comparison:
    """All starts and measurements, in order."""

    starts: list[Start] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)

    def select(self, server: str, workload: Workload) -> list[Measurement]:
        """Return the repeats of a workload on a server, in order."""
        return [run for run in self.measurements if (run.server, run.workload) == (server, workload.name)]

    def median(self, server: str, workload: Workload, value: str = SPEED) -> float:
        """Return the median of a field over the repeats."""
        return float(statistics.median(getattr(run, value) for run in self.select(server, workload)))

    def ratio(self, server: str, other: str, workload: Workload) -> float:
        """Return the median of the ratios within repeats, whose measurements are close in time."""
        pairs = zip(self.select(server, workload), self.select(other, workload), strict=True)
        return float(statistics.median(one.images_per_second / two.images_per_second for one, two in pairs))

    def peak_rate(self, server: str, repeat: int) -> float:
        """Return the maximum throughput of the closed loops in a repeat, in requests per second."""
        closed = [run for run in self.measurements if (run.server, run.repeat, run.rate) == (server, repeat, None)]
        return max(run.statuses.get("200", 0) / run.seconds for run in closed)
