"""One server's APIs over HTTP: tokens, connections that are kept, retries, errors that say what to do."""

import hashlib
import json
import os
import ssl
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from handler.protocol import CORRELATION_HEADER
from serving.config import TOKENS, Config, ServingError, read_config

ENVIRONMENT = {"inference": "DIGITS_INFERENCE_TOKEN", "management": "DIGITS_MANAGEMENT_TOKEN"}
TIMEOUT = 10.0  # s, of one request
RETRIES = 3  # after waits of 0, 0.4 and 0.8 s
BACKOFF = 0.2
# No worker, a full queue, or the picture's worker died: TorchServe 0.12.0's codes. 429: nginx's, for too many requests.
BUSY = (429, 500, 503, 507)
ROTATION_SECONDS = 2.0  # until a refused key is taken for wrong rather than just replaced
CONNECTIONS = 64  # kept at the most
END = "-----END CERTIFICATE-----"
TOO_LARGE = "the body is over the server's limit of 16 MiB"
ADVICE = {
    "InvalidKeyException": f"tokens come from {' and '.join(ENVIRONMENT.values())} if set, else from the key file",
    "ConflictStatusException": "promote it, or choose another version",
    "ModelVersionNotFoundException": "`python -m serving models` lists those there are",
    "ServiceUnavailableException": "its queue is full or it has no worker; `python -m serving status` tells which",
}


class RefusedError(ServingError):
    """The server's refusal: HTTP `status`, TorchServe's or the handler's `type`, and its `message`."""

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002 - as the field is called
        self.status, self.type, self.message = status, type, message
        advice = f" ({ADVICE[type]})" if type in ADVICE else ""
        super().__init__(f"{status} {type}: {message}{advice}")

    @property
    def is_pictures_own(self) -> bool:
        """Whether the next picture may do better."""
        return self.type in ("InvalidImage", "DeadlineExceeded") or self.status in (413, 429) or self.status >= 500


def refused(response: requests.Response) -> RefusedError:
    """What the response says, whoever wrote it."""
    try:
        answer = response.json()
    except ValueError:  # TorchServe's own 413 has no body
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    message = str(answer.get("message", "")).strip() or (TOO_LARGE if response.status_code == 413 else response.text)
    return RefusedError(response.status_code, str(answer.get("type", response.reason)), message)


class UnreachableError(ServingError):
    """No answer at all: nobody listens, the connection broke, or the time is up."""


class Connection:
    """The APIs of one server. May be shared by threads.

    Tokens come from `key_file` if one is given, else from DIGITS_INFERENCE_TOKEN and DIGITS_MANAGEMENT_TOKEN, else
    from the configuration's key file, which is read again once when a key is refused.
    """

    def __init__(
        self,
        config: Config | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        key_file: Path | None = None,
    ) -> None:
        self.config = config or read_config()
        self.timeout = timeout
        self.key_file = key_file or self.config.key_file
        self.environment = {} if key_file else {kind: os.environ.get(name) for kind, name in ENVIRONMENT.items()}
        self.keys: dict[str, str] = {}
        self.session = _session(self.config, retries)  # shared by threads: TorchServe sets no cookies

    def close(self) -> None:
        self.session.close()

    def token(self, kind: str) -> str:
        """The token that is valid now; UnreachableError if no server has written one."""
        if given := self.environment.get(kind):
            return given
        try:
            return read_key(self.key_file, kind)
        except FileNotFoundError as error:
            raise UnreachableError(
                f"{self.key_file}: no tokens: the server does not run, or is starting; `make status` tells which"
            ) from error

    def request(self, api: str, method: str, path: str, **request: Any) -> requests.Response:
        """Whatever the API answers; UnreachableError if it does not."""
        kind = "management" if api == "management" else "inference"
        if "Authorization" in request.get("headers", {}):
            return self._send(api, method, path, request)
        key = self.keys.get(kind) or self.token(kind)
        response = self._send(api, method, path, _with_key(request, key))
        if _is_key_refused(response) and (fresh := self._replaced(kind, key)):
            self.keys[kind] = fresh
            return self._send(api, method, path, _with_key(request, fresh))
        self.keys[kind] = key
        return response

    def ask(self, api: str, method: str, path: str, **request: Any) -> requests.Response:
        """As `request`; raises RefusedError for any status of 400 and above."""
        response = self.request(api, method, path, **request)
        if response.status_code >= 400:
            raise refused(response)
        return response

    def _send(self, api: str, method: str, path: str, request: dict[str, Any]) -> requests.Response:
        url = self.config.url(api) + path
        try:
            return self.session.request(method, url, **{"timeout": self.timeout} | request)
        except requests.RequestException as error:
            raise UnreachableError(f"{url} {_failure(error)}; `make status` tells how the server is") from error

    def _replaced(self, kind: str, refused: str) -> str | None:
        """The key that has taken the place of a refused one; None if none does."""
        if self.environment.get(kind):
            return None
        deadline = time.monotonic() + ROTATION_SECONDS
        while (key := self.token(kind)) == refused:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        return key


def read_key(path: Path, kind: str) -> str:
    """A key of TorchServe's key file; FileNotFoundError if there is no such file."""
    try:
        return parse_key(path.read_text(), kind)
    except ValueError as error:
        raise UnreachableError(f"{path}: holds no {kind} token; expected one of {', '.join(TOKENS)}") from error


def parse_key(text: str, kind: str) -> str:
    """A key of a key file's text; ValueError if it is not there, or not all of the file is."""
    try:
        return next(str(value["key"]) for name, value in json.loads(text).items() if name.lower() == kind.lower())
    except (LookupError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"no {kind} token") from error


def _with_key(request: dict[str, Any], key: str) -> dict[str, Any]:
    return request | {"headers": request.get("headers", {}) | {"Authorization": f"Bearer {key}"}}


def _is_key_refused(response: requests.Response) -> bool:
    return response.status_code == 400 and "InvalidKeyException" in response.text


def _failure(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "shows another certificate than the configuration's certificate_file, or speaks no TLS"
    if isinstance(error, AnothersError):
        return "has answered another request"
    reason = getattr(error.args[0], "reason", None) if error.args else None  # of the last of several attempts
    if isinstance(error, requests.Timeout) or isinstance(reason, ReadTimeoutError):
        return "was reached, but has not answered in time"
    return f"does not answer ({type(error).__name__})"


class AnothersError(requests.RequestException):
    """The answers on every connection that was tried were other requests'."""


class _Own(HTTPAdapter):
    """Keeps to answers of its own: what answers another request is dropped with its connection, and asked again.

    TorchServe 0.12.0 may answer a request twice when its worker is taken away, and the second answer is then read as
    that of the next request on the connection. One without the header is TorchServe's own, or an older archive's.
    """

    def send(self, request: requests.PreparedRequest, *given: Any, **options: Any) -> requests.Response:
        own = request.headers.setdefault(CORRELATION_HEADER, uuid4().hex)
        for _ in range(1 + (self.max_retries.total or 0)):
            response = super().send(request, *given, **options)
            if response.headers.get(CORRELATION_HEADER, own) == own:
                return response
            response.close()
        raise AnothersError


class _Pinned(_Own):
    """Talks to the holder of one certificate alone, whoever has signed it and whatever the address is called."""

    def __init__(self, fingerprint: str, **options: Any) -> None:
        self.fingerprint = fingerprint
        super().__init__(**options)

    def init_poolmanager(self, *given: Any, **options: Any) -> None:
        super().init_poolmanager(*given, **options, assert_fingerprint=self.fingerprint)


def _fingerprint(certificate: Path) -> str:
    """SHA-256 of the first certificate in a PEM file, the server's own."""
    try:
        first = certificate.read_text().partition(END)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[0] + first[1])).hexdigest()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ServingError(f"{certificate}: {reason}; expected the server's certificate, PEM") from error


def _session(config: Config, retries: int) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy or a .netrc of the user's is not for a server on loopback
    # A picture may be asked about twice, and what is set twice is set; what is registered or removed is not.
    again = Retry(retries, status_forcelist=BUSY, allowed_methods=None, backoff_factor=BACKOFF, raise_on_status=False)
    # 500: taking workers away under load fails in TorchServe 0.12.0 with a ConcurrentModificationException, half done.
    managed = Retry(
        retries, status_forcelist=(500,), allowed_methods=("GET", "PUT"), backoff_factor=BACKOFF, raise_on_status=False
    )
    for api in ("inference", "management", "metrics", "supervisor"):
        options: dict[str, Any] = {"pool_maxsize": CONNECTIONS, "max_retries": again if api == "inference" else managed}
        url = config.url(api)
        if config.certificate is not None and url.startswith("https://"):
            session.mount(url, _Pinned(_fingerprint(config.certificate), **options))
            session.verify = False  # by authorities: the one certificate itself is compared
        else:
            session.mount(url, _Own(**options))
    return session
