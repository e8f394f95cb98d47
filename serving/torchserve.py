"""One TorchServe: its processes, output and tokens, from start to stop."""

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
EXIT_SECONDS = 2.0  # for the processes left after Java; workers exit when their connection closes
POLL_SECONDS = 0.05
MAX_LINES = 5  # lines of TorchServe's output that are kept
_IGNORED_OUTPUT = ("sun.reflect.Reflection", "-smi not available")
_PR_SET_PDEATHSIG = 1


class TorchServe:
    """TorchServe's Java process and its workers, in a process group and a temporary folder of their own.

    Java's working directory is that folder: it does not write its key file atomically, so the supervisor publishes it.
    TorchServe ends with the thread that created this object. `environment` is passed to the workers.
    """

    def __init__(self, config: Config, state: State, environment: dict[str, str]) -> None:
        java = find_java()
        self.config = config
        self.temporary = make_temporary_folder(config)  # two servers in one folder collide
        self.key_file = self.temporary / "key_file.json"
        self.process = subprocess.Popen(
            [java, *make_arguments(config, write_configuration(config, state, self.temporary))],
            cwd=self.temporary,
            env=make_environment(self.temporary) | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # Java prints why it does not start; warnings go to standard error
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # only the supervisor gets Ctrl-C, and then stops Java
            preexec_fn=end_with_parent(),
        )
        self.output: deque[str] = deque(maxlen=MAX_LINES)
        self.reader = threading.Thread(target=_read_lines, args=[self.process.stdout, self.output], daemon=True)
        self.reader.start()

    def get_exit_code(self) -> int | None:
        """Return the exit code of Java; None while it runs."""
        return self.process.poll()

    def get_last_lines(self) -> str:
        """Return the last output of a TorchServe that has ended, in one line."""
        self.reader.join(EXIT_SECONDS)
        lines = [line.strip() for line in self.output if not any(text in line for text in _IGNORED_OUTPUT)]
        return " | ".join(filter(None, lines)) or "nothing"

    def publish_tokens(self) -> None:
        """Publish the current key file to callers, atomically and readable only by its owner."""
        try:
            text = self.key_file.read_text(encoding="utf-8")
            parse_token(text, "API")
        except (FileNotFoundError, ValueError):  # not written yet, or incomplete
            return
        if not self.config.key_file.is_file() or self.config.key_file.read_text(encoding="utf-8") != text:
            write_atomic(self.config.key_file, text.encode(), 0o600)

    def kill(self) -> None:
        """Kill Java. A graceful stop closes connections just as abruptly, and then waits two seconds."""
        self.process.kill()

    def stop(self) -> None:
        """Stop every process, by force if necessary, and remove the temporary folder."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        kill_remaining(self.process.pid, self.temporary)
        self.kill()
        self.process.wait()
        with contextlib.suppress(ChildProcessError):  # as process 1 of a container, which inherits orphaned workers
            while os.waitpid(-self.process.pid, os.WNOHANG)[0]:
                pass


def _read_lines(output: IO[str], lines: deque[str]) -> None:
    """Read to the end, so that the pipe never fills up."""
    with output:
        lines.extend(output)


def kill_remaining(java: int, temporary: Path) -> None:
    """Kill the remaining processes of a server, such as its workers, and remove its temporary folder."""
    running = _wait_for_exit(_find_group(java, temporary))
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait_for_exit(running)
    if temporary.name.startswith(TEMPORARY_PREFIX):
        shutil.rmtree(temporary, ignore_errors=True)


def _wait_for_exit(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that have not exited by themselves within EXIT_SECONDS."""
    deadline = time.monotonic() + EXIT_SECONDS
    while (running := [process for process in processes if _is_running(process)]) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return running


def _is_running(process: psutil.Process) -> bool:
    """Return whether the process runs; a zombie runs only if it has threads, which hold its ports for a moment."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:
        return False


def _find_group(java: int, temporary: Path) -> list[psutil.Process]:
    """Return the processes of Java's group; checks their environment too, as the process id may have been reused."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) != java or not _is_running(process):
                continue
            if process.status() == psutil.STATUS_ZOMBIE or process.environ().get("TMPDIR") == str(temporary):
                processes.append(process)
    return processes


def end_with_parent() -> Callable[[], None] | None:
    """Return a function for a new process that, on Linux, requests SIGTERM for when its parent ends."""
    if not sys.platform.startswith("linux"):
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def request_signal() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent had ended before
            os.kill(os.getpid(), signal.SIGTERM)

    return request_signal
