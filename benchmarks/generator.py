"""python benchmarks/generator.py PORT LIST --seconds 10 --connections 64 [--rate 1000]: a load for 127.0.0.1:PORT.

Sends the requests that LIST names, one file of raw HTTP/1.1 a line, again and again, and prints a line of JSON. Without
a rate each connection asks again once it is answered (closed loop). With one, requests fall due at random moments, so
many a second, whether the server keeps up or not (open loop): what falls due while all connections are busy waits, and
its latency counts from when it was due, so that a server that stalls does not hide it (no coordinated omission).

Started by its path, not as a module: it needs nothing but Python, and its CPU is to be its own.
"""

import argparse
import json
import random
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

HOST: Final = "127.0.0.1"
SEED: Final = 6  # of the moments at which requests fall due
TIMEOUT: Final = 10.0  # s until an answer is given up
LOOK: Final = 0.1  # s between looks at what is late or unconnected
RECEIVED: Final = 65536  # bytes at once
SHARES: Final = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}


class Connection:
    """One kept connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.due: float | None = None  # when the request under way fell due
        self.sent = 0.0  # when it was begun to be sent
        self.unsent = memoryview(b"")
        self.received = b""

    def begin(self, request: bytes, due: float) -> None:
        self.due, self.sent, self.unsent = due, time.monotonic(), memoryview(request)
        self.send()

    def send(self) -> None:
        """As much as goes at once; OSError if the connection is broken."""
        with suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]

    def receive(self) -> int | None:
        """The status if the answer is there to its end; OSError if the connection is broken or closed."""
        data = self.socket.recv(RECEIVED)
        if not data:
            raise ConnectionResetError
        self.received += data
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return None
        self.received = b""
        return int(head[9:12])


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


class Load:
    """A load of `seconds`; `rate` requests a second (open loop) or, if it is None, as many as are answered."""

    def __init__(
        self, port: int, requests: Sequence[bytes], connections: int, seconds: float, rate: float | None
    ) -> None:
        self.port, self.requests, self.rate, self.turn = port, requests, rate, 0
        self.random = random.Random(SEED)
        self.selector = selectors.DefaultSelector()  # wakes by the millisecond; what that sends late counts as late
        self.missing = connections  # to be made
        self.idle: deque[Connection] = deque()
        self.waiting: deque[float] = deque()  # when each request that waits for a connection fell due
        self.latencies: list[float] = []  # s
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter(connect=0, read=0, write=0, timeout=0)
        self._connect()
        self.started = time.monotonic()
        self.end = self.started + seconds
        self.next_due = self.started if rate is not None else self.end
        if rate is None:
            self.waiting.extend([self.started] * connections)

    def run(self) -> dict[str, Any]:
        """What was measured, as it is printed."""
        overtime = TIMEOUT if self.rate is not None else 0.0  # for the last answers to what fell due
        look_at = 0.0
        while (now := time.monotonic()) < self.end or (self._under_way() and now < self.end + overtime):
            self._let_fall_due(now)
            self._begin()
            wake = min(self.next_due if self.next_due < self.end else self.end, now + LOOK)
            for key, mask in self.selector.select(max(wake - time.monotonic(), 0.0 if now < self.end else LOOK)):
                self._go_on(key.data, mask)
            if now > look_at:
                self._give_up(now)
                self._connect()
                look_at = now + LOOK
        if self.rate is not None:
            self.errors["timeout"] += self._under_way()
        return self._measured((now if self.rate is not None else self.end) - self.started)

    def _let_fall_due(self, now: float) -> None:
        while self.rate is not None and self.next_due <= now and self.next_due < self.end:
            self.waiting.append(self.next_due)
            self.next_due += self.random.expovariate(self.rate)

    def _begin(self) -> None:
        """Sends what waits, on connections that are idle."""
        while self.waiting and self.idle:
            connection = self.idle.popleft()
            request = self.requests[self.turn]
            self.turn = (self.turn + 1) % len(self.requests)
            try:
                connection.begin(request, self.waiting.popleft())
            except OSError:
                self._lose(connection, "write")
                continue
            if connection.unsent:
                self.selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _go_on(self, connection: Connection, mask: int) -> None:
        """Sends or receives what can be at once."""
        try:
            if mask & selectors.EVENT_WRITE:
                connection.send()
                if not connection.unsent:
                    self.selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if mask & selectors.EVENT_READ and (status := connection.receive()) is not None:
                self._answered(connection, status)
        except OSError:
            self._lose(connection, "read")

    def _answered(self, connection: Connection, status: int) -> None:
        if connection.due is None:
            raise ConnectionError("an answer to no request")
        now = time.monotonic()
        self.latencies.append(now - connection.due)
        self.statuses[status] += 1
        connection.due = None
        self.idle.append(connection)
        if self.rate is None:
            self.waiting.append(now)

    def _lose(self, connection: Connection, error: str) -> None:
        """Ends a connection, to be made anew; counts its request if one was under way."""
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.missing += 1
        if connection.due is None:
            self.idle.remove(connection)
            return
        self.errors[error] += 1
        if self.rate is None:
            self.waiting.append(time.monotonic())

    def _give_up(self, now: float) -> None:
        for key in list(self.selector.get_map().values()):
            if key.data.due is not None and now - key.data.sent > TIMEOUT:
                self._lose(key.data, "timeout")

    def _connect(self) -> None:
        """Makes the connections that are missing; those that are refused, later."""
        while self.missing:
            try:
                connection = Connection(self.port)
            except OSError:
                self.errors["connect"] += 1
                return
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
            self.idle.append(connection)
            self.missing -= 1

    def _under_way(self) -> int:
        """Requests that fell due and are not answered."""
        return len(self.waiting) + sum(key.data.due is not None for key in self.selector.get_map().values())

    def _measured(self, seconds: float) -> dict[str, Any]:
        ordered = sorted(self.latencies) or [0.0]
        values = {name: ordered[min(int(share * len(ordered)), len(ordered) - 1)] for name, share in SHARES.items()}
        measured: dict[str, Any] = {"seconds": seconds} | {name: 1e3 * value for name, value in values.items()}
        return measured | {"statuses": dict(self.statuses), "errors": dict(self.errors)}


def read_requests(listed: Path) -> list[bytes]:
    """The files that the list names, in its order."""
    paths = listed.read_text().splitlines()
    files = {path: Path(path).read_bytes() for path in set(paths)}
    return [files[path] for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser("python benchmarks/generator.py", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("list", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=float, help="requests a second; an open loop")
    given = parser.parse_args()
    load = Load(given.port, read_requests(given.list), given.connections, given.seconds, given.rate)
    print(json.dumps(load.run()))


if __name__ == "__main__":
    main()
