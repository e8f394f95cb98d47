"""common/atomic.py: what is left where a file cannot be written."""

import resource
from pathlib import Path

import pytest

from common.atomic import write_atomic


def test_a_file_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    """The first bytes fit; what Python holds back does not, neither then nor when the file is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomic(tmp_path / "state", bytes(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
