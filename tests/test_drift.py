"""Tests of handler/drift.py: the PSI by hand, sliding windows, and traffic like and unlike the baseline."""

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.corruptions import CORRUPTIONS
from evaluation.handler_runner import HandlerRunner, start_handler
from evaluation.outlier_images import make_textures
from evaluation.sets import encode_png
from evaluation.synthetic_photos import make_photo
from handler.drift import FEATURES, MIN_SHARE, MIN_WINDOW_IMAGES, Counts, DriftWindow, compute_psi, count_features
from handler.metrics import Metrics
from serving.config import ROOT
from training.data import load_raw_images

BASELINE = json.loads((ROOT / "model" / "model.json").read_text())["reference"]


def test_psi_is_the_formulas() -> None:
    assert compute_psi({"a": 30, "b": 70}, {"a": 0.5, "b": 0.5}) == pytest.approx(
        -0.2 * math.log(0.6) + 0.2 * math.log(1.4)
    )
    assert compute_psi({"a": 5, "b": 5}, {"a": 0.5, "b": 0.5}) == 0
    assert compute_psi({"a": 0, "b": 1}, {"a": 0.0, "b": 1.0}) == 0
    expected = 2 * (1 - MIN_SHARE) * math.log(1 / MIN_SHARE)
    assert compute_psi({"a": 1, "b": 0}, {"a": 0.0, "b": 1.0}) == pytest.approx(expected)


def make_counts(images: int, inverted: int = 0) -> Counts:
    bins = {feature: {"1.0": float(images), "+Inf": 0.0} for feature in FEATURES}
    return bins | {
        "polarity": {"inverted": float(inverted), "as_mnist": float(images - inverted)},
        "digit": {"7": float(images)},
    }


def test_window_holds_the_last_images_up_to_a_snapshot() -> None:
    window = DriftWindow()
    assert window.images == 0
    for images in range(0, 5000, 200):
        window.add(make_counts(images))
        window.add(make_counts(images))  # no new images
    assert window.images == 600
    window.add(make_counts(9000))
    assert window.images == 9000 - 4800
    assert len(window.snapshots) == 2


def test_few_images_give_no_drift() -> None:
    window = DriftWindow()
    window.add(make_counts(1000))
    window.add(make_counts(1000 + MIN_WINDOW_IMAGES - 1))
    baseline = {feature: {"1.0": 1.0, "+Inf": 0.0} for feature in FEATURES}
    assert window.compute_drift(baseline) == {}
    window.add(make_counts(1000 + MIN_WINDOW_IMAGES, inverted=1))
    drift = window.compute_drift(baseline | {"polarity": {"inverted": 0.0, "as_mnist": 1.0}})
    assert drift.pop("polarity") == pytest.approx(0, abs=0.02)
    assert "digit" not in drift  # its bins are not the baseline's
    assert set(drift.values()) == {0.0}


def test_shipped_baseline_has_the_bins_that_workers_count_in() -> None:
    assert BASELINE["pictures"] == 5001
    live = count_features(Metrics("2.5").registry.collect())["2.5"]
    assert {feature: bins.keys() for feature, bins in BASELINE["shares"].items()} == {
        feature: bins.keys() for feature, bins in live.items()
    }
    assert all(sum(bins.values()) == pytest.approx(1) for bins in BASELINE["shares"].values())


@pytest.fixture(scope="module")
def runner() -> Iterator[HandlerRunner]:
    with start_handler() as handler:
        yield handler


def compute_largest_psi(runner: HandlerRunner, images: list[bytes]) -> float:
    """Return the largest PSI of a window of MIN_WINDOW_IMAGES, counted by the handler as in a worker."""
    runner.handler.metrics = metrics = Metrics("0")
    window = DriftWindow()
    window.add(count_features(metrics.registry.collect())["0"])
    for start in range(0, len(images), runner.batch_size):
        if window.images < MIN_WINDOW_IMAGES:
            runner.predict(images[start : start + runner.batch_size], "")
            window.add(count_features(metrics.registry.collect())["0"])
    psi = window.compute_drift(BASELINE["shares"])
    assert psi.keys() == set(FEATURES)
    return max(psi.values())


@pytest.fixture(scope="module")
def digits() -> NDArray[np.uint8]:
    """Return images of mnist5k; the validation split's own would prove nothing."""
    grays, _ = load_raw_images("mnist5k")
    return grays[np.random.default_rng(7).permutation(len(grays))[:MIN_WINDOW_IMAGES]]


def test_digits_like_the_baseline_do_not_drift(runner: HandlerRunner, digits: NDArray[np.uint8]) -> None:
    assert compute_largest_psi(runner, [encode_png(gray) for gray in digits]) < 0.1


@pytest.mark.parametrize("change", ["inverted", "blurred"])
def test_changed_digits_drift(change: str, runner: HandlerRunner, digits: NDArray[np.uint8]) -> None:
    changed = CORRUPTIONS[change](digits, np.random.default_rng(0))
    assert compute_largest_psi(runner, [encode_png(gray) for gray in changed]) > 0.25


@pytest.mark.slow
def test_photos_drift(runner: HandlerRunner, digits: NDArray[np.uint8]) -> None:
    random = np.random.default_rng(0)
    assert compute_largest_psi(runner, [make_photo(gray, random) for gray in digits]) > 0.25


def test_images_of_no_digit_drift(runner: HandlerRunner) -> None:
    images = make_textures(np.random.default_rng(0), 2 * MIN_WINDOW_IMAGES)  # some are blank
    assert compute_largest_psi(runner, [encode_png(gray) for gray in images]) > 0.25
