"""Types of the service's responses, and their parsers."""

import re
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from digits_client.exceptions import UnexpectedResponseError


@dataclass(frozen=True)
class Prediction:
    """Prediction of an image: ten `probabilities`, index = digit; calibrated `confidence`, 0..1.

    `accepted` is False if the score is below the acceptance threshold: the image may be ambiguous, or not a digit.
    """

    digit: int
    confidence: float
    accepted: bool
    probabilities: tuple[float, ...]
    warnings: tuple[str, ...]
    model_version: str


@dataclass(frozen=True)
class NumberDigit:
    """A digit of a number: `box` is left, top, width and height in pixels of the image as sent."""

    digit: int
    confidence: float
    accepted: bool
    probabilities: tuple[float, ...]
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Number:
    """Reading of a whole number: its `confidence` is the probability that all digits are right."""

    number: str
    confidence: float
    accepted: bool
    digits: tuple[NumberDigit, ...]
    warnings: tuple[str, ...]
    model_version: str


@dataclass(frozen=True)
class Explanation:
    """Explanation of a prediction: evidence for and against the `target` digit; both arrays are 64 rows of 64 values.

    `framed` holds 0..255, the image as the model saw it. `attribution` is in nats per pixel: above 0 where a pixel is
    evidence for the target, below 0 where it is evidence against it.
    """

    digit: int
    target: int
    attribution: list[list[float]]
    framed: list[list[int]]


@dataclass(frozen=True)
class Worker:
    """A worker process as TorchServe lists it; it takes requests when its status is READY."""

    id: str
    pid: int
    status: str


@dataclass(frozen=True)
class Version:
    """A registered version; `pending` requests wait in its queue, which has room for `queue`; delay in ms."""

    version: str
    archive: str
    workers: tuple[Worker, ...]
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    pending: int
    queue: int

    @property
    def ready(self) -> int:
        """Number of READY workers."""
        return sum(worker.status == "READY" for worker in self.workers)


class Readiness(NamedTuple):
    """The response of /ready; the reason is `ready`, with a warning after it if there is one."""

    ready: bool
    reason: str


class Sample(NamedTuple):
    """One value of /metrics."""

    name: str
    labels: dict[str, str]
    value: float


def make_sort_key(version: str) -> list[str | int]:
    """Return a sort key that places version 1.9 before 1.10."""
    return [int(part) if part.isascii() and part.isdecimal() else part for part in re.split(r"([0-9]+)", version)]


def parse_prediction(response: Any) -> Prediction:
    """Parse the handler's JSON; raise UnexpectedResponseError if it is not the digit handler's."""
    try:
        values = {field.name: response[field.name] for field in fields(Prediction)}
        return Prediction(**values | {name: tuple(values[name]) for name in ("probabilities", "warnings")})
    except (LookupError, TypeError) as error:
        expected = ", ".join(field.name for field in fields(Prediction))
        message = f"the response has no {error}; expected {expected}: is this the digit service?"
        raise UnexpectedResponseError(message) from error


def parse_number(response: Any) -> Number:
    """Parse the handler's JSON; raise UnexpectedResponseError if it is not a number's."""
    try:
        values = {field.name: response[field.name] for field in fields(Number)}
        digits = tuple(_parse_digit(digit) for digit in values["digits"])
        return Number(**values | {"digits": digits, "warnings": tuple(values["warnings"])})
    except (LookupError, TypeError) as error:
        raise UnexpectedResponseError("the response is not a number; does the version read numbers?") from error


def _parse_digit(response: dict[str, Any]) -> NumberDigit:
    values = {field.name: response[field.name] for field in fields(NumberDigit)}
    return NumberDigit(**values | {name: tuple(values[name]) for name in ("probabilities", "box")})


def parse_explanation(response: Any) -> Explanation:
    """Parse the handler's JSON; raise UnexpectedResponseError if it is not the digit handler's."""
    try:
        return Explanation(**{field.name: response[field.name] for field in fields(Explanation)})
    except (LookupError, TypeError) as error:
        raise UnexpectedResponseError("the response is not an explanation; does the version support them?") from error


def parse_versions(described: Any) -> list[Version]:
    """Parse TorchServe's description of a model; raise UnexpectedResponseError if it is invalid."""
    try:
        first, *others = map(_parse_version, described)
        return [first, *others]
    except (LookupError, TypeError, ValueError) as error:
        raise UnexpectedResponseError("the response lists no versions: is this the digit service?") from error


def _parse_version(listed: dict[str, Any]) -> Version:
    return Version(
        version=listed["modelVersion"],
        archive=listed["modelUrl"],
        workers=tuple(Worker(worker["id"], worker["pid"], worker["status"]) for worker in listed["workers"]),
        min_workers=listed["minWorkers"],
        max_workers=listed["maxWorkers"],
        batch_size=listed["batchSize"],
        max_batch_delay=listed["maxBatchDelay"],
        pending=listed["jobQueueStatus"]["pendingRequests"],
        queue=listed["jobQueueStatus"]["pendingRequests"] + listed["jobQueueStatus"]["remainingCapacity"],
    )
