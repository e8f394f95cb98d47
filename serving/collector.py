"""Prometheus collector: metrics of versions, workers, queue and drift, from the supervisor's last update."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from digits_client.types import Version
from handler.drift import DriftWindow, count_features
from serving.archive import compute_sha256, get_archive_path
from serving.config import Config
from serving.worker_metrics import WorkerMetrics

INFO_LABELS = ("run_id", "accuracy", "data_sha256", "archive_sha256")  # accuracy in 0..1, on the test set if any

ModelRecord = tuple[list[str], dict[str, dict[str, float]]]  # info labels; baseline: feature -> bin -> share


class Collector:
    """Collects metrics of the versions passed to `update` last."""

    def __init__(self, config: Config, workers: WorkerMetrics, registry: CollectorRegistry) -> None:
        self.config = config
        self.versions: dict[str, Version] = {}
        self.default = ""
        self.restarts = WorkerRestarts(registry)
        self.drift = VersionDrift(workers)
        registry.register(self)

    def update(self, versions: dict[str, Version], default: str, server: object) -> None:
        """Set the versions that `server` lists, and read what its workers have counted."""
        self.versions, self.default = versions, default
        self.restarts.count_restarts(versions, server)
        self.drift.update({version: self._get_model_record(version)[1] for version in versions})

    def collect(self) -> Iterator[Metric]:
        """Yield every metric but the restarts, which the registry collects from their own counter."""
        versions = list(self.versions.values())

        def make_version_gauge(name: str, text: str, value: Callable[[Version], float]) -> Metric:
            return _make_gauge(name, text, ["version"], [([version.version], value(version)) for version in versions])

        yield make_version_gauge("workers_ready", "workers that are READY", lambda version: version.ready)
        yield make_version_gauge("workers_desired", "workers that should be READY", lambda version: version.min_workers)
        yield make_version_gauge("queue_requests", "requests waiting for a worker", lambda version: version.pending)
        yield make_version_gauge("queue_capacity_requests", "maximum of queued requests", lambda version: version.queue)
        yield make_version_gauge(
            "model_default", "1 if it is the default, else 0", lambda version: version.version == self.default
        )
        infos = [([version.version, *self._get_model_record(version.version)[0]], 1) for version in versions]
        yield _make_gauge("model_info", "always 1; the labels describe the version", ["version", *INFO_LABELS], infos)
        yield from self.drift.collect([version.version for version in versions])

    def _get_model_record(self, version: str) -> ModelRecord:
        path = get_archive_path(self.config.model_store, version)
        try:
            return _read_model_record(path, path.stat().st_mtime_ns)
        except (OSError, BadZipFile, ValueError, LookupError, TypeError, AttributeError):  # missing, or a foreign file
            return [""] * len(INFO_LABELS), {}


class WorkerRestarts:
    """Counts workers that a running TorchServe has replaced."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.server: object = None
        self.processes: dict[tuple[str, str], int] = {}  # (version, worker) -> process id
        text = "workers that died and were replaced, by version"
        self.counter = Counter("digits_worker_restarts", text, ["version"], registry=registry)

    def count_restarts(self, versions: dict[str, Version], server: object) -> None:
        """Compare the workers' process ids with those of the last call."""
        if server is not self.server:
            self.server, self.processes = server, {}
        for version in versions.values():
            restarts = self.counter.labels(version.version)
            for worker in version.workers:
                key = version.version, worker.id
                before = self.processes.get(key)
                if worker.pid > 0:  # no process yet while it starts
                    self.processes[key] = worker.pid
                    restarts.inc(before is not None and before != worker.pid)


class VersionDrift:
    """Computes the population stability index of recent images against the baselines of their versions."""

    def __init__(self, workers: WorkerMetrics) -> None:
        self.workers = workers
        self.windows: dict[str, DriftWindow] = {}
        self.drift: dict[str, tuple[int, dict[str, float]]] = {}  # images in the window, and index by feature

    def update(self, baselines: dict[str, dict[str, dict[str, float]]]) -> None:
        """Add the workers' counts to the windows and compare them with the baselines of their versions."""
        counted = count_features(self.workers.collect())
        self.windows = {name: self.windows.get(name, DriftWindow()) for name in counted.keys() & baselines.keys()}
        for name, window in self.windows.items():
            window.add(counted[name])
            self.drift[name] = window.images, window.compute_drift(baselines[name])

    def collect(self, versions: list[str]) -> Iterator[Metric]:
        """Yield the metrics of these versions."""
        drift = {version: self.drift.get(version, (0, {})) for version in versions}
        images = [([name], count) for name, (count, _) in drift.items()]
        yield _make_gauge("drift_window_images", "images from which the drift is computed", ["version"], images)
        values = [([name, feature], value) for name, (_, index) in drift.items() for feature, value in index.items()]
        text = "population stability index of recent images against the version's baseline; over 0.25 is a shift"
        yield _make_gauge("drift_psi", text, ["version", "feature"], values)


@lru_cache
def _read_model_record(path: Path, _: int) -> ModelRecord:
    """Read an archive's model.json; the second argument, its modification time, invalidates the cache."""
    with ZipFile(path) as members:
        record: dict[str, Any] = json.loads(members.read("model.json"))
    metrics = record["metrics"]
    accuracy = metrics.get("test", metrics.get("validation", {})).get("accuracy", math.nan)
    data = hashlib.sha256(json.dumps(record["data"]["sha256"], sort_keys=True).encode()).hexdigest()
    info = [str(value) for value in (record["run_id"], f"{accuracy:.4f}", data, compute_sha256(path))]
    shares = record.get("reference", {}).get("shares", {})
    return info, {name: {bin_: float(share) for bin_, share in bins.items()} for name, bins in shares.items()}


def _make_gauge(name: str, text: str, labels: list[str], rows: Sequence[tuple[list[str], float]]) -> Metric:
    gauge = GaugeMetricFamily(f"digits_{name}", text, labels=labels)
    for row, value in rows:
        gauge.add_metric(row, value)
    return gauge
