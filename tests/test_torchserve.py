"""serving/torchserve.py and serving/lock.py: the remaining processes of a server are ended and reaped."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from serving.config import Config, ServingError
from serving.lock import find_process, hold_lock
from serving.torchserve import kill_remaining
from tests.servers import configure_free_ports, list_alive, wait_for

ENDING = """
import ctypes, socket, threading, time
listening = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=[60]).start()
print(listening.getsockname()[1], flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_zombie_with_threads_is_waited_for_because_it_holds_ports(tmp_path: Path) -> None:
    """A killed Java is a zombie for some 10 ms before its last thread releases its ports."""
    command = [sys.executable, "-c", ENDING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leftover:
        assert leftover.stdout is not None
        port = int(leftover.stdout.readline())
        wait_for(lambda: psutil.Process(leftover.pid).status() == psutil.STATUS_ZOMBIE)
        socket.create_connection(("127.0.0.1", port)).close()
        try:
            kill_remaining(leftover.pid, tmp_path)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port)).close()
        finally:
            leftover.kill()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return configure_free_ports(tmp_path)


def test_a_start_ends_the_processes_of_a_killed_server_and_can_be_stopped_meanwhile(config: Config) -> None:
    """A suspended process does not exit by itself; the lock names the new supervisor before it is killed."""
    temporary = config.folder / "digits-left"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    left = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment, start_new_session=True
    )
    psutil.Process(left.pid).suspend()
    config.lock_file.write_text(json.dumps({"supervisor": 1, "java": left.pid, "temporary": str(temporary)}))
    config.key_file.write_text("{}")
    released = threading.Event()

    def hold() -> None:
        with hold_lock(config):
            released.wait(10)

    holding = threading.Thread(target=hold)
    holding.start()
    wait_for(lambda: find_process(config) == os.getpid(), 10)
    wait_for(lambda: not list_alive([psutil.Process(left.pid)]), 10)
    wait_for(lambda: not temporary.exists(), 10)
    wait_for(lambda: not config.key_file.exists(), 10)
    with pytest.raises(ServingError, match=f"already runs here, as process {os.getpid()}; `make stop` ends it"):
        hold_lock(config).__enter__()
    released.set()
    holding.join()
    left.communicate()
    assert find_process(config) is None
