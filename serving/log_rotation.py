"""Rotates the workers' log of requests; they go on in a new file (handler/request_log.py)."""

from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 50 * 2**20  # some 170,000 requests
BACKUP_FILES = 5  # files beside the one that is written


class LogRotation:
    """Rotates a file that others write."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self.path, self.log = path, log
        self.problem = ""  # of the last try
        self.handler = RotatingFileHandler(path, backupCount=BACKUP_FILES, delay=True)  # delay: it opens none itself

    def rotate_if_due(self) -> None:
        """Rename the file to PATH.1, that one to PATH.2 and so on, if it is over BYTES; the last is dropped."""
        try:
            if self.path.is_file() and self.path.stat().st_size > MAX_BYTES:
                self.handler.doRollover()
        except OSError as error:
            if str(error) != self.problem:
                self.log(f"the log of requests is not renamed: {error}")
            self.problem = str(error)
