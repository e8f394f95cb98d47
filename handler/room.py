"""Room on the disk for what workers count. Light: the supervisor imports it too."""

import os
from pathlib import Path

FILES, FILE_BYTES = ("counter", "histogram"), 1 << 16  # of a process, as prometheus_client names and begins them


def take_room(folder: Path, process: int, size: int = FILE_BYTES) -> None:
    """Makes a process's files of counters and histograms in the folder, of so many bytes or more; OSError if full.

    prometheus_client would make them without: where the disk is full, the first value then ends the process (SIGBUS).
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind in FILES:
        with (folder / f"{kind}_{process}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, FILE_BYTES))
