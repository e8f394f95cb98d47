"""Renames the workers' log of requests when it has grown; they go on in a new one (handler/request_log.py)."""

from logging.handlers import RotatingFileHandler
from pathlib import Path

BYTES = 50 * 2**20  # some 170,000 requests
KEPT = 5  # files beside the one that is written


class Rotation:
    """Of a file that others write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handler = RotatingFileHandler(path, backupCount=KEPT, delay=True)  # delay: it opens none itself

    def look(self) -> None:
        """Renames the file to PATH.1, that one to PATH.2 and so on, if it is over BYTES; the last is dropped."""
        if self.path.is_file() and self.path.stat().st_size > BYTES:
            self.handler.doRollover()
