"""What a server's processes use: CPU seconds, and memory as summed PSS, which counts shared pages once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

SAMPLE_SECONDS = 5.0  # reading PSS takes 10 to 20 ms, which once a second would be one request in a hundred's


@dataclass
class Usage:
    """Of a process with all its descendants, while it was watched."""

    cpu_seconds: float = 0.0
    pss_bytes: list[int] = field(default_factory=list)  # a sample every SAMPLE_SECONDS


@contextmanager
def watched(root: int) -> Iterator[Usage]:
    """Fills the usage in while the block runs; the CPU seconds at its end."""
    usage, ended = Usage(), threading.Event()

    def sample() -> None:
        while True:
            usage.pss_bytes.append(pss_bytes(root))
            if ended.wait(SAMPLE_SECONDS):
                return

    sampling = threading.Thread(target=sample)
    before = cpu_seconds(root)
    sampling.start()
    try:
        yield usage
    finally:
        usage.cpu_seconds = cpu_seconds(root) - before
        ended.set()
        sampling.join()
        usage.pss_bytes.append(pss_bytes(root))


def cpu_seconds(root: int) -> float:
    """User and system time of the process and its descendants that live."""
    total = 0.0
    for process in family(root):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def pss_bytes(root: int) -> int:
    """Memory of the process and its descendants, what they share counted once."""
    total = 0
    for process in family(root):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def family(root: int) -> list[psutil.Process]:
    """The process and its descendants; empty if it has ended."""
    try:
        process = psutil.Process(root)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
