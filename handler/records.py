"""Data classes of a request, its images and their errors, which the handler fills in, counts and logs."""

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from handler.decoding import ImageError, ImageInfo

if TYPE_CHECKING:
    from handler.preprocessing import FramedImage

JSON = "application/json"
KINDS = ("predict", "read_number", "predict_batch", "explain", "describe")


class RequestError(ImageError):
    """An invalid request, regardless of its images."""

    type = "InvalidRequest"
    reason = "invalid_request"


class DeadlineExceededError(ImageError):
    """An image that was not read because the images before it used up the batch's time."""

    type = "DeadlineExceeded"
    reason = "late"


class InternalError(ImageError):
    """An image that failed because of an error in the service."""

    type = "InternalServerException"  # as TorchServe calls it
    reason = "internal_error"

    @classmethod
    def from_exception(cls, error: Exception) -> "InternalError":
        """Log an unexpected exception and make it the error of one image; others in its batch are unaffected."""
        logging.exception("an image failed unexpectedly")
        return cls(500, f"the image could not be processed: {type(error).__name__}")


@dataclass(slots=True)
class ImageRecord:
    """An image: its bytes, then its frame and prediction, or its error; and the duration of the steps, in seconds."""

    content: bytes = b""
    error: ImageError | None = None
    info: ImageInfo | None = None
    reads_number: bool = False
    framed: "FramedImage | None" = None
    prediction: dict[str, Any] = field(default_factory=dict)
    decode_seconds: float | None = None
    framing_seconds: float | None = None
    inference_seconds: float | None = None  # of the model call, which other images shared, or of reading a number

    @property
    def response(self) -> dict[str, Any]:
        """The prediction, or the error in TorchServe's shape."""
        if self.error is None:
            return self.prediction
        error = self.error
        return {"code": error.status, "type": error.type, "message": error.message, **error.details}


@dataclass(slots=True)
class Request:
    """A request of one of KINDS; status, content type and body of its response are filled in."""

    kind: str
    images: list[ImageRecord]
    plain: bool = False  # respond with the digit alone, as text
    target: int | None = None  # the digit to be explained
    correlation_id: str | None = None
    is_probe: bool = False
    request_id: str | None = None  # TorchServe's; the response header x-request-id has it too
    status: int = 200
    content_type: str = JSON
    body: str = ""
