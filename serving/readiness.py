"""Whether the default version can answer now, by asking the server itself.

Ready means what a caller means by it: the default version has READY workers, these live, and they have passed the
smoke test of its archive. TorchServe's own /ping says Healthy long before, and while workers crash.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import psutil

from digits_client.exceptions import DigitsError, UnreachableError
from digits_client.management import ManagementClient
from digits_client.smoke_test import Smoke, find_smoke_problem
from digits_client.types import Version, Worker
from serving.archive import read_smoke
from serving.config import MODEL, Config, ServingError
from serving.torchserve import TorchServe

RECHECK_SECONDS = 5.0  # workers that have answered may hang since
_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)


class Readiness:
    """Probes the TorchServe that `get_server` returns, by clients that `open_client` opens.

    The smoke images are sent when workers have changed, and one of them when the last answer is PROOF_SECONDS old.
    """

    def __init__(
        self,
        config: Config,
        get_server: Callable[[], TorchServe | None],
        open_client: Callable[[], AbstractContextManager[ManagementClient]],
    ) -> None:
        self.config, self.get_server, self.open_client = config, get_server, open_client
        self.is_draining = False
        self.is_ready = False  # when it was last asked
        self.proven_at = 0.0
        self.proven: set[str] = set()  # workers that were READY when the smoke test was last passed
        self.smoke: dict[str, Smoke] = {}  # by archive: it may vanish while its version is served

    def start_draining(self) -> None:
        """From now on the server is not ready, as it stops."""
        self.is_draining = True

    def find_problem(self, all_workers: bool = False) -> str | None:
        """Return why the default version cannot answer now, None if it can; with `all_workers`, if all of them can."""
        problem = self._probe_server(all_workers)
        if problem is None or not all_workers:
            self.is_ready = problem is None
        return problem

    def _probe_server(self, all_workers: bool) -> str | None:
        if self.is_draining:
            return "draining: this server stops"
        server = self.get_server()
        if server is None or server.get_exit_code() is not None:
            return "TorchServe has ended"
        try:
            with self.open_client() as client:
                return self._probe_default(client, all_workers)
        except UnreachableError:
            return "TorchServe does not answer yet"
        except (DigitsError, ServingError) as error:
            return str(error)
        except Exception as error:  # an archive or a handler that is not ours: the supervisor must outlive it
            return f"the response is not understood: {type(error).__name__}: {error}"

    def _probe_default(self, client: ManagementClient, all_workers: bool) -> str | None:
        default = client.get_default()
        ready = {f"{default.version} {worker.id} {worker.pid}" for worker in default.workers if _is_alive(worker)}
        if not ready or (all_workers and len(ready) < len(default.workers)):
            return f"{len(ready)} of {len(default.workers)} workers of {MODEL} {default.version} are READY"
        known = ready <= self.proven
        if known and time.monotonic() - self.proven_at < RECHECK_SECONDS:
            return None
        smoke = self._read_smoke(default)
        problem = find_smoke_problem(client.inference, default.version, smoke.take_first() if known else smoke)
        if problem is None:
            self.proven, self.proven_at = ready, time.monotonic()
        return problem

    def _read_smoke(self, default: Version) -> Smoke:
        try:
            self.smoke[default.archive] = read_smoke(self.config.model_store / default.archive)
        except ServingError:
            if default.archive not in self.smoke:
                raise
        return self.smoke[default.archive]


def _is_alive(worker: Worker) -> bool:
    """TorchServe lists a killed worker as READY for a moment."""
    try:
        return worker.status == "READY" and psutil.Process(worker.pid).status() not in _DEAD
    except psutil.NoSuchProcess:
        return False
