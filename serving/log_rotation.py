"""Rotate the request log; workers continue in a new file (handler/request_log.py)."""

from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 50 * 2**20  # about 170,000 requests
BACKUP_FILES = 5  # rotated files, besides the current one


class LogRotation:
    """Rotates a file that other processes write."""

    def __init__(self, path: Path, log: Callable[[str], None]) -> None:
        self.path, self.log = path, log
        self.problem = ""  # of the last attempt
        self.handler = RotatingFileHandler(path, backupCount=BACKUP_FILES, delay=True)  # delay: do not open it

    def rotate_if_due(self) -> None:
        """Rename the file to PATH.1, PATH.1 to PATH.2 and so on, if it is over MAX_BYTES; remove the last."""
        try:
            if self.path.is_file() and self.path.stat().st_size > MAX_BYTES:
                self.handler.doRollover()
        except OSError as error:
            if str(error) != self.problem:
                self.log(f"the request log is not rotated: {error}")
            self.problem = str(error)
