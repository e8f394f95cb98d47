"""Files that are written whole or not at all."""

import os
from errno import ENOENT
from pathlib import Path


def write_named(path: Path, content: bytes) -> None:
    """Writes what a person named: a file whole, behind a link too; to a device or a pipe as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
    elif not path.parent.is_dir():
        raise FileNotFoundError(ENOENT, "no such folder", str(path.parent))
    else:
        write_whole(path.resolve(), content)


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Gives `path` this content and these permissions, by a temporary file on the disk and a rename."""
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
