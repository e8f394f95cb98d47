"""What a server in a terminal owes to the person before it: signals that stop it, and Ctrl-C that is its own."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Orders:
    """What has been asked of a server: to stop, to stop without waiting for requests, to change its tokens."""

    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    rotate: threading.Event = field(default_factory=threading.Event)


def orders_by_signals() -> Orders:
    """SIGINT, SIGTERM and SIGHUP stop, in order; SIGINT after one of them stops at once. SIGUSR1 changes the tokens."""
    orders = Orders()

    def stop(number: int, _: object) -> None:
        # A second SIGTERM is a second person who stops: it must not cost what is under way.
        if number == signal.SIGINT and orders.stop.is_set():
            orders.hurry.set()
        orders.stop.set()

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # `nohup` has it ignored
            signal.signal(name, stop)
    signal.signal(signal.SIGUSR1, lambda *_: orders.rotate.set())
    return orders


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
