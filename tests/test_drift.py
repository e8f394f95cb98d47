"""serving/drift.py: the index by hand, windows that slide, traffic like what the model was measured on, and other."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import Metric

from evaluation.changed import CHANGES
from evaluation.outliers import texture
from evaluation.photo import photo
from evaluation.sets import png
from handler.digit_handler import DigitHandler
from handler.metrics import Metrics
from serving.config import ROOT
from serving.drift import FEATURES, FLOOR, PICTURES, Counts, Window, counts, psi
from tests.conftest import context_of
from training.data import raw_pictures

REFERENCE = json.loads((ROOT / "model" / "model.json").read_text())["reference"]


def test_the_index_is_the_formulas() -> None:
    assert psi({"a": 30, "b": 70}, {"a": 0.5, "b": 0.5}) == pytest.approx(-0.2 * math.log(0.6) + 0.2 * math.log(1.4))
    assert psi({"a": 5, "b": 5}, {"a": 0.5, "b": 0.5}) == 0
    assert psi({"a": 0, "b": 1}, {"a": 0.0, "b": 1.0}) == 0
    assert psi({"a": 1, "b": 0}, {"a": 0.0, "b": 1.0}) == pytest.approx(2 * (1 - FLOOR) * math.log(1 / FLOOR))


def counted(pictures: int, inverted: int = 0) -> Counts:
    bins = {feature: {"1.0": float(pictures), "+Inf": 0.0} for feature in FEATURES}
    return bins | {
        "polarity": {"inverted": float(inverted), "as_mnist": float(pictures - inverted)},
        "digit": {"7": float(pictures)},
    }


def test_a_window_is_the_last_pictures_and_no_more_than_a_look_beyond() -> None:
    window = Window()
    assert window.pictures() == 0
    for pictures in range(0, 5000, 200):
        window.add(counted(pictures))
        window.add(counted(pictures))  # nothing new
    assert window.pictures() == 600
    window.add(counted(9000))
    assert window.pictures() == 9000 - 4800
    assert len(window.looks) == 2


def test_nothing_is_said_of_few_pictures() -> None:
    window = Window()
    window.add(counted(1000))
    window.add(counted(1000 + PICTURES - 1))
    reference = {feature: {"1.0": 1.0, "+Inf": 0.0} for feature in FEATURES}
    assert window.drift(reference) == {}
    window.add(counted(1000 + PICTURES, inverted=1))
    told = window.drift(reference | {"polarity": {"inverted": 0.0, "as_mnist": 1.0}})
    assert told.pop("polarity") == pytest.approx(0, abs=0.02)
    assert "digit" not in told  # its bins are not the reference's
    assert set(told.values()) == {0.0}


def test_the_released_reference_has_the_bins_that_workers_count_in(handler: DigitHandler) -> None:
    assert REFERENCE["pictures"] == 5001
    live = seen(handler, [])
    assert {feature: bins.keys() for feature, bins in REFERENCE["shares"].items()} == {
        feature: bins.keys() for feature, bins in live.items()
    }
    assert all(sum(bins.values()) == pytest.approx(1) for bins in REFERENCE["shares"].values())


def seen(handler: DigitHandler, pictures: list[bytes], model_dir: Path | None = None) -> Counts:
    """What the handler counts of the pictures."""
    before, handler.metrics = handler.metrics, Metrics("2.5")
    try:
        for start in range(0, len(pictures), 16):
            rows = [{"body": picture} for picture in pictures[start : start + 16]]
            assert model_dir is not None
            handler.handle(rows, context_of(model_dir, len(rows)))
        families: list[Metric] = list(handler.metrics.registry.collect())
    finally:
        handler.metrics = before
    return counts(families)["2.5"]


def drift(handler: DigitHandler, model_dir: Path, pictures: list[bytes]) -> dict[str, float]:
    window = Window()
    window.add(seen(handler, []))
    window.add(seen(handler, pictures, model_dir))
    return window.drift(REFERENCE["shares"])


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    """Of mnist5k; the validation split's own would be no proof."""
    greys, _ = raw_pictures("mnist5k")
    return greys[np.random.default_rng(7).permutation(len(greys))[:PICTURES]]


def test_digits_like_those_it_was_measured_on_do_not_drift(
    handler: DigitHandler, model_dir: Path, digits: NDArray[np.uint8]
) -> None:
    told = drift(handler, model_dir, [png(grey) for grey in digits])
    assert told.keys() == set(FEATURES)
    assert max(told.values()) < 0.1


@pytest.mark.parametrize("change", ["inverted", "blurred"])
def test_changed_digits_drift(change: str, handler: DigitHandler, model_dir: Path, digits: NDArray[np.uint8]) -> None:
    changed = CHANGES[change](digits, np.random.default_rng(0))
    assert max(drift(handler, model_dir, [png(grey) for grey in changed]).values()) > 0.25


def test_photos_and_what_is_no_digit_drift(handler: DigitHandler, model_dir: Path, digits: NDArray[np.uint8]) -> None:
    random = np.random.default_rng(0)
    photos = [photo(grey, random) for grey in digits]
    assert max(drift(handler, model_dir, photos).values()) > 0.25
    others = [png(grey) for grey in texture(random, 2 * PICTURES)]  # of which some are refused as blank
    assert max(drift(handler, model_dir, others).values()) > 0.25
