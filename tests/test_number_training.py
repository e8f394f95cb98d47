"""Tests of synthetic numbers, of the segment model's training and of the evaluation of numbers."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from evaluation.__main__ import make_parser as make_evaluation_parser
from evaluation.number_report import run_number_report
from evaluation.number_sets import count_touches, make_number_sets, make_other_sets
from handler.number_reader import NOT_A_DIGIT, SEGMENT_CLASSES, NumberCalibration
from tests.images import digits
from training import number_calibration
from training.__main__ import make_parser
from training.data import load_data
from training.number_segments import make_segments
from training.segment_model import run_segment_model
from training.synthetic_numbers import NARROW_GAPS, WIDE_GAPS, compose_number

IMAGES, LABELS = digits()


def test_number_is_the_union_of_its_digits_from_left_to_right() -> None:
    random = np.random.default_rng(0)
    for gaps in (WIDE_GAPS, NARROW_GAPS):
        number = compose_number(list(IMAGES[::1000]), gaps, random)
        assert np.array_equal(number.layers.max(0), number.image)
        centers = [layer.sum(0) @ np.arange(layer.shape[1]) / layer.sum() for layer in number.layers]
        assert sorted(centers) == centers
        assert (count_touches(number) == 0) == (gaps == WIDE_GAPS)


def test_segments_are_digits_pairs_and_a_majority_of_others() -> None:
    data = load_data("mnist5k")
    frames, classes = make_segments(data.train.frames, data.train.labels, 1, 0, 1)
    assert frames.shape == (len(classes), 64, 64)
    counts = Counter(classes.tolist())
    assert counts.keys() >= set(range(NOT_A_DIGIT + 1))
    assert NOT_A_DIGIT < max(counts) < SEGMENT_CLASSES
    assert counts[NOT_A_DIGIT] > counts.total() / 2


def test_number_sets_have_their_lengths_and_touches() -> None:
    sets = {part.name: part for part in make_number_sets(IMAGES[::50], LABELS[::50], 1, 3)}
    assert {len(label) for label in sets["separate"].labels} == {5}
    assert set(sets["touching pair"].touches) == {1}
    assert set(sets["one or two touches"].touches) <= {1, 2}
    assert sets["single digit"].labels == [str(label) for label in LABELS[::50]]
    assert all(len(part.images) == len(part.labels) == len(part.touches) for part in sets.values())
    others = list(make_other_sets(IMAGES[::50], 1, 2))
    assert [part.name for part in others] == ["word", "two lines", "grid", "scribble", "sum"]
    assert {label for part in others for label in part.labels} == {""}


@pytest.mark.slow
def test_segment_model_is_trained_and_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(number_calibration, "NUMBERS", 20)
    options = ["segment-model", "--data", "mnist5k", "--numbers", "250", "--epochs", "1", "--out", str(tmp_path)]
    assert run_segment_model(make_parser().parse_args(options)) == 0
    record = json.loads((tmp_path / "segment_model.json").read_text())
    assert (record["numbers"], record["epochs"], record["data"]["name"]) == (250, 1, "mnist5k")
    calibration = NumberCalibration(**record["calibration"])
    assert 0 <= calibration.touch_threshold <= 1
    assert (tmp_path / "segment_model.pt").exists()


@pytest.mark.slow
def test_report_of_numbers_has_every_set(tmp_path: Path) -> None:
    options = ["numbers", "--data", "mnist5k", "--part", "validation", "--numbers", "4", "--out", str(tmp_path)]
    assert run_number_report(make_evaluation_parser().parse_args(options)) == 0
    page = (tmp_path / "numbers_report.md").read_text()
    for name in ("separate", "photographed", "in a row of boxes", "touching pair", "single digit", "word", "grid"):
        assert f"| {name} |" in page
    assert (tmp_path / "numbers" / "mistakes.png").exists()
