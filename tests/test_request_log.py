"""handler/request_log.py and serving/log_rotation.py: levels, a file that is renamed, a disk that is full."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

import pytest

from handler.records import Request
from handler.request_log import RequestLog
from serving.log_rotation import BACKUP_FILES, LogRotation

STATUSES = (200, 404, 503)


def served(*statuses: int) -> list[Request]:
    return [Request("description", [], status=status, request_id=str(number)) for number, status in enumerate(statuses)]


def statuses(path: Path) -> list[int]:
    return [json.loads(line)["status"] for line in path.read_text().splitlines()]


def written(path: Path, level: str, batches: list[list[Request]]) -> None:
    log = RequestLog(str(path), level)
    for batch in batches:
        log.write(batch, 0.1, "1.0")


@pytest.mark.parametrize(("level", "expected"), [("info", [200, 404, 503]), ("warning", [404, 503]), ("error", [503])])
def test_a_level_leaves_out_what_is_below_it_and_off_makes_no_file(
    level: str, expected: list[int], tmp_path: Path
) -> None:
    written(tmp_path / "log", level, [served(*STATUSES)])
    assert statuses(tmp_path / "log") == expected
    written(tmp_path / "off", "off", [served(*STATUSES)])
    assert not (tmp_path / "off").exists()


def test_batches_of_several_workers_stay_in_one_piece(tmp_path: Path) -> None:
    """At once, each of more bytes than the system passes on in one page."""
    path = tmp_path / "log"
    log, batch = RequestLog(str(path), "info"), served(*[200] * 64)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: log.write(batch, 0.1, str(number)), range(200)))
    versions = [json.loads(line)["version"] for line in path.read_text().splitlines()]
    assert len(versions) == 64 * 200
    assert [first for first, _ in groupby(versions)] == versions[::64]


def test_a_file_that_has_grown_is_renamed_and_its_writers_begin_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.log_rotation.MAX_BYTES", 1000)
    path = tmp_path / "requests.log"
    rotation, logs = LogRotation(path, pytest.fail), [RequestLog(str(path), "info") for _ in range(2)]
    rotation.rotate_if_due()  # nothing yet
    for number in range(200, 240):
        logs[number % 2].write(served(number, number, number), 0.1, "1.0")
        rotation.rotate_if_due()
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == [
        "requests.log",
        *(f"requests.log.{each}" for each in range(1, BACKUP_FILES + 1)),
    ]
    told = [status for each in files[::-1] if each != path for status in statuses(each)] + statuses(path)
    assert told == sorted(told)  # none out of order, and none lost but with the oldest files
    assert told[-1] == 239
    assert len(told) == 3 * len(set(told))


def test_a_line_that_cannot_be_written_costs_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    log = RequestLog("/dev/full", "info")
    for _ in range(100):
        log.write(served(200), 0.1, "1.0")
    assert capfd.readouterr().err == ""
