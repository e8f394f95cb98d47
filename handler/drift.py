"""How far recent images are from those that a version was measured on: the population stability index (PSI).

For each feature, over the bins of its histogram: the sum of (live - baseline) * ln(live / baseline), both as shares
(N. Siddiqi: Credit Risk Scorecards, Wiley 2006). By convention less than 0.1 is no change and more than 0.25 a shift
to look into; of 500 images like the baseline's, chance makes about 0.03 (B. Yurdakul: Statistical properties of
population stability index, Western Michigan University 2018: bins less one, over the number of images).

Workers count in these bins, training writes the baseline's shares into model.json, the supervisor compares. It imports
nothing of ours, and no numpy.
"""

import math
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

WINDOW = 500  # images at least; fewer say little
FLOOR = 1e-4  # share that an empty bin is taken for, lest a single image there counts as infinitely much
# Upper bounds of a feature's bins, in the metric that counts it: fine where MNIST's images are.
CONFIDENCE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999, 1.0)
INK = (0.05, 0.07, 0.08, 0.09, 0.1, 0.11, 0.12, 0.13, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3)
WIDTH = (2.0, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 8.0, 9.0, 10.0, 12.0, 16.0)
SIZE = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
_BUCKETS = {
    "digits_confidence_bucket": "confidence",
    "digits_ink_ratio_bucket": "ink",
    "digits_stroke_width_pixels_bucket": "stroke_width",
    "digits_picture_size_pixels_bucket": "picture_size",
}
FEATURES = (*_BUCKETS.values(), "polarity", "digit")

Counts = dict[str, dict[str, float]]  # feature -> bin -> images


def compute_psi(live: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Compare images by bin with the baseline's shares of the same bins; 0 if they are alike."""
    images = sum(live.values())
    pairs = [(max(live[name] / images, FLOOR), max(share, FLOOR)) for name, share in baseline.items()]
    return sum((now - then) * math.log(now / then) for now, then in pairs)


def compute_baseline(
    confidence: Sequence[float],
    ink: Sequence[float],
    stroke_width: Sequence[float],
    picture_size: Sequence[float],
    inverted: Sequence[bool],
    digits: Sequence[int],
) -> dict[str, Any]:
    """Compute the baseline of N images from N values of each feature: feature -> bin -> share."""
    dark, count = sum(map(bool, inverted)), len(digits)
    found = Counter(int(digit) for digit in digits)
    return {
        "pictures": count,
        "shares": {
            "confidence": _shares(confidence, CONFIDENCE),
            "ink": _shares(ink, INK),
            "stroke_width": _shares(stroke_width, WIDTH),
            "picture_size": _shares(picture_size, SIZE),
            "polarity": {"inverted": dark / count, "as_mnist": 1 - dark / count},
            "digit": {str(digit): found[digit] / count for digit in range(10)},
        },
    }


def _shares(values: Sequence[float], bounds: Sequence[float]) -> dict[str, float]:
    """The share of values up to each bound, and above the last; bins are named as the metrics' labels are."""
    found = Counter(bisect_left(bounds, value) for value in values)
    names = [floatToGoString(bound) for bound in (*bounds, math.inf)]  # type: ignore[no-untyped-call]
    return {name: found[index] / len(values) for index, name in enumerate(names)}


def count_features(families: Iterable[Metric]) -> dict[str, Counts]:
    """Return for each version what its workers have counted of each feature since the start."""
    upto: dict[tuple[str, str], dict[str, float]] = {}
    found: dict[str, Counts] = {}
    for sample in (sample for family in families for sample in family.samples):
        version = sample.labels.get("version", "")
        if sample.name in _BUCKETS:
            upto.setdefault((version, _BUCKETS[sample.name]), {})[sample.labels["le"]] = sample.value
        elif sample.name == "digits_predictions_total":
            found.setdefault(version, {}).setdefault("digit", {})[sample.labels["digit"]] = sample.value
        elif sample.name == "digits_warnings_total" and sample.labels["warning"] == "inverted":
            found.setdefault(version, {})["polarity"] = {"inverted": sample.value}
    for (version, feature), cumulative in upto.items():
        found.setdefault(version, {})[feature] = _split_into_bins(cumulative)
    whole = {version: each for version, each in found.items() if each.keys() == set(FEATURES)}  # workers may be loading
    for counts in whole.values():
        counts["polarity"]["as_mnist"] = _count_images(counts) - counts["polarity"]["inverted"]
    return whole


def _split_into_bins(cumulative: dict[str, float]) -> dict[str, float]:
    names = sorted(cumulative, key=float)
    below = [0.0, *(cumulative[name] for name in names)]
    return {name: cumulative[name] - before for name, before in zip(names, below, strict=False)}


class DriftWindow:
    """The last WINDOW or more images of one version, as its counters have them at each look."""

    def __init__(self) -> None:
        self.looks: deque[Counts] = deque()

    def add(self, counts: Counts) -> None:
        """Note what is counted by now, and forget looks that the window no longer needs."""
        if self.looks and _count_images(counts) == _count_images(self.looks[-1]):
            return
        self.looks.append(counts)
        while len(self.looks) > 2 and _count_images(counts) - _count_images(self.looks[1]) >= WINDOW:
            self.looks.popleft()

    @property
    def images(self) -> int:
        return round(_count_images(self.looks[-1]) - _count_images(self.looks[0])) if self.looks else 0

    def compute_drift(self, baseline: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Return the PSI of each feature whose bins the baseline has; none until there are WINDOW images."""
        if self.images < WINDOW:
            return {}
        first, last = self.looks[0], self.looks[-1]
        live = {
            feature: {name: count - first[feature].get(name, 0) for name, count in bins.items()}
            for feature, bins in last.items()
        }
        comparable = [feature for feature in FEATURES if live[feature].keys() == baseline.get(feature, {}).keys()]
        return {feature: compute_psi(live[feature], baseline[feature]) for feature in comparable}


def _count_images(counts: Counts) -> float:
    return sum(counts["digit"].values())
