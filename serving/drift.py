"""How far the pictures of late are from those that a version was measured on: the population stability index.

Of each feature, over the bins of its histogram: the sum of (live - reference) * ln(live / reference), both as shares
(N. Siddiqi: Credit Risk Scorecards, Wiley 2006). By convention less than 0.1 is no change and more than 0.25 a shift
to look into; of 500 pictures like the reference's, chance makes about 0.03 (B. Yurdakul: Statistical properties of
population stability index, Western Michigan University 2018: bins less one, over the number of pictures).
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping

from prometheus_client import Metric

PICTURES = 500  # of a window, at least; fewer say little
FLOOR = 1e-4  # share that an empty bin is taken for, lest a single picture there counts as infinitely much
_BUCKETS = {
    "digits_confidence_bucket": "confidence",
    "digits_ink_ratio_bucket": "ink",
    "digits_stroke_width_pixels_bucket": "stroke_width",
    "digits_picture_size_pixels_bucket": "picture_size",
}
FEATURES = (*_BUCKETS.values(), "polarity", "digit")

Counts = dict[str, dict[str, float]]  # feature -> bin -> pictures


def psi(live: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Of pictures by bin, and of the reference's shares by the same bins; 0 if they are alike."""
    pictures = sum(live.values())
    pairs = [(max(live[name] / pictures, FLOOR), max(share, FLOOR)) for name, share in reference.items()]
    return sum((now - then) * math.log(now / then) for now, then in pairs)


def counts(families: Iterable[Metric]) -> dict[str, Counts]:
    """Version -> what its workers have counted of each feature since they began."""
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
        found.setdefault(version, {})[feature] = _by_bin(cumulative)
    whole = {version: each for version, each in found.items() if each.keys() == set(FEATURES)}  # workers may be loading
    for each in whole.values():
        each["polarity"]["as_mnist"] = _pictures(each) - each["polarity"]["inverted"]
    return whole


def _by_bin(cumulative: dict[str, float]) -> dict[str, float]:
    names = sorted(cumulative, key=float)
    below = [0.0, *(cumulative[name] for name in names)]
    return {name: cumulative[name] - before for name, before in zip(names, below, strict=False)}


class Window:
    """The last PICTURES or more pictures of one version: no more than what was counted since it was last looked."""

    def __init__(self) -> None:
        self.looks: deque[Counts] = deque()

    def add(self, counted: Counts) -> None:
        """Notes what is counted by now."""
        if self.looks and _pictures(counted) == _pictures(self.looks[-1]):
            return
        self.looks.append(counted)
        while len(self.looks) > 2 and _pictures(counted) - _pictures(self.looks[1]) >= PICTURES:
            self.looks.popleft()

    def counts(self) -> Counts:
        """Of the window's pictures."""
        first, last = self.looks[0], self.looks[-1]
        return {
            feature: {name: count - first[feature].get(name, 0) for name, count in bins.items()}
            for feature, bins in last.items()
        }

    def pictures(self) -> int:
        return round(_pictures(self.looks[-1]) - _pictures(self.looks[0])) if self.looks else 0

    def drift(self, reference: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Feature -> index, of those whose bins the reference has; none until there are PICTURES."""
        if self.pictures() < PICTURES:
            return {}
        live = self.counts()
        comparable = [feature for feature in FEATURES if live[feature].keys() == reference.get(feature, {}).keys()]
        return {feature: psi(live[feature], reference[feature]) for feature in comparable}


def _pictures(counted: Counts) -> float:
    return sum(counted["digit"].values())
