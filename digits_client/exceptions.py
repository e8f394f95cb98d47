"""Errors of the clients: DigitsError and its subclasses."""

TOKEN_VARIABLES = {"inference": "DIGITS_INFERENCE_TOKEN", "management": "DIGITS_MANAGEMENT_TOKEN"}
_ADVICE = {
    "InvalidKeyException": f"tokens come from `token=`, else from {' and '.join(TOKEN_VARIABLES.values())} if set, "
    "else from the key file of the server on this machine",
    "ConflictStatusException": "promote it, or choose another version",
    "ModelVersionNotFoundException": "`digits models` lists the registered versions",
    "ServiceUnavailableException": "its queue is full or it has no worker; `make status` says which",
}


class DigitsError(Exception):
    """Base class of all client errors; the message says what to do."""


class ApiError(DigitsError):
    """An error response: HTTP `status`, TorchServe's or the handler's `type`, and its `message`."""

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002 - the name of the JSON field
        self.status, self.type, self.message = status, type, message
        advice = f" ({_ADVICE[type]})" if type in _ADVICE else ""
        super().__init__(f"{status} {type}: {message}{advice}")

    @property
    def is_about_image(self) -> bool:
        """Whether a request for another image may succeed."""
        return (
            self.type in ("InvalidImage", "several_lines", "DeadlineExceeded")
            or self.status in (413, 429)
            or self.status >= 500
        )


class UnexpectedResponseError(DigitsError):
    """A response that does not come from the digit service."""


class UnreachableError(DigitsError):
    """No response: refused or broken connection, timeout, or no readable token."""


class ImageFileError(DigitsError):
    """An image that cannot be sent, such as a missing file or an unsupported array."""


class NotKeptError(DigitsError):
    """A change that took effect but would be lost if the server restarted now."""
