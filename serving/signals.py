"""Signals that stop a server, or have it make new tokens."""

import signal
import threading
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
