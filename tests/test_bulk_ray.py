"""`python -m bulk score` on Ray, whose processes are killed meanwhile: no row is missing, none is there twice."""

import json
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.bulk_runs import list_workers, read_rows, score, start_score, write_shards
from tests.servers import wait_for

ray = pytest.importorskip("ray", reason="Ray is not installed; `make test-interop` installs it")

pytestmark = [pytest.mark.interop, pytest.mark.serial, pytest.mark.timeout(300)]

SHARDS, ROWS = 40, 500


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("bulk") / "in", SHARDS, ROWS)


@pytest.fixture(scope="module")
def expected(images: Path) -> list[dict[str, Any]]:
    """Return the rows of an undisturbed run."""
    run = score(images, images.parent / "out")
    assert run.returncode == 0, run.stderr
    rows = read_rows(images.parent / "out")
    assert [row["id"] for row in rows] == list(range(SHARDS * ROWS))
    assert "not an image" in rows[1]["error"]
    assert [row["error"] for row in rows if row["id"] % ROWS != 1] == [None] * SHARDS * (ROWS - 1)
    return rows


def list_listeners(process: psutil.Process) -> set[str]:
    """Return the addresses to which a process and its children listen."""
    addresses = set()
    for child in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            addresses |= {one.laddr.ip for one in child.net_connections() if one.status == psutil.CONN_LISTEN}
    return addresses


def test_own_ray_listens_to_loopback_alone_and_ends_with_the_command(images: Path, tmp_path: Path) -> None:
    with start_score(images, tmp_path / "out") as process:
        children = process.children(recursive=True)
        addresses = list_listeners(process)
        assert process.wait(120) == 0
    assert len(children) > 4
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    wait_for(lambda: not any(child.is_running() for child in children), 10)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_stopped_run_is_resumed(
    sent: signal.Signals, images: Path, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    with start_score(images, tmp_path / "out") as process:
        process.send_signal(sent)
        code = process.wait(30)
        if sent is signal.SIGINT:
            assert code == 130
            assert "stopped; the same command continues after the finished files" in process.stderr.read()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert 2 <= len(done) < SHARDS
    run = score(images, tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert read_rows(tmp_path / "out") == expected
    summaries = [(folder / "out" / "_summary.json").read_text() for folder in (tmp_path, images.parent)]
    assert json.loads(summaries[0]) == json.loads(summaries[1])


def test_killed_workers_tasks_are_repeated(images: Path, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    with start_score(images, tmp_path / "out") as process:
        for _ in range(3):
            wait_for(lambda: bool(list_workers(process)))
            list_workers(process)[0].kill()
            time.sleep(0.5)
        assert process.wait(120) == 0, process.stderr.read()
    assert read_rows(tmp_path / "out") == expected


def test_failed_file_is_named_and_the_others_are_predicted(images: Path, tmp_path: Path) -> None:
    some = tmp_path / "in"
    some.mkdir()
    for index in range(3):
        shutil.copy(images / f"part-00{index}.parquet", some)
    content = bytearray((some / "part-001.parquet").read_bytes())
    content[100:-5000] = bytes(len(content) - 5100)  # the metadata at the end is intact
    (some / "part-001.parquet").write_bytes(content)
    run = score(some, tmp_path / "out")
    assert run.returncode == 1
    assert "error: part-001.parquet: " in run.stderr
    assert "Traceback" not in run.stderr
    assert len(read_rows(tmp_path / "out")) == 2 * ROWS
    assert [path.name for path in (tmp_path / "out").glob("*.tmp")] == []
