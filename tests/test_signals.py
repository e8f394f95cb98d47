"""serving/signals.py: what each signal asks for, at whatever moment it comes."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.signals import handle_signals


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The handlers of before come back."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {name: signal.getsignal(name) for name in names}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under `nohup` ignore it
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def test_a_signal_stops_in_order() -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        request = handle_signals()
        signal.raise_signal(name)
        assert request.stop.wait(10)
        assert not request.hurry.is_set()
        assert not request.rotate.is_set()


@pytest.mark.parametrize(("second", "hurries"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_ctrl_c_after_a_stop_hurries_and_a_second_stop_does_not(second: signal.Signals, hurries: bool) -> None:
    request = handle_signals()
    signal.raise_signal(signal.SIGTERM)
    assert request.stop.wait(10)
    signal.raise_signal(second)
    signal.raise_signal(signal.SIGUSR1)  # signals are handled in order
    assert request.rotate.wait(10)
    assert request.hurry.is_set() == hurries


def test_a_hangup_that_nohup_has_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request = handle_signals()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGUSR1)
    assert request.rotate.wait(10)
    assert not request.stop.is_set()


STORM = """
import os, signal, time
parent = os.getppid()
while os.getppid() == parent:
    os.kill(parent, signal.SIGUSR1)
    time.sleep(0.00005)
"""


def test_a_signal_during_a_wait_for_it_hangs_nobody() -> None:
    """It may come while the main thread holds the lock of the event that stands for it.

    The storm comes from a process: a thread of ours would only run, and send, while the main thread waits in peace.
    """
    request = handle_signals()
    with subprocess.Popen([sys.executable, "-c", STORM]) as storm:
        for _ in range(5000):
            request.rotate.wait(0.00001)
            request.rotate.clear()
        storm.kill()
    signal.raise_signal(signal.SIGTERM)
    assert request.stop.wait(10)
