"""Files that are written whole or not at all."""

import os
from pathlib import Path
from typing import Self


class ReservedFile:
    """Room on the disk for the next content of a file, taken before that content exists.

    Raises OSError if `path` could not be replaced by `size` bytes with these permissions now. Leave the block without
    `commit`, and the file stays what it was.
    """

    def __init__(self, path: Path, size: int, mode: int = 0o644) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.temporary.unlink(missing_ok=True)
        self.file = os.fdopen(os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "r+b")
        try:
            self.write(bytes(size))
        except BaseException:  # Ctrl-C as well
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()  # writes what is left, if the disk has room by now
        finally:
            self.temporary.unlink(missing_ok=True)

    def commit(self, content: bytes) -> None:
        """Replace the file by `content`, which is on the disk when this returns."""
        self.write(content)
        self.replace()

    def replace(self) -> None:
        """Replace the file by what was written."""
        self.temporary.replace(self.path)

    def write(self, content: bytes) -> None:
        """Write `content` beside the file; it is on the disk when this returns."""
        self.file.seek(0)
        self.file.write(content)
        self.file.truncate()
        self.file.flush()
        os.fsync(self.file.fileno())


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` with these permissions, through a temporary file and a rename.

    Creates the folder if it is missing. The content is on the disk when this returns.
    """
    with ReservedFile(path, 0, mode) as file:
        file.commit(content)
