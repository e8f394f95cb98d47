"""Write files atomically; optionally reserve the disk space first."""

import os
from pathlib import Path
from typing import Self


class ReservedFile:
    """Reserves disk space for new content of a file before that content exists.

    Raises OSError if `path` cannot be replaced by `size` bytes with these permissions. Without `commit` or `replace`
    in its block, the file stays unchanged.
    """

    def __init__(self, path: Path, size: int, mode: int = 0o644) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.temporary = path, path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.temporary.unlink(missing_ok=True)
        self.file = os.fdopen(os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "r+b")
        try:
            self.write(bytes(size))
        except BaseException:  # also KeyboardInterrupt
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.file.close()  # flushes, and may raise OSError
        finally:
            self.temporary.unlink(missing_ok=True)

    def commit(self, content: bytes) -> None:
        """Replace the file by `content`; sync it to disk."""
        self.write(content)
        self.replace()

    def replace(self) -> None:
        """Replace the file by the written content."""
        self.temporary.replace(self.path)

    def write(self, content: bytes) -> None:
        """Write `content` to the temporary file; sync it to disk."""
        self.file.seek(0)
        self.file.write(content)
        self.file.truncate()
        self.file.flush()
        os.fsync(self.file.fileno())


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` with these permissions, through a temporary file and a rename.

    Creates the folder if it is missing. Syncs the content to disk.
    """
    with ReservedFile(path, 0, mode) as file:
        file.commit(content)
