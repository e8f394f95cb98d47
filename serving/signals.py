"""Signals that stop the server or rotate its tokens."""

import signal
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue


@dataclass
class ShutdownRequest:
    """Events that signals set: stop, skip the drain, rotate the tokens."""

    stop: threading.Event = field(default_factory=threading.Event)
    skip_drain: threading.Event = field(default_factory=threading.Event)
    rotate_tokens: threading.Event = field(default_factory=threading.Event)


def handle_signals() -> ShutdownRequest:
    """Stop on SIGINT, SIGTERM and SIGHUP; skip the drain on a later SIGINT; rotate the tokens on SIGUSR1."""
    # A thread sets the events, as a handler may interrupt the main thread while that holds an event's lock.
    request, received = ShutdownRequest(), SimpleQueue[int]()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # `nohup` ignores it
            signal.signal(name, lambda number, _: received.put(number))
    threading.Thread(target=_set_events, args=[request, received], daemon=True).start()
    return request


def _set_events(request: ShutdownRequest, received: SimpleQueue[int]) -> None:
    while True:
        number = received.get()
        if number == signal.SIGUSR1:
            request.rotate_tokens.set()
            continue
        # A second SIGTERM may come from another program: it must not cost requests in progress.
        if number == signal.SIGINT and request.stop.is_set():
            request.skip_drain.set()
        request.stop.set()
