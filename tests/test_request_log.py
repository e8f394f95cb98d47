"""Tests of handler/request_log.py and serving/log_rotation.py: levels, rotation and a full disk."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from handler.records import Request
from handler.request_log import RequestLog
from serving.log_rotation import BACKUP_FILES, LogRotation

STATUSES = (200, 404, 503)


def make_requests(*statuses: int) -> list[Request]:
    return [Request("describe", [], status=status, request_id=str(number)) for number, status in enumerate(statuses)]


def read_statuses(path: Path) -> list[int]:
    return [json.loads(line)["status"] for line in path.read_text().splitlines()]


def write_log(path: Path, level: str, batches: list[list[Request]]) -> None:
    log = RequestLog(str(path), level)
    for batch in batches:
        log.write(batch, 0.1, "1.0")


@pytest.mark.parametrize(("level", "expected"), [("info", [200, 404, 503]), ("warning", [404, 503]), ("error", [503])])
def test_level_leaves_out_lower_ones_and_off_writes_no_file(level: str, expected: list[int], tmp_path: Path) -> None:
    write_log(tmp_path / "log", level, [make_requests(*STATUSES)])
    assert read_statuses(tmp_path / "log") == expected
    write_log(tmp_path / "off", "off", [make_requests(*STATUSES)])
    assert not (tmp_path / "off").exists()


def test_batches_of_several_workers_do_not_mix(tmp_path: Path) -> None:
    """The batches are written concurrently and are longer than a page of memory."""
    path = tmp_path / "log"
    log, batch = RequestLog(str(path), "info"), make_requests(*[200] * 64)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: log.write(batch, 0.1, str(number)), range(200)))
    versions = [json.loads(line)["version"] for line in path.read_text().splitlines()]
    assert len(versions) == 64 * 200
    assert [first for first, _ in groupby(versions)] == versions[::64]


def test_grown_file_is_rotated_and_writers_open_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.log_rotation.MAX_BYTES", 1000)
    path = tmp_path / "requests.log"
    rotation, logs = LogRotation(path, pytest.fail), [RequestLog(str(path), "info") for _ in range(2)]
    rotation.rotate_if_due()  # nothing yet
    for number in range(200, 240):
        logs[number % 2].write(make_requests(number, number, number), 0.1, "1.0")
        rotation.rotate_if_due()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["requests.log", *(f"requests.log.{n}" for n in range(1, BACKUP_FILES + 1))]
    logged = [status for file in files[::-1] if file != path for status in read_statuses(file)] + read_statuses(path)
    assert logged == sorted(logged)  # none out of order, and none lost but with the oldest files
    assert logged[-1] == 239
    assert len(logged) == 3 * len(set(logged))


def test_full_disk_costs_only_the_lines(capfd: pytest.CaptureFixture[str]) -> None:
    log = RequestLog("/dev/full", "info")
    for _ in range(100):
        log.write(make_requests(200), 0.1, "1.0")
    assert capfd.readouterr().err == ""
