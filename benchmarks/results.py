"""What a run measured, as it is kept, and the medians and ratios that are read from it."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.drive import Measured
from serving.files import write_whole


@dataclass(frozen=True)
class Start:
    """One start of a server: seconds from its command until it was ready, and its summed PSS then."""

    contender: str
    seconds: float
    pss_mb: float


@dataclass(frozen=True)
class Results:
    """`limit` is what benchmarks.in_process prints."""

    machine: dict[str, Any]
    limit: dict[str, Any]
    archive_bytes: int
    starts: list[Start]
    measured: list[Measured]

    def of(self, contender: str, load: str) -> list[Measured]:
        """One a repeat, in their order."""
        return [each for each in self.measured if (each.contender, each.load) == (contender, load)]

    def median(self, contender: str, load: str, value: str = "pictures_per_second") -> float | None:
        """Of a field over the repeats; None if it was not measured."""
        return median(getattr(each, value) for each in self.of(contender, load))

    def ratio(self, one: str, other: str, load: str, value: str = "pictures_per_second") -> float | None:
        """The median of the repeats' ratios: the two of a repeat ran minutes apart, those of another did not."""
        pairs = zip(self.of(one, load), self.of(other, load), strict=True)
        return median(getattr(each, value) / getattr(peer, value) for each, peer in pairs)

    def peak_mb(self, contender: str) -> float | None:
        """The highest summed PSS of all loads."""
        return max((max(each.pss_mb) for each in self.measured if each.contender == contender), default=None)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{json.dumps(asdict(self), indent=1)}\n".encode())


def median(values: Iterable[float]) -> float | None:
    """None of nothing."""
    listed = list(values)
    return statistics.median(listed) if listed else None
