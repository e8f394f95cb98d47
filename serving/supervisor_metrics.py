"""The Prometheus registry behind /metrics, and the thread that updates it."""

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from handler import __version__
from serving.collector import Collector
from serving.config import Config
from serving.worker_metrics import WorkerMetrics

UPDATE_SECONDS = 2.0  # between updates of the versions' metrics


class SupervisorMetrics:
    """Holds that registry and updates it; `is_ready` returns whether the default version is ready."""

    def __init__(self, config: Config, is_ready: Callable[[], bool]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # unused; a second line per counter
        self.registry = CollectorRegistry()
        self.workers = WorkerMetrics(config.worker_metrics)
        self.registry.register(self.workers)
        self.collector = Collector(config, self.workers, self.registry)
        ready = Gauge("digits_ready", "1 if the default version is ready, else 0", registry=self.registry)
        ready.set_function(is_ready)
        text = "restarts of TorchServe after it died"
        self.restarts = Counter("digits_server_restarts", text, registry=self.registry)
        names = ("torch", "torchserve", "opencv-python-headless")
        libraries = {name.replace("-", "_"): version(name) for name in names}
        labels = {"project": __version__, "python": platform.python_version()} | libraries
        text = "always 1; the labels are software versions"
        Gauge("digits_build_info", text, list(labels), registry=self.registry).labels(**labels).set(1)

    @contextmanager
    def poll_in_thread(self, poll: Callable[[], None], log: Callable[[str], None]) -> Iterator[None]:
        """Call `poll` every UPDATE_SECONDS in a thread while the block runs."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(UPDATE_SECONDS):
                try:
                    poll()
                except Exception as error:  # caused by a foreign handler or file, or a missing certificate
                    log(f"metrics are not up to date: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(5 * UPDATE_SECONDS)
