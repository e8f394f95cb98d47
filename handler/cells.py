"""The values that prometheus_client maps into memory, without what a worker has no need of."""

from typing import Any

from prometheus_client.values import MultiProcessValue


class Cell(MultiProcessValue()):  # type: ignore[misc]
    """Counted by one thread of a process that does not fork, so that there is no lock, and no look at the process's id.

    The number in the file is the only one. It is written in one piece: who reads it sees the old one or the new.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._numbers = memoryview(self._file._m).cast("d")
        self._place = self._file._positions[self._key] // self._numbers.itemsize

    def inc(self, amount: float) -> None:
        self._numbers[self._place] += amount

    def get(self) -> float:
        number: float = self._numbers[self._place]
        return number
