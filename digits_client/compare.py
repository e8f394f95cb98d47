"""Compare two versions on the same images: agreement, accuracy and latency."""

import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits_client.batch_predict import Result, is_about_image
from digits_client.client import DigitsClient
from digits_client.exceptions import DigitsError
from digits_client.types import Prediction


@dataclass(frozen=True)
class Side:
    """Results of one version in a comparison; latencies in milliseconds."""

    version: str
    answered: int
    accepted: int
    right: int | None  # number of labeled images whose digit is predicted; None if none is labeled
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Comparison:
    """Results of two versions on the same `images`, of which `labelled` lie in a folder named after their digit.

    On every image they either agree, or both give the same error, or are listed in `different`.
    """

    images: int
    labelled: int
    agreed: int
    errors: int  # that both versions return
    sides: tuple[Side, Side]
    different: tuple[dict[str, Any], ...]  # path, label, and the digit or error of both versions


def compare_versions(client: DigitsClient, versions: tuple[str, str], images: Iterable[Path]) -> Comparison:
    """Predict every image by both versions in turn, so that noise of the machine affects both."""
    results = [(path, [_predict_timed(client, path, version) for version in versions]) for path in images]
    labels = [find_label(path) for path, _ in results]
    digits = [tuple(_find_digit(result) for result, _ in both) for _, both in results]
    different = [
        {"path": str(path), "label": label, "digits": list(pair)}
        for (path, _), label, pair in zip(results, labels, digits, strict=True)
        if pair[0] != pair[1]
    ]
    first, second = (
        _make_side(version, [both[side] for _, both in results], labels) for side, version in enumerate(versions)
    )
    labelled = sum(label is not None for label in labels)
    errors = sum(pair[0] == pair[1] and isinstance(pair[0], str) for pair in digits)
    agreed = len(results) - len(different) - errors
    return Comparison(len(results), labelled, agreed, errors, (first, second), tuple(different))


def find_label(path: Path) -> int | None:
    """Return the digit that the image's folder is named after, None if it is not."""
    name = path.parent.name
    return int(name) if len(name) == 1 and name in "0123456789" else None


def _predict_timed(client: DigitsClient, path: Path, version: str) -> tuple[Result, float]:
    started = time.perf_counter()
    try:
        result: Result = client.predict(path, version)
    except DigitsError as error:
        if not is_about_image(error):
            raise
        result = error
    return result, 1000 * (time.perf_counter() - started)


def _find_digit(result: Result) -> int | str:
    """Return the digit, or the error's text: two versions that give the same error agree."""
    return result.digit if isinstance(result, Prediction) else str(result)


def _make_side(version: str, results: list[tuple[Result, float]], labels: list[int | None]) -> Side:
    predictions = [result for result, _ in results if isinstance(result, Prediction)]
    pairs = zip(results, labels, strict=True)
    right = [_find_digit(result) == label for (result, _), label in pairs if label is not None]
    times = [milliseconds for _, milliseconds in results]
    return Side(
        version=version,
        answered=len(predictions),
        accepted=sum(prediction.accepted for prediction in predictions),
        right=sum(right) if right else None,
        p50_ms=statistics.median(times),
        p95_ms=statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0],
    )
