"""One TorchServe: its processes, what it prints, its keys, its end."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

import psutil

from common.atomic import write_atomic
from digits_client.transport import parse_token
from serving.config import Config
from serving.java_command import find_java, make_arguments, make_environment, write_configuration
from serving.start_checks import TEMPORARY_PREFIX, make_temporary_folder
from serving.state import State

STOP_SECONDS = 20.0  # TorchServe stops its workers one after the other
END_SECONDS = 2.0  # for what is left without Java; workers end with their connection
POLL_SECONDS = 0.05
MAX_LINES = 5  # kept of what TorchServe prints
_IGNORED_OUTPUT = ("sun.reflect.Reflection", "-smi not available")
_PR_SET_PDEATHSIG = 1


class TorchServe:
    """TorchServe's Java process and its workers, in a process group and a temporary folder of their own.

    Java's working directory is that folder, so that the keys it writes, and does not write whole, are the supervisor's
    to publish. It ends with the thread that has made it, however that ends. `environment` is for its workers.
    """

    def __init__(self, config: Config, state: State, environment: dict[str, str]) -> None:
        java = find_java()
        self.config = config
        self.temporary = make_temporary_folder(config)  # its own: two servers in one collide
        self.key_file = self.temporary / "key_file.json"
        self.process = subprocess.Popen(
            [java, *make_arguments(config, write_configuration(config, state, self.temporary))],
            cwd=self.temporary,
            env=make_environment(self.temporary) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # why it does not start; warnings come on standard error
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which then stops this in order
            preexec_fn=end_with_parent(),
        )
        self.printed: deque[str] = deque(maxlen=MAX_LINES)
        self.reading = threading.Thread(target=_read_lines, args=[self.process.stdout, self.printed], daemon=True)
        self.reading.start()

    def get_exit_code(self) -> int | None:
        """Return the exit code of Java; None while it runs."""
        return self.process.poll()

    def get_last_lines(self) -> str:
        """Return what a TorchServe that has ended printed last, in one line."""
        self.reading.join(END_SECONDS)
        lines = [line.strip() for line in self.printed if not any(text in line for text in _IGNORED_OUTPUT)]
        return " | ".join(filter(None, lines)) or "nothing"

    def publish_tokens(self) -> None:
        """Give callers the keys that are valid now, whole and readable by their owner alone."""
        try:
            text = self.key_file.read_text(encoding="utf-8")
            parse_token(text, "API")
        except (FileNotFoundError, ValueError):  # not written yet, or not to its end
            return
        if not self.config.key_file.is_file() or self.config.key_file.read_text(encoding="utf-8") != text:
            write_atomic(self.config.key_file, text.encode(), 0o600)

    def kill(self) -> None:
        """End Java at once. Its own way closes every connection just as suddenly, and then waits two seconds."""
        self.process.kill()

    def stop(self) -> None:
        """End every process, by force if it must, and remove the temporary folder."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        kill_remaining(self.process.pid, self.temporary)
        self.kill()
        self.process.wait()


def _read_lines(output: IO[str], kept: deque[str]) -> None:
    """Read to the end, so that the pipe never fills up."""
    with output:
        kept.extend(output)


def kill_remaining(java: int, temporary: Path) -> None:
    """End what is left of a server, workers that outlived it among it; remove its temporary folder."""
    left = _wait_for_exit(_find_group(java, temporary))
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_for_exit(left)
    if temporary.name.startswith(TEMPORARY_PREFIX):
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_exit(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended by themselves within END_SECONDS."""
    deadline = time.monotonic() + END_SECONDS
    while (running := [process for process in processes if _is_running(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return running


def _is_running(process: psutil.Process) -> bool:
    """A zombie has ended; the first process, whose child an orphan becomes, may take seconds to see that.

    Not so one with threads: the first has ended before the others, which hold its ports some hundredths of a second.
    """
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def _find_group(java: int, temporary: Path) -> list[psutil.Process]:
    """Return the processes of Java's group; by their environment, for a number may have been given to another since.

    One that is just ending has none any more.
    """
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) != java or not _is_running(process):
                continue
            if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("TMPDIR") == str(temporary):
                processes.append(process)
    return processes


def end_with_parent() -> Callable[[], None] | None:
    """Return what a new process runs before its program: on Linux, a request for SIGTERM when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it was gone before that
            os.kill(os.getpid(), signal.SIGTERM)

    return ask
