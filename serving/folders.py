"""Whole folders of pictures: found, read by the server, and read by two versions beside each other."""

import os
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.client import DigitsClient
from serving.config import ServingError
from serving.connection import RefusedError
from serving.pictures import PictureError
from serving.results import Answer

SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
COLUMNS = ("path", "digit", "confidence", "accepted", "warnings", "model_version", "error")


def find_pictures(folder: Path) -> list[Path]:
    """The pictures below a folder, by name; ServingError if there are none, or a folder cannot be read."""
    if not folder.is_dir():
        raise ServingError(f"{folder}: is no folder; expected one with pictures in it")
    files = (Path(below) / name for below, _, names in os.walk(folder, onerror=_unreadable) for name in names)
    found = sorted(each for each in files if each.suffix.lower() in SUFFIXES and (each.is_file() or each.is_symlink()))
    if not found:
        raise ServingError(f"{folder}: no pictures below it; expected {', '.join(sorted(SUFFIXES))}")
    return found


def _unreadable(error: OSError) -> None:
    raise ServingError(f"{error.filename}: {error.strerror}; expected a folder that may be read") from error


def label(path: Path) -> int | None:
    """The digit that the picture's folder is named after, None if it is not."""
    name = path.parent.name
    return int(name) if len(name) == 1 and name in "0123456789" else None


def rows(names: list[str], answers: Iterable[Answer | ServingError]) -> Iterator[dict[str, Any]]:
    """A row a picture, with COLUMNS and `probabilities`; a picture's own error is in its row, any other is raised."""
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, Answer):
            yield {"path": name, **vars(answer), "error": ""}
        elif _is_its_own(answer):
            yield {"path": name, "error": str(answer)}
        else:
            raise answer


def _is_its_own(error: ServingError) -> bool:
    """Whether the next picture may do better."""
    return isinstance(error, PictureError) or (isinstance(error, RefusedError) and error.is_pictures_own)


@dataclass(frozen=True)
class Side:
    """One version's part of a comparison: how many it answered, and its latency in milliseconds."""

    version: str
    answered: int
    accepted: int
    right: int | None  # of those with a label; None if there is none
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Comparison:
    """Two versions on the same pictures: `labelled` of `pictures` lie in a folder that is named after their digit.

    All are `agreed` on, `refused` or `different`.
    """

    pictures: int
    labelled: int
    agreed: int
    refused: int  # by both
    sides: tuple[Side, Side]
    different: tuple[dict[str, Any], ...]  # path, label, and the digit or refusal of each version


def compare(client: DigitsClient, versions: tuple[str, str], pictures: Iterable[Path]) -> Comparison:
    """Asks both versions about each picture in turn, so that noise of the machine meets both."""
    for version in versions:
        client.registered(version)
    told = [(path, [_timed(client, path, version) for version in versions]) for path in pictures]
    labels = [label(path) for path, _ in told]
    digits = [tuple(_digit(answer) for answer, _ in both) for _, both in told]
    different = [
        {"path": str(path), "label": right, "digits": list(pair)}
        for (path, _), right, pair in zip(told, labels, digits, strict=True)
        if pair[0] != pair[1]
    ]
    first, second = (_side(version, [both[side] for _, both in told], labels) for side, version in enumerate(versions))
    labelled = sum(each is not None for each in labels)
    refused = sum(pair[0] == pair[1] and isinstance(pair[0], str) for pair in digits)
    agreed = len(told) - len(different) - refused
    return Comparison(len(told), labelled, agreed, refused, (first, second), tuple(different))


def _timed(client: DigitsClient, path: Path, version: str) -> tuple[Answer | ServingError, float]:
    started = time.perf_counter()
    try:
        answer: Answer | ServingError = client.predict(path, version)
    except ServingError as error:
        if not _is_its_own(error):
            raise
        answer = error
    return answer, 1000 * (time.perf_counter() - started)


def _digit(answer: Answer | ServingError) -> int | str:
    """The digit, or what a refusal says: two versions that refuse a picture alike agree."""
    return answer.digit if isinstance(answer, Answer) else str(answer)


def _side(version: str, told: list[tuple[Answer | ServingError, float]], labels: list[int | None]) -> Side:
    answers = [answer for answer, _ in told if isinstance(answer, Answer)]
    right = [_digit(answer) == each for (answer, _), each in zip(told, labels, strict=True) if each is not None]
    times = [milliseconds for _, milliseconds in told]
    return Side(
        version=version,
        answered=len(answers),
        accepted=sum(answer.accepted for answer in answers),
        right=sum(right) if right else None,
        p50_ms=statistics.median(times),
        p95_ms=statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0],
    )
