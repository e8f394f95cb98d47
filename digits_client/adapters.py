"""HTTP adapters that check that a response belongs to its request, and that the server has the pinned certificate."""

import hashlib
import ssl
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from requests.adapters import HTTPAdapter

from digits_client.exceptions import DigitsError

CORRELATION_HEADER = "X-Correlation-ID"  # as in handler/protocol.py; the server echoes it
_END = "-----END CERTIFICATE-----"


class MismatchedResponseError(requests.RequestException):
    """Every connection returned the response of another request."""


class CorrelatedAdapter(HTTPAdapter):
    """Drops a connection that returns another request's response, and sends the request again on a new one.

    TorchServe 0.12.0 may answer a request twice when its worker is taken away, and the second response is then read as
    that of the next request on the connection. One without the header is TorchServe's own, or an older archive's.
    """

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        own = request.headers.setdefault(CORRELATION_HEADER, uuid4().hex)
        for _ in range(1 + (self.max_retries.total or 0)):
            response = super().send(request, *args, **options)
            if response.headers.get(CORRELATION_HEADER, own) == own:
                return response
            response.close()
        raise MismatchedResponseError


class PinnedCertificateAdapter(CorrelatedAdapter):
    """Accepts only a server with the given certificate; who signed it, and for which address, does not matter."""

    def __init__(self, certificate: Path, **options: Any) -> None:
        self.fingerprint = _read_fingerprint(certificate)
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options, assert_fingerprint=self.fingerprint)


def _read_fingerprint(certificate: Path) -> str:
    """Return the SHA-256 of the first certificate in a PEM file, the server's own."""
    try:
        first = certificate.read_text(encoding="utf-8").partition(_END)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[0] + first[1])).hexdigest()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DigitsError(f"{certificate}: {reason}; expected the server's certificate, PEM") from error
