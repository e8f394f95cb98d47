"""Readiness of the default version, probed through TorchServe's API.

Ready means that the default version has READY workers, that their processes live, and that they have passed the smoke
test of their archive. TorchServe's own /ping returns Healthy long before that, and while workers crash.
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

RECHECK_SECONDS = 5.0  # after which a worker that passed the smoke test is probed again: it may hang
_DEAD_STATUSES = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)


class Readiness:
    """Probes TorchServe by all smoke images when its workers have changed, then by one every RECHECK_SECONDS."""

    def __init__(
        self,
        config: Config,
        get_server: Callable[[], TorchServe | None],
        open_client: Callable[[], AbstractContextManager[ManagementClient]],
    ) -> None:
        self.config, self.get_server, self.open_client = config, get_server, open_client
        self.is_draining = False  # if set, never ready
        self.is_ready = False  # result of the last probe
        self.verified_at = 0.0
        self.verified: set[str] = set()  # the workers that passed the smoke test last
        self.smoke: dict[str, Smoke] = {}  # by archive name, as the file may vanish while its version is served

    def find_problem(self, all_workers: bool = False) -> str | None:
        """Return why the default version, or any of its workers with `all_workers`, is not ready; None if it is."""
        problem = self._probe_server(all_workers)
        if problem is None or not all_workers:
            self.is_ready = problem is None
        return problem

    def _probe_server(self, all_workers: bool) -> str | None:
        if self.is_draining:
            return "draining: this server is stopping"
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
        except Exception as error:  # caused by a foreign archive or handler: the supervisor must survive it
            return f"unexpected response: {type(error).__name__}: {error}"

    def _probe_default(self, client: ManagementClient, all_workers: bool) -> str | None:
        default = client.get_default()
        ready = {f"{default.version} {worker.id} {worker.pid}" for worker in default.workers if _is_alive(worker)}
        if not ready or (all_workers and len(ready) < len(default.workers)):
            return f"{len(ready)} of {len(default.workers)} workers of {MODEL} {default.version} are READY"
        is_verified = ready <= self.verified
        if is_verified and time.monotonic() - self.verified_at < RECHECK_SECONDS:
            return None
        smoke = self._read_smoke(default)
        problem = find_smoke_problem(client.inference, default.version, smoke.take_first() if is_verified else smoke)
        if problem is None:
            self.verified, self.verified_at = ready, time.monotonic()
        return problem

    def _read_smoke(self, default: Version) -> Smoke:
        try:
            self.smoke[default.archive] = read_smoke(self.config.model_store / default.archive)
        except ServingError:
            if default.archive not in self.smoke:
                raise
        return self.smoke[default.archive]


def _is_alive(worker: Worker) -> bool:
    """Return whether the worker is READY and its process lives; TorchServe lists a killed one as READY for a moment."""
    try:
        return worker.status == "READY" and psutil.Process(worker.pid).status() not in _DEAD_STATUSES
    except psutil.NoSuchProcess:
        return False
