"""Handle Ctrl-C in a loop that prints rows: the loop ends between two rows."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_ctrl_c() -> Iterator[threading.Event]:
    """Set an event on the first Ctrl-C; a second one may interrupt a thread pool that holds a lock and so hang it."""
    stopped, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    if before is signal.default_int_handler:  # background jobs ignore SIGINT
        signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
