"""benchmarks/sweep.py, handler_sweep.py and profile_served.py: what is made of what was measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.handler_sweep import BATCHES, VARIANTS
from benchmarks.handler_sweep import table as handler_table
from benchmarks.in_process import Limit
from benchmarks.profile_served import ELSEWHERE, JAVA, named, shares
from benchmarks.sweep import SHIPPED, Point, changes, pareto, plot, table
from benchmarks.training_speed import ORIGINAL, ratio
from benchmarks.training_speed import table as training_table
from serving.config import read_config
from tests.pictures import SMOKE

POINT = Point(SHIPPED, 4000, 15, 24, 1600, 2.5, 4, 80, 0.0, 3, 700)


def test_a_change_is_beside_the_mean_of_what_ships_around_it() -> None:
    change = replace(POINT, name="batch: 8", at_64=3000)
    rows = table([POINT, change, replace(POINT, at_64=2000)]).splitlines()
    assert "3,000 (1.00x)" in next(row for row in rows if "batch: 8" in row)
    assert "3,000 ± 33%" in next(row for row in rows if SHIPPED in row)


def test_pareto_keeps_what_nothing_beats_in_both() -> None:
    fast, quick = replace(POINT, name="fast", at_64=5000, alone_p50=3), replace(POINT, name="quick", alone_p50=1)
    beaten = replace(POINT, name="beaten", at_64=3900, alone_p50=1.5)
    assert [point.name for point in pareto([POINT, beaten, quick, fast])] == ["fast", "quick"]


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    plot([POINT, replace(POINT, name="delay: 0 ms", at_64=1500, alone_p50=1.6)], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_every_change_changes_something_and_has_a_name_of_its_own(tmp_path: Path) -> None:
    listed = changes(tmp_path)
    shipped = read_config().properties
    assert len({change.name for change in listed}) == len(listed)
    assert all(change.properties or change.model or change.environment for change in listed)
    assert all(shipped.get(key) != value for change in listed for key, value in change.properties.items())


@pytest.fixture(scope="module")
def limit() -> Iterator[Limit]:
    threads = torch.get_num_threads()
    yield Limit(2)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_the_handler_reads_the_same_digits(name: str, limit: Limit) -> None:
    with VARIANTS[name](limit):
        told = limit.answers([SMOKE[7], SMOKE[3]])
    assert [answer["digit"] for answer in told] == [7, 3]


def test_variants_are_beside_what_ships_turn_by_turn() -> None:
    rest = {size: [1.0, 1.0] for size in BATCHES}
    speeds = {SHIPPED: rest | {1: [100.0, 200.0]}, "slower": rest | {1: [50.0, 100.0]}}
    assert "75 (0.50x)" in handler_table(speeds)


def test_training_is_beside_the_originals_way_turn_by_turn() -> None:
    turns = [{ORIGINAL: (2e-4, 0.0), "default": (6e-5, 4e-5)}, {ORIGINAL: (4e-4, 0.0), "default": (9e-5, 1e-5)}]
    assert ratio("default", turns) == pytest.approx(3)
    cells = [cell.strip() for cell in training_table(turns).splitlines()[-1].strip("|").split("|")]
    assert cells == ["recipe `default`", "10,000", "3.00", "75", "25"]


def test_a_sample_is_what_the_first_name_that_is_part_of_it_says() -> None:
    handle = "handle_connection (ts/model_service_worker.py:1);handle (digit_handler.py:2)"
    raw = [f"{handle};examine_grey (handler/preprocessing.py:3) 3", f"{handle} 1", "other (x.py:1) 4"]
    waits = "handle_connection (ts/model_service_worker.py:1);retrieve_msg (ts/protocol/otf.py:1)"
    reads = f"{waits};_retrieve_inference_msg (ts/protocol/otf.py:2)"
    raw += [f"{stack};retrieve (digit_handler.py:5) {count}" for stack, count in ((waits, 90), (reads, 2))]
    told = shares(raw)
    assert (told["framing"], told["rows of the batch"], told[ELSEWHERE]) == (3 / 10, 1 / 10, 4 / 10)
    assert told["reading a message"] == 2 / 10
    assert named("C2 CompilerThre\n", JAVA) == "compilers"
