"""What the APIs answer, typed."""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.config import ServingError


@dataclass(frozen=True)
class Answer:
    """What the server read: `probabilities` are ten, index = digit; `confidence` is calibrated, 0..1."""

    digit: int
    confidence: float
    accepted: bool
    probabilities: tuple[float, ...]
    warnings: tuple[str, ...]
    model_version: str


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why `digit` was read, or why not the `target`: `framed` uint8 [64,64] is what the model saw of the picture.

    `attribution` float64 [64,64], in nats: above 0 where a pixel speaks for the target, below where against it.
    """

    digit: int
    target: int
    attribution: NDArray[np.float64]
    framed: NDArray[np.uint8]


@dataclass(frozen=True)
class Worker:
    """A worker process as TorchServe lists it; it answers when its status is READY."""

    id: str
    pid: int
    status: str


@dataclass(frozen=True)
class Version:
    """A registered version; of its `queue`'s places so many are taken as requests are `pending`; delay in ms."""

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
        """How many of its workers answer."""
        return sum(worker.status == "READY" for worker in self.workers)


class Ready(NamedTuple):
    """What /ready says: the reason is `ready` if it is."""

    ready: bool
    reason: str


class Sample(NamedTuple):
    """One value of /metrics."""

    name: str
    labels: dict[str, str]
    value: float


def answer_of(answer: dict[str, Any]) -> Answer:
    """Of the handler's JSON; ServingError if it is another handler's."""
    try:
        values = {field.name: answer[field.name] for field in fields(Answer)}
        return Answer(**values | {name: tuple(values[name]) for name in ("probabilities", "warnings")})
    except (LookupError, TypeError) as error:
        expected = ", ".join(field.name for field in fields(Answer))
        raise ServingError(f"the answer has no {error}; expected {expected}: does our handler serve it?") from error


def explanation_of(told: dict[str, Any]) -> Explanation:
    """Of the handler's JSON; ServingError if it is another handler's."""
    try:
        attribution, framed = np.array(told["attribution"], np.float64), np.array(told["framed"], np.uint8)
        return Explanation(told["digit"], told["target"], attribution, framed)
    except (LookupError, TypeError, ValueError) as error:
        raise ServingError("the answer is no explanation: is the version one that knows them?") from error


def version_of(listed: dict[str, Any]) -> Version:
    """Of one version in TorchServe's description of a model."""
    return Version(
        version=listed["modelVersion"],
        archive=listed["modelUrl"],
        workers=tuple(Worker(each["id"], each["pid"], each["status"]) for each in listed["workers"]),
        min_workers=listed["minWorkers"],
        max_workers=listed["maxWorkers"],
        batch_size=listed["batchSize"],
        max_batch_delay=listed["maxBatchDelay"],
        pending=listed["jobQueueStatus"]["pendingRequests"],
        queue=listed["jobQueueStatus"]["pendingRequests"] + listed["jobQueueStatus"]["remainingCapacity"],
    )
