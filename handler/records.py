"""A request and its images on their way through the handler: filled in step by step, then counted and logged."""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.decoding import ImageError, Source

if TYPE_CHECKING:
    from handler.preprocessing import FramedImage  # its import costs seconds of torch

JSON = "application/json"


class RequestError(ImageError):
    """An invalid request, whatever its images are."""

    type = "InvalidRequest"
    reason = "invalid_request"


class LateError(ImageError):
    """An image that was not read, because those before it took all the time of the batch."""

    type = "DeadlineExceeded"
    reason = "late"


class InternalError(ImageError):
    """An image that failed through no fault of its sender."""

    type = "InternalServerException"  # as TorchServe calls it
    reason = "internal_error"

    @classmethod
    def from_exception(cls, error: Exception) -> "InternalError":
        """Log a failure of ours, out of memory for instance, and make an error of it that reaches no neighbour."""
        logging.exception("a picture failed unexpectedly")
        return cls(500, f"the picture could not be processed: {type(error).__name__}")


@dataclass(slots=True)
class ImageRecord:
    """An image: its bytes, then its frame and prediction, or its error; and the seconds of each step it took."""

    content: bytes = b""
    error: ImageError | None = None
    source: Source | None = None
    framed: "FramedImage | None" = None
    prediction: dict[str, Any] = field(default_factory=dict)
    decode_seconds: float | None = None
    framing_seconds: float | None = None
    inference_seconds: float | None = None  # of the model call that it shared with others

    @property
    def response(self) -> dict[str, Any]:
        """The prediction, or the error in TorchServe's shape."""
        if self.error is None:
            return self.prediction
        return {"code": self.error.status, "type": self.error.type, "message": self.error.message}


@dataclass(slots=True)
class Request:
    """A request; `kind` is digit, digits (a batch request), explanation or description. The response is filled in."""

    kind: str
    images: list[ImageRecord]
    plain: bool = False  # the bare digit is wanted, as text
    target: int | None = None  # the digit to be explained
    correlation_id: str | None = None
    is_probe: bool = False
    request_id: str | None = None  # TorchServe's, which callers find in the response's header x-request-id
    status: int = 200
    content_type: str = JSON
    body: str = ""
