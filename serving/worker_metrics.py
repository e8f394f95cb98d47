"""What the workers count (handler/metrics.py), added up over all of them, those that have ended among them."""

import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client import Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from handler.protocol import METRIC_FILES, METRICS_FOLDER, reserve_metric_files

ENDED = 0  # stands for the process in the names of the files that hold what ended workers have counted


class WorkerMetrics:
    """Collects what lies in the folder, which workers are told by their environment.

    What a server before has counted goes: counters begin at 0 with the supervisor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()

    def begin(self) -> None:
        """Makes the folder, empty."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.db"):
            path.unlink()

    def environment(self) -> dict[str, str]:
        """Of workers."""
        return {METRICS_FOLDER: str(self.folder)}

    def collect(self) -> Iterator[Metric]:
        """Every metric, as prometheus_client's registry asks for it."""
        with self.lock:
            merged = self._merged()
        yield from merged

    def _merged(self) -> list[Metric]:
        with suppress(OSError):  # a full disk: they are added up all the same
            for kind in METRIC_FILES:
                self._absorb(kind)
        files = [str(path) for path in self.folder.glob("*.db") if path.stat().st_size]  # others are being made
        return list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]

    def _absorb(self, kind: str) -> None:
        """Adds the files of workers that have ended to one, lest each restart slows every look by one file more."""
        ended = [path for path in self.folder.glob(f"{kind}_*.db") if not _lives(path)]
        if not ended:
            return
        path = self.folder / f"{kind}_{ENDED}.db"
        reserve_metric_files(self.folder, ENDED, sum(map(_used, [path, *ended])))
        kept = MmapedDict(str(path))  # type: ignore[no-untyped-call]
        for path in ended:
            if path.stat().st_size:
                for key, value, stamp, _ in MmapedDict.read_all_values_from_file(str(path)):  # type: ignore[no-untyped-call]
                    kept.write_value(key, kept.read_value(key)[0] + value, stamp)  # type: ignore[no-untyped-call]
            path.unlink()
        kept.close()  # type: ignore[no-untyped-call]


def _used(path: Path) -> int:
    """The bytes that hold values, which such a file begins with."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return int.from_bytes(file.read(4), sys.byteorder)


def _lives(path: Path) -> bool:
    process = int(path.stem.rpartition("_")[2])
    return process == ENDED or psutil.pid_exists(process)
