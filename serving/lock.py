"""One server per folder: the lock file that records its processes; find and stop that server."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from serving.config import Config, ServingError
from serving.torchserve import TorchServe, kill_remaining

STOP_SECONDS = 90.0  # longer than the drain and the stop of TorchServe may take
_POLL_SECONDS = 0.05
_FILE_BYTES = 1000  # size of the lock file; written at once, so that readers never see half of it
_PROBE_SECONDS = 0.3  # a process that checks whether a server runs holds the lock for a moment


@dataclass(frozen=True)
class Owner:
    """Process ids of the supervisor and, once started, of TorchServe (Java), and TorchServe's temporary folder."""

    supervisor: int = 0
    java: int = 0
    temporary: str = ""


class Lock:
    """The lock that the supervisor holds from before the start of TorchServe until all processes have ended."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file

    def record(self, server: TorchServe) -> None:
        """Record the processes to end if this process is killed."""
        _write_owner(self.file, Owner(os.getpid(), server.process.pid, str(server.temporary)))


@contextmanager
def hold_lock(config: Config) -> Iterator[Lock]:
    """Hold the lock of this folder, and end what a killed server left; ServingError if a server is running."""
    config.lock_file.touch()
    with config.lock_file.open("r+", encoding="utf-8") as file:
        if not _acquire_lock(file, fcntl.LOCK_EX, _PROBE_SECONDS):
            running = _read_owner(file).supervisor
            raise ServingError(f"a server already runs here, as process {running}; `make stop` ends it")
        previous = _read_owner(file)
        _write_owner(file, replace(previous, supervisor=os.getpid()))  # from now on `stop` finds this process
        if previous.java:
            kill_remaining(previous.java, Path(previous.temporary))
        config.key_file.unlink(missing_ok=True)
        _write_owner(file, Owner(os.getpid()))
        yield Lock(file)
        _write_owner(file, Owner())


def find_process(config: Config) -> int | None:
    """Return the process id of the supervisor that runs here; None if there is none."""
    if not config.lock_file.exists():
        return None
    with config.lock_file.open(encoding="utf-8") as file:
        return None if _acquire_lock(file, fcntl.LOCK_SH) else _read_owner(file).supervisor or None


def stop_server(config: Config) -> bool:
    """Stop the server of this configuration and wait until its processes have ended; False if none is running."""
    process = find_process(config)
    if process is None:
        return False
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while find_process(config) == process:
        if time.monotonic() > deadline:
            raise ServingError(f"the server is still running {STOP_SECONDS:.0f} s after SIGTERM")
        time.sleep(_POLL_SECONDS)
    return True


def _acquire_lock(file: IO[str], lock: int, seconds: float = 0) -> bool:
    """Acquire the file's lock, exclusive or shared, until the file is closed; False if a server holds it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, lock | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        time.sleep(_POLL_SECONDS)


def _read_owner(file: IO[str]) -> Owner:
    file.seek(0)
    try:
        return Owner(**json.loads(file.read()))
    except (ValueError, TypeError):  # empty, or written by an earlier version
        return Owner()


def _write_owner(file: IO[str], owner: Owner) -> None:
    os.pwrite(file.fileno(), json.dumps(asdict(owner)).ljust(_FILE_BYTES).encode(), 0)
