"""Files that are written whole or not at all."""

import os
from errno import ENOENT
from pathlib import Path


def write_atomic(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write `content` to `path` with these permissions, through a temporary file and a rename.

    Creates the folder if it is missing. The content is on the disk when this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_output(path: Path, content: bytes) -> None:
    """Write to a path that a person named: a file whole, also behind a link; a device or a pipe directly."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    elif not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "no such folder", str(path.parent))
    else:
        write_atomic(path.resolve(), content)
