"""What the supervisor tells Prometheus of versions, workers, queue and drift, looked at every LOOK_SECONDS."""

import hashlib
import json
import math
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric

from handler import __version__
from handler.drift import DriftWindow, count_features
from serving.archive import archive_path, sha256
from serving.client import DigitsClient
from serving.config import Config, ServingError
from serving.readiness import Readiness
from serving.results import Version
from serving.torchserve import TorchServe
from serving.worker_metrics import WorkerMetrics

LOOK_SECONDS = 2.0
ASK_SECONDS = 5.0
INFO = ("run_id", "accuracy", "data_sha256", "archive_sha256")  # accuracy 0..1 on test pictures, if there were any


class Watch:
    """Of the TorchServe that `server` returns, and of whether it is ready.

    Keeps what it last saw while TorchServe does not answer.
    """

    def __init__(
        self,
        config: Config,
        server: Callable[[], TorchServe | None],
        readiness: Readiness,
        workers: WorkerMetrics,
        registry: CollectorRegistry,
        tell: Callable[[str], None],
    ) -> None:
        self.tell = tell
        self.config, self.server, self.readiness, self.workers = config, server, readiness, workers
        self.seen: TorchServe | None = None  # whose processes are known
        self.versions: dict[str, Version] = {}
        self.default = ""
        self.processes: dict[tuple[str, str], int] = {}  # of version and worker
        self.windows: dict[str, DriftWindow] = {}
        self.drift: dict[str, tuple[int, dict[str, float]]] = {}  # pictures of the window, and index by feature
        self.restarts = Counter(
            "digits_worker_restarts", "workers that were replaced, by version", ["version"], registry=registry
        )
        registry.register(self)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Looks, in a thread, while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._look_until, args=[ended], daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(2 * ASK_SECONDS)

    def _look_until(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            try:
                self.readiness.problem()  # here, not by who scrapes: it may take seconds to tell
                with DigitsClient(self.config, ASK_SECONDS, retries=0, key_file=self.config.key_file) as client:
                    self.look(client)
            except Exception as error:  # a handler, or files of workers, that are not ours; a certificate that is gone
                self.tell(f"metrics are not up to date: {type(error).__name__}: {error}")

    def look(self, client: DigitsClient) -> None:
        """Asks TorchServe, and the workers' counters, once."""
        server = self.server()
        if server is None or server.exit_code() is not None:
            self.versions = {}
            return
        try:
            self.versions, self.default = client.models(), client.default().version
        except ServingError:  # it starts, or hangs, or has just been given new tokens
            return
        if server is not self.seen:
            self.seen, self.processes = server, {}
        for each in self.versions.values():
            self._count_restarts(each)
        counted = count_features(self.workers.collect())
        self.windows = {name: self.windows.get(name, DriftWindow()) for name in counted.keys() & self.versions.keys()}
        for name, window in self.windows.items():
            window.add(counted[name])
            self.drift[name] = window.images, window.compute_drift(self._record(name)[1])

    def _count_restarts(self, version: Version) -> None:
        restarts = self.restarts.labels(version.version)
        for worker in version.workers:
            key = version.version, worker.id
            before = self.processes.get(key)
            if worker.pid > 0:  # none yet while it starts
                self.processes[key] = worker.pid
                restarts.inc(before is not None and before != worker.pid)

    def collect(self) -> Iterator[Metric]:
        """Every value but the restarts, as prometheus_client's registry asks for them."""
        versions = list(self.versions.values())
        yield _gauge("ready", "1 while the default version answers, else 0", [], [([], self.readiness.is_ready)])

        def by_version(name: str, told: str, value: Callable[[Version], float]) -> Metric:
            return _gauge(name, told, ["version"], [([each.version], value(each)) for each in versions])

        yield by_version("workers_ready", "workers that answer", lambda each: each.ready)
        yield by_version("workers_wanted", "workers that should answer", lambda each: each.min_workers)
        yield by_version("queue_requests", "requests that wait for a worker", lambda each: each.pending)
        yield by_version("queue_capacity_requests", "requests that may wait", lambda each: each.queue)
        yield by_version(
            "model_default", "1 for the default version, else 0", lambda each: each.version == self.default
        )
        infos = [([each.version, *self._record(each.version)[0]], 1) for each in versions]
        yield _gauge("model_info", "1; what the version is", ["version", *INFO], infos)
        yield from self._drift({each.version: self.drift.get(each.version, (0, {})) for each in versions})

    def _drift(self, drift: dict[str, tuple[int, dict[str, float]]]) -> Iterator[Metric]:
        pictures = [([name], count) for name, (count, _) in drift.items()]
        yield _gauge("drift_window_pictures", "pictures that the drift is told of", ["version"], pictures)
        values = [
            ([version, feature], value) for version, (_, each) in drift.items() for feature, value in each.items()
        ]
        told = "population stability index of recent pictures against the version's own; over 0.25 is a shift"
        yield _gauge("drift_psi", told, ["version", "feature"], values)

    def _record(self, version: str) -> "Record":
        path = archive_path(self.config.model_store, version)
        try:
            return _record(path, path.stat().st_mtime_ns)
        except (OSError, BadZipFile, ValueError, LookupError, TypeError, AttributeError):  # gone, or not ours
            return [""] * len(INFO), {}


Record = tuple[list[str], dict[str, dict[str, float]]]  # the values of INFO, and the shares of the reference


@lru_cache
def _record(path: Path, _: int) -> Record:
    """Of an archive's model.json; read anew when the file has changed."""
    with ZipFile(path) as members:
        record: dict[str, Any] = json.loads(members.read("model.json"))
    measured = record["metrics"]
    accuracy = measured.get("test", measured.get("validation", {})).get("accuracy", math.nan)
    data = hashlib.sha256(json.dumps(record["data"]["sha256"], sort_keys=True).encode()).hexdigest()
    info = [str(each) for each in (record["run_id"], f"{accuracy:.4f}", data, sha256(path))]
    shares = record.get("reference", {}).get("shares", {})
    return info, {name: {each: float(share) for each, share in bins.items()} for name, bins in shares.items()}


def _gauge(name: str, told: str, labels: list[str], rows: Sequence[tuple[list[str], float]]) -> Metric:
    gauge = GaugeMetricFamily(f"digits_{name}", told, labels=labels)
    for row, value in rows:
        gauge.add_metric(row, value)
    return gauge


def build_info(registry: CollectorRegistry) -> None:
    """What serves, as a metric: the project's version, Python's, and those of the libraries that matter."""
    libraries = {name.replace("-", "_"): version(name) for name in ("torch", "torchserve", "opencv-python-headless")}
    labels = {"project": __version__, "python": platform.python_version()} | libraries
    Gauge("digits_build_info", "1; what serves", list(labels), registry=registry).labels(**labels).set(1)
