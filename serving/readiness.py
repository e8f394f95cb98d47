"""Whether the default version can answer now, by asking the server itself.

Ready means what a caller means by it: the default version has READY workers, these live, and they have answered the
smoke pictures of its archive right. TorchServe's own /ping says Healthy long before, and while workers crash.
"""

import threading
import time
from collections.abc import Callable

import psutil

from serving.archive import Smoke, read_smoke
from serving.client import DigitsClient, smoke_problem
from serving.config import MODEL, Config, ServingError
from serving.connection import UnreachableError
from serving.results import Version, Worker
from serving.torchserve import TorchServe

PROBE_SECONDS = 5.0  # a server that takes longer to answer one picture is not ready
PROOF_SECONDS = 5.0  # workers that have answered may hang since
_DEAD = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)


class Readiness:
    """Of the TorchServe that `server` returns.

    The smoke pictures are sent when workers have changed, and one of them when the last answer is PROOF_SECONDS old.
    """

    def __init__(self, config: Config, server: Callable[[], TorchServe | None]) -> None:
        self.config, self.server = config, server
        self.draining = False
        self.is_ready = False  # when it was last asked
        self.lock = threading.Lock()  # held while it asks, and by whoever changes the tokens
        self.proven_at = 0.0
        self.proven: set[str] = set()  # workers that were READY when the smoke pictures were last answered right
        self.smoke: dict[str, Smoke] = {}  # by archive: it may vanish while its version is served

    def problem(self, all_workers: bool = False) -> str | None:
        """Why the default version cannot answer now, None if it can; with `all_workers`, if all of them can."""
        problem = self._found(all_workers)
        if problem is None or not all_workers:
            self.is_ready = problem is None
        return problem

    def _found(self, all_workers: bool) -> str | None:
        if self.draining:
            return "draining: this server stops"
        server = self.server()
        if server is None or server.exit_code() is not None:
            return "TorchServe has ended"
        if not self.lock.acquire(timeout=PROBE_SECONDS):
            return "TorchServe is still being asked"
        try:
            with DigitsClient(self.config, PROBE_SECONDS, retries=0, key_file=server.key_file) as client:
                return self._problem(client, all_workers)
        except UnreachableError:
            return "TorchServe does not answer yet"
        except ServingError as error:
            return str(error)
        except Exception as error:  # an archive or a handler that is not ours: the supervisor must outlive it
            return f"the answer is not understood: {type(error).__name__}: {error}"
        finally:
            self.lock.release()

    def _problem(self, client: DigitsClient, all_workers: bool) -> str | None:
        default = client.default()
        ready = {f"{default.version} {each.id} {each.pid}" for each in default.workers if _answers(each)}
        if not ready or (all_workers and len(ready) < len(default.workers)):
            return f"{len(ready)} of {len(default.workers)} workers of {MODEL} {default.version} are READY"
        known = ready <= self.proven
        if known and time.monotonic() - self.proven_at < PROOF_SECONDS:
            return None
        smoke = self._smoke(default)
        problem = smoke_problem(client, default.version, smoke.one() if known else smoke)
        if problem is None:
            self.proven, self.proven_at = ready, time.monotonic()
        return problem

    def _smoke(self, default: Version) -> Smoke:
        try:
            self.smoke[default.archive] = read_smoke(self.config.model_store / default.archive)
        except ServingError:
            if default.archive not in self.smoke:
                raise
        return self.smoke[default.archive]


def _answers(worker: Worker) -> bool:
    """TorchServe lists a killed worker as READY for a moment."""
    try:
        return worker.status == "READY" and psutil.Process(worker.pid).status() not in _DEAD
    except psutil.NoSuchProcess:
        return False
