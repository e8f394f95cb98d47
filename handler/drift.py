"""Measure how far recent images are from a version's validation images: the population stability index (PSI).

For each feature, over the bins of its histogram: the sum of (live - baseline) * ln(live / baseline), both as shares
(N. Siddiqi: Credit Risk Scorecards, Wiley 2006). By convention less than 0.1 is no change and more than 0.25 a shift
to look into. For 500 images of the baseline's own distribution the expected PSI is about 0.03, (bins - 1) / images
(B. Yurdakul: Statistical properties of population stability index, Western Michigan University 2018).

Workers count images in these bins, training writes the baseline's shares into model.json, the supervisor compares.
This module imports neither numpy nor other modules of the project.
"""

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

MIN_WINDOW_IMAGES = 500  # fewer give a PSI that is mostly chance
MIN_SHARE = 1e-4  # share used for an empty bin; a share of 0 would make the PSI infinite
# Upper bounds of the features' bins, which are the buckets of their metrics: fine where MNIST's images are.
CONFIDENCE_BINS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)
FOREGROUND_BINS = (0.05, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3)
STROKE_WIDTH_BINS = (2.0, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0, 12.0, 16.0)
IMAGE_SIZE_BINS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
_BUCKETS = {  # feature by metric; features keep the names and keys of model.json, a file format; metrics need not
    "digits_confidence_bucket": "confidence",
    "digits_foreground_ratio_bucket": "ink",
    "digits_stroke_width_pixels_bucket": "stroke_width",
    "digits_image_size_pixels_bucket": "picture_size",
}
FEATURES = (*_BUCKETS.values(), "polarity", "digit")

Counts = dict[str, dict[str, float]]  # feature -> bin -> images


def compute_psi(live: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Compute the PSI of images by bin against the baseline's shares of the same bins; 0 if they are equal."""
    images = sum(live.values())
    pairs = [(max(live[name] / images, MIN_SHARE), max(share, MIN_SHARE)) for name, share in baseline.items()]
    return sum((live_share - share) * math.log(live_share / share) for live_share, share in pairs)


def compare_features(live: Counts, baseline: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the PSI of every feature whose bins the baseline has; none of fewer than MIN_WINDOW_IMAGES."""
    if _count_images(live) < MIN_WINDOW_IMAGES:
        return {}
    comparable = [feature for feature in FEATURES if live[feature].keys() == baseline.get(feature, {}).keys()]
    return {feature: compute_psi(live[feature], baseline[feature]) for feature in comparable}


def compute_baseline(
    confidence: Sequence[float],
    foreground_ratio: Sequence[float],
    stroke_width: Sequence[float],
    image_size: Sequence[float],
    inverted: Sequence[bool],
    digits: Sequence[int],
) -> dict[str, Any]:
    """Compute the baseline of N images from N values of every feature: feature -> bin -> share."""
    inverted_share, count = sum(map(bool, inverted)) / len(digits), len(digits)
    by_digit = Counter(int(digit) for digit in digits)
    return {
        "pictures": count,
        "shares": {
            "confidence": _compute_shares(confidence, CONFIDENCE_BINS),
            "ink": _compute_shares(foreground_ratio, FOREGROUND_BINS),
            "stroke_width": _compute_shares(stroke_width, STROKE_WIDTH_BINS),
            "picture_size": _compute_shares(image_size, IMAGE_SIZE_BINS),
            "polarity": {"inverted": inverted_share, "as_mnist": 1 - inverted_share},
            "digit": {str(digit): by_digit[digit] / count for digit in range(10)},
        },
    }


def _compute_shares(values: Sequence[float], bounds: Sequence[float]) -> dict[str, float]:
    """Return the share of values in every bin, the last one unbounded; bins are named like the metrics' labels."""
    counts = Counter(bisect_left(bounds, value) for value in values)
    names = [floatToGoString(bound) for bound in (*bounds, math.inf)]  # type: ignore[no-untyped-call]
    return {name: counts[index] / len(values) for index, name in enumerate(names)}


def count_features(families: Iterable[Metric]) -> dict[str, Counts]:
    """Return the counts of every version's workers since the start: version -> feature -> bin -> images."""
    buckets: dict[tuple[str, str], dict[str, float]] = {}
    by_version: dict[str, Counts] = {}
    for sample in (sample for family in families for sample in family.samples):
        version = sample.labels.get("version", "")
        if sample.name in _BUCKETS:
            buckets.setdefault((version, _BUCKETS[sample.name]), {})[sample.labels["le"]] = sample.value
        elif sample.name == "digits_predictions_total":
            by_version.setdefault(version, {}).setdefault("digit", {})[sample.labels["digit"]] = sample.value
        elif sample.name == "digits_warnings_total" and sample.labels["warning"] == "inverted":
            by_version.setdefault(version, {})["polarity"] = {"inverted": sample.value}
    for (version, feature), cumulative in buckets.items():
        by_version.setdefault(version, {})[feature] = _split_into_bins(cumulative)
    complete = {version: counts for version, counts in by_version.items() if counts.keys() == set(FEATURES)}
    for counts in complete.values():  # incomplete versions are skipped: their workers may still be loading
        counts["polarity"]["as_mnist"] = _count_images(counts) - counts["polarity"]["inverted"]
    return complete


def _split_into_bins(cumulative: dict[str, float]) -> dict[str, float]:
    names = sorted(cumulative, key=float)
    previous = [0.0, *(cumulative[name] for name in names)]
    return {name: cumulative[name] - below for name, below in zip(names, previous, strict=False)}


class DriftWindow:
    """The last MIN_WINDOW_IMAGES or more images of a version, as snapshots of its counters."""

    def __init__(self) -> None:
        self.snapshots: deque[Counts] = deque()

    def add(self, counts: Counts) -> None:
        """Add a snapshot of the counters; drop those that the window no longer needs."""
        if self.snapshots and _count_images(counts) == _count_images(self.snapshots[-1]):
            return
        self.snapshots.append(counts)
        while len(self.snapshots) > 2 and _count_images(counts) - _count_images(self.snapshots[1]) >= MIN_WINDOW_IMAGES:
            self.snapshots.popleft()

    @property
    def images(self) -> int:
        return round(_count_images(self.snapshots[-1]) - _count_images(self.snapshots[0])) if self.snapshots else 0

    def compute_drift(self, baseline: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Return the PSI of every feature as `compare_features` does."""
        if not self.snapshots:
            return {}
        first, last = self.snapshots[0], self.snapshots[-1]
        live = {
            feature: {name: count - first[feature].get(name, 0) for name, count in bins.items()}
            for feature, bins in last.items()
        }
        return compare_features(live, baseline)


def _count_images(counts: Counts) -> float:
    return sum(counts["digit"].values())
