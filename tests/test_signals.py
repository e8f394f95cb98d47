"""serving/signals.py: which event a signal sets, whenever it arrives."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from serving.signals import handle_signals


@pytest.fixture(autouse=True)
def restore_handlers() -> Iterator[None]:
    """Restore the signal handlers after a test."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {name: signal.getsignal(name) for name in names}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under `nohup` ignore it
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def test_a_signal_requests_a_stop_with_a_drain() -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        request = handle_signals()
        signal.raise_signal(name)
        assert request.stop.wait(10)
        assert not request.skip_drain.is_set()
        assert not request.rotate_tokens.is_set()


@pytest.mark.parametrize(("second", "is_skipped"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_ctrl_c_after_a_stop_skips_the_drain_and_a_second_stop_does_not(
    second: signal.Signals, is_skipped: bool
) -> None:
    request = handle_signals()
    signal.raise_signal(signal.SIGTERM)
    assert request.stop.wait(10)
    signal.raise_signal(second)
    signal.raise_signal(signal.SIGUSR1)  # signals are handled in order
    assert request.rotate_tokens.wait(10)
    assert request.skip_drain.is_set() == is_skipped


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    request = handle_signals()
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGUSR1)
    assert request.rotate_tokens.wait(10)
    assert not request.stop.is_set()


STORM = """
import os, signal, time
parent = os.getppid()
while os.getppid() == parent:
    os.kill(parent, signal.SIGUSR1)
    time.sleep(0.00005)
"""


def test_a_signal_during_a_wait_for_its_event_causes_no_deadlock() -> None:
    """It may arrive while the main thread holds the lock of the event.

    Another process sends the signals: a thread would only run, and send, while the main thread does not hold the lock.
    """
    request = handle_signals()
    with subprocess.Popen([sys.executable, "-c", STORM]) as storm:
        for _ in range(5000):
            request.rotate_tokens.wait(0.00001)
            request.rotate_tokens.clear()
        storm.kill()
    signal.raise_signal(signal.SIGTERM)
    assert request.stop.wait(10)
