"""Signals that stop a server in a terminal, and Ctrl-C that reaches it and not `make`."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue


@dataclass
class ShutdownRequest:
    """What signals ask of a server: to stop, to stop without waiting for requests, to make new tokens."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    rotate: threading.Event = field(default_factory=threading.Event)


def handle_signals() -> ShutdownRequest:
    """Stop on SIGINT, SIGTERM and SIGHUP; hurry on a SIGINT after one of them; make new tokens on SIGUSR1.

    A handler interrupts the main thread, which may hold the lock of the very event that is to be set. So a handler
    only puts the signal into a queue that may be interrupted, and a thread sets the event.
    """
    request, received = ShutdownRequest(), SimpleQueue[int]()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # `nohup` has it ignored
            signal.signal(name, lambda number, _: received.put(number))
    threading.Thread(target=_set_events, args=[request, received], daemon=True).start()
    return request


def _set_events(request: ShutdownRequest, received: SimpleQueue[int]) -> None:
    while True:
        number = received.get()
        if number == signal.SIGUSR1:
            request.rotate.set()
            continue
        # A second SIGTERM is a second person who stops: it must not cost requests that are being answered.
        if number == signal.SIGINT and request.stop.is_set():
            request.hurry.set()
        request.stop.set()


@contextmanager
def take_terminal() -> Iterator[None]:
    """Take the terminal for the block, as a shell gives it to a job: Ctrl-C then reaches us and not `make`.

    `make` would report it as an error. Without a terminal, or in the background, nothing is done.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        before = os.tcgetpgrp(terminal)
    except OSError:
        yield
        return
    if before != os.getpgrp() or before == os.getpid():
        os.close(terminal)
        yield
        return
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # a suspended supervisor would leave its server alone
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        with suppress(OSError):  # whoever had the terminal before us is gone
            os.tcsetpgrp(terminal, before)
        os.close(terminal)
