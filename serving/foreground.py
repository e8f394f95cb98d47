"""What a server in a terminal owes to the person before it: signals that stop it, and Ctrl-C that is its own."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue


@dataclass
class Orders:
    """What has been asked of a server: to stop, to stop without waiting for requests, to change its tokens."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    rotate: threading.Event = field(default_factory=threading.Event)


def orders_by_signals() -> Orders:
    """SIGINT, SIGTERM and SIGHUP stop, in order; SIGINT after one of them stops at once. SIGUSR1 changes the tokens.

    A handler runs in the midst of what the main thread does, and that may hold the lock of the very event that is to be
    set, for good. So a handler only puts the signal into a queue that may be interrupted, and a thread obeys.
    """
    orders, come = Orders(), SimpleQueue[int]()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # `nohup` has it ignored
            signal.signal(name, lambda number, _: come.put(number))
    threading.Thread(target=_obey, args=[orders, come], daemon=True).start()
    return orders


def _obey(orders: Orders, come: SimpleQueue[int]) -> None:
    while True:
        number = come.get()
        if number == signal.SIGUSR1:
            orders.rotate.set()
            continue
        # A second SIGTERM is a second person who stops: it must not cost what is under way.
        if number == signal.SIGINT and orders.stop.is_set():
            orders.hurry.set()
        orders.stop.set()


@contextmanager
def own_terminal() -> Iterator[None]:
    """Takes the terminal for the block, as a shell gives it to a job: Ctrl-C then reaches us and not `make`.

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
