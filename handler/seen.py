"""What became of a batch's requests and of their pictures, as metrics and log tell it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from handler.preprocessing import Framed, Grey, ImageError, Source


@dataclass(slots=True)
class Seen:
    """A picture: what it has come to so far, what it was sent as, and the seconds of each step it went through."""

    outcome: Grey | Framed | ImageError
    source: Source | None = None
    decoding: float | None = None
    framing: float | None = None
    inference: float | None = None  # of the model call that it shared with others
    told: dict[str, Any] = field(default_factory=dict)  # the fields of its answer


@dataclass(slots=True)
class Served:
    """A request with its answer; `kind` is digit, digits, explanation or description."""

    kind: str
    pictures: Sequence[Seen]
    status: int
    content_type: str
    body: str
    size: int = 0  # bytes of its pictures
    request_id: str | None = None  # TorchServe's, which callers find in the answer's header x-request-id
    correlation: str | None = None
