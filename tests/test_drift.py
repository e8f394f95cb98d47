"""handler/drift.py: the index by hand, windows that slide, traffic like what the model was measured on, and other."""

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.corruptions import CORRUPTIONS
from evaluation.handler_runner import HandlerRunner, start_handler
from evaluation.outlier_sets import make_textures
from evaluation.sets import encode_png
from evaluation.synthetic_photos import make_photo
from handler.drift import FEATURES, FLOOR, WINDOW, Counts, DriftWindow, compute_psi, count_features
from handler.metrics import Metrics
from serving.config import ROOT
from training.data import load_raw_images

REFERENCE = json.loads((ROOT / "model" / "model.json").read_text())["reference"]


def test_the_index_is_the_formulas() -> None:
    assert compute_psi({"a": 30, "b": 70}, {"a": 0.5, "b": 0.5}) == pytest.approx(
        -0.2 * math.log(0.6) + 0.2 * math.log(1.4)
    )
    assert compute_psi({"a": 5, "b": 5}, {"a": 0.5, "b": 0.5}) == 0
    assert compute_psi({"a": 0, "b": 1}, {"a": 0.0, "b": 1.0}) == 0
    assert compute_psi({"a": 1, "b": 0}, {"a": 0.0, "b": 1.0}) == pytest.approx(2 * (1 - FLOOR) * math.log(1 / FLOOR))


def counted(pictures: int, inverted: int = 0) -> Counts:
    bins = {feature: {"1.0": float(pictures), "+Inf": 0.0} for feature in FEATURES}
    return bins | {
        "polarity": {"inverted": float(inverted), "as_mnist": float(pictures - inverted)},
        "digit": {"7": float(pictures)},
    }


def test_a_window_is_the_last_pictures_and_no_more_than_a_look_beyond() -> None:
    window = DriftWindow()
    assert window.images == 0
    for pictures in range(0, 5000, 200):
        window.add(counted(pictures))
        window.add(counted(pictures))  # nothing new
    assert window.images == 600
    window.add(counted(9000))
    assert window.images == 9000 - 4800
    assert len(window.looks) == 2


def test_nothing_is_said_of_few_pictures() -> None:
    window = DriftWindow()
    window.add(counted(1000))
    window.add(counted(1000 + WINDOW - 1))
    reference = {feature: {"1.0": 1.0, "+Inf": 0.0} for feature in FEATURES}
    assert window.compute_drift(reference) == {}
    window.add(counted(1000 + WINDOW, inverted=1))
    told = window.compute_drift(reference | {"polarity": {"inverted": 0.0, "as_mnist": 1.0}})
    assert told.pop("polarity") == pytest.approx(0, abs=0.02)
    assert "digit" not in told  # its bins are not the reference's
    assert set(told.values()) == {0.0}


def test_the_released_reference_has_the_bins_that_workers_count_in() -> None:
    assert REFERENCE["pictures"] == 5001
    live = count_features(Metrics("2.5").registry.collect())["2.5"]
    assert {feature: bins.keys() for feature, bins in REFERENCE["shares"].items()} == {
        feature: bins.keys() for feature, bins in live.items()
    }
    assert all(sum(bins.values()) == pytest.approx(1) for bins in REFERENCE["shares"].values())


@pytest.fixture(scope="module")
def asking() -> Iterator[HandlerRunner]:
    with start_handler() as handler:
        yield handler


def drift(handler: HandlerRunner, pictures: list[bytes]) -> float:
    """The largest index of a window of WINDOW images, counted by the handler as in a worker."""
    handler.handler.metrics = metrics = Metrics("0")
    window = DriftWindow()
    window.add(count_features(metrics.registry.collect())["0"])
    for start in range(0, len(pictures), handler.batch_size):
        if window.images < WINDOW:
            handler.predict(pictures[start : start + handler.batch_size], "")
            window.add(count_features(metrics.registry.collect())["0"])
    index = window.compute_drift(REFERENCE["shares"])
    assert index.keys() == set(FEATURES)
    return max(index.values())


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    """Of mnist5k; the validation split's own would be no proof."""
    greys, _ = load_raw_images("mnist5k")
    return greys[np.random.default_rng(7).permutation(len(greys))[:WINDOW]]


def test_digits_like_those_it_was_measured_on_do_not_drift(asking: HandlerRunner, digits: NDArray[np.uint8]) -> None:
    assert drift(asking, [encode_png(grey) for grey in digits]) < 0.1


@pytest.mark.parametrize("change", ["inverted", "blurred"])
def test_changed_digits_drift(change: str, asking: HandlerRunner, digits: NDArray[np.uint8]) -> None:
    changed = CORRUPTIONS[change](digits, np.random.default_rng(0))
    assert drift(asking, [encode_png(grey) for grey in changed]) > 0.25


@pytest.mark.slow
def test_photos_drift(asking: HandlerRunner, digits: NDArray[np.uint8]) -> None:
    random = np.random.default_rng(0)
    assert drift(asking, [make_photo(grey, random) for grey in digits]) > 0.25


def test_what_is_no_digit_drifts(asking: HandlerRunner) -> None:
    pictures = make_textures(np.random.default_rng(0), 2 * WINDOW)  # some are refused as blank
    assert drift(asking, [encode_png(grey) for grey in pictures]) > 0.25
