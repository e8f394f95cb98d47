"""What the workers count (handler/metrics.py), added up over all of them, also those that have ended."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector


class WorkerMetrics:
    """Collects what lies in the folder, which the environment of workers names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset_folder(self) -> None:
        """Empty the folder, or make it: counters begin at 0 with the supervisor."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.db"):
            path.unlink()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, as prometheus_client's registry asks for it."""
        files = [str(path) for path in self.folder.glob("*.db") if path.stat().st_size]  # others are being made
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
