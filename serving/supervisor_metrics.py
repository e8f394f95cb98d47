"""The supervisor's metrics: one registry of what workers count, what TorchServe lists, and what serves."""

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from digits_client.types import Version
from handler import __version__
from serving.collector import Collector
from serving.config import Config
from serving.worker_metrics import WorkerMetrics

POLL_SECONDS = 2.0


class SupervisorMetrics:
    """The registry behind /metrics of the supervisor's address; `is_ready` says whether the default version answers."""

    def __init__(self, config: Config, is_ready: Callable[[], bool]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each counter, of no use here
        self.registry = CollectorRegistry()
        self.workers = WorkerMetrics(config.worker_metrics)
        self.registry.register(self.workers)
        self.collector = Collector(config, self.workers, self.registry)
        ready = Gauge("digits_ready", "1 while the default version answers, else 0", registry=self.registry)
        ready.set_function(is_ready)
        text = "restarts of a TorchServe that died"
        self.restarts = Counter("digits_server_restarts", text, registry=self.registry)
        libraries = {
            name.replace("-", "_"): version(name) for name in ("torch", "torchserve", "opencv-python-headless")
        }
        labels = {"project": __version__, "python": platform.python_version()} | libraries
        Gauge("digits_build_info", "1; what serves", list(labels), registry=self.registry).labels(**labels).set(1)

    def count_restart(self) -> None:
        """Count a TorchServe that died."""
        self.restarts.inc()

    def reset_workers(self) -> None:
        """Forget what the workers of an earlier server have counted."""
        self.workers.reset_folder()

    def update_versions(self, versions: dict[str, Version], default: str, server: object) -> None:
        """Take over the versions that `server` lists; none, once it has ended."""
        self.collector.update(versions, default, server)

    @contextmanager
    def poll_in_thread(self, look: Callable[[], None], log: Callable[[str], None]) -> Iterator[None]:
        """Call `look` every LOOK_SECONDS in a thread while the block runs."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(POLL_SECONDS):
                try:
                    look()
                except Exception as error:  # a handler, or files of workers, that are not ours; no certificate
                    log(f"metrics are not up to date: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(5 * POLL_SECONDS)
