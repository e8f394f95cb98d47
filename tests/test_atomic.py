"""common/atomic.py: nothing is left of a file that cannot be written."""

import resource
from pathlib import Path

import pytest

from common.atomic import write_atomic


def test_file_too_large_for_the_disk_leaves_nothing(tmp_path: Path) -> None:
    """The first bytes fit; the buffered rest does not, neither when it is flushed nor when the file is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(tmp_path / "state", bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
