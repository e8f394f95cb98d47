"""Metrics of the workers (handler/metrics.py), summed over all of them, including those that have ended."""

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.multiprocess import MultiProcessCollector


class WorkerMetrics:
    """Collects the metrics that workers write into a folder, named in their environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reset_folder(self) -> None:
        """Create the folder or empty it: counters start at 0 with the supervisor."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.db"):
            path.unlink()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric, for prometheus_client's registry."""
        files = [str(path) for path in self.folder.glob("*.db") if path.stat().st_size]  # an empty one is being created
        yield from MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
