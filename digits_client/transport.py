"""HTTP transport to one server: addresses, tokens, connection pools, retries and errors."""

import json
import os
import re
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Retry

from digits_client.adapters import CorrelatedAdapter, MismatchedResponseError, PinnedCertificateAdapter
from digits_client.exceptions import TOKEN_VARIABLES, ApiError, DigitsError, UnexpectedResponseError, UnreachableError

PROBE_HEADER = "X-Digits-Probe"  # as in handler/protocol.py; probes are counted separately
READ_HEADER = "X-Digits-Read"  # as in handler/protocol.py; demands a number instead of a digit
MAX_BODY_BYTES = 16 * 2**20
SERVER_FILE = "server.json"
TIMEOUT = 10.0  # seconds per request
RETRIES = 3  # repetitions of a failed request, after waits of 0, 0.4 and 0.8 s
_BACKOFF = 0.2
# No worker, a full queue, or the image's worker died: TorchServe 0.12.0's codes. 429: nginx's, for too many requests.
_BUSY = (429, 500, 503, 507)
_ROTATION_SECONDS = 2.0  # seconds; a token rejected for longer is wrong, not just replaced
_CONNECTIONS = 64  # largest number of pooled connections


@dataclass(frozen=True)
class Server:
    """Addresses and tokens of a server; tokens are given, or read from its key file on the same machine.

    `certificate` is a PEM file: the certificate that the server must present.
    """

    inference: str = "http://127.0.0.1:8080"
    management: str = "http://127.0.0.1:8081"
    metrics: str = "http://127.0.0.1:8082"
    supervisor: str = "http://127.0.0.1:8083"
    certificate: str = ""
    key_file: str = ""
    inference_token: str = field(default="", repr=False)
    management_token: str = field(default="", repr=False)


def find_server(url: str | None = None, api: str = "inference") -> Server:
    """Return the server of this checkout, or of DIGITS_HOME; with the `url` of an `api`, the server there.

    A running server writes its addresses into server.json. Of a server elsewhere, the other APIs are expected on the
    same host at their usual ports. Tokens of the environment are added.
    """
    local = add_environment_tokens(_read_local_server())
    if url is None or _name_loopback(url) == _name_loopback(getattr(local, api)):
        return local
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") and parts.port != 0 else None
    except ValueError:  # a port over 65535, half of an IPv6 address
        host = None
    if not host:
        raise DigitsError(f"{url}: not a server address; expected an address such as {getattr(Server, api)}")
    host = f"[{host}]" if ":" in host else host
    scheme = {"inference": parts.scheme, "management": parts.scheme}
    names = ("inference", "management", "metrics", "supervisor")
    ports = {name: urlsplit(getattr(Server, name)).port for name in names}
    others = {name: f"{scheme.get(name, 'http')}://{host}:{port}" for name, port in ports.items()}
    return add_environment_tokens(Server(**others | {api: url.rstrip("/")}))


def _name_loopback(url: str) -> str:
    return url.rstrip("/").replace("//localhost:", "//127.0.0.1:")


def add_environment_tokens(server: Server) -> Server:
    """Return the server with the tokens of DIGITS_INFERENCE_TOKEN and DIGITS_MANAGEMENT_TOKEN, where they are set."""
    tokens = {f"{kind}_token": os.environ[name] for kind, name in TOKEN_VARIABLES.items() if os.environ.get(name)}
    return replace(server, **tokens)


def write_server(server: Server, home: Path) -> None:
    """Write server.json, from which clients on this machine find the server; tokens are left out."""
    addresses = {name: value for name, value in asdict(server).items() if not name.endswith("_token")}
    (home / SERVER_FILE).write_text(f"{json.dumps(addresses, indent=2)}\n", encoding="utf-8")


def _read_local_server() -> Server:
    checkout = Path(__file__).resolve().parents[1]
    is_checkout = (checkout / "config.properties").is_file()
    home = os.environ.get("DIGITS_HOME") or (checkout if is_checkout else None)
    if home is None:
        return Server()
    try:
        written = json.loads((Path(home) / SERVER_FILE).read_text(encoding="utf-8"))
        return Server(**{name: str(value) for name, value in written.items()})
    except (OSError, ValueError, AttributeError, TypeError):  # no server ran there
        return Server(key_file=str(Path(home) / "key_file.json"))


class TokenSource:
    """A token of one kind: the given one, or the one in the server's key file, which the server replaces."""

    def __init__(self, kind: str, given: str | None, server: Server) -> None:
        self.kind, self.key_file = kind, server.key_file
        self.fixed = given or {"inference": server.inference_token, "management": server.management_token}[kind]
        self.current: str | None = None  # last read from the key file
        if not re.fullmatch("[!-~]*", self.fixed):  # not allowed in a header
            raise DigitsError(f"the {kind} token has other characters than visible ASCII; expected one line as printed")

    def read(self) -> str:
        """Return the token, or an empty string; raise UnreachableError if the key file cannot be read."""
        if self.fixed or not self.key_file:
            return self.fixed
        self.current = self.current or read_token(Path(self.key_file), self.kind)
        return self.current

    def wait_for_new(self, rejected: str) -> str | None:
        """Return the token that replaced a rejected one, or None."""
        if self.fixed or not self.key_file:
            return None
        deadline = time.monotonic() + _ROTATION_SECONDS
        while (token := read_token(Path(self.key_file), self.kind)) == rejected:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)
        self.current = token
        return token


def read_token(path: Path, kind: str) -> str:
    """Read a token from TorchServe's key file; raise UnreachableError if it cannot be read."""
    try:
        return parse_token(path.read_text(encoding="utf-8"), kind)
    except FileNotFoundError as error:
        raise UnreachableError(
            f"{path}: no tokens: the server is not running or is starting; `make status` says which"
        ) from error
    except OSError as error:
        variable = TOKEN_VARIABLES.get(kind, TOKEN_VARIABLES["management"])
        raise UnreachableError(
            f"{path}: {error.strerror}: only the user who runs the server reads it; have that user run `make -s token` "
            f"(KIND=management for the other token) and set {variable}"
        ) from error
    except ValueError as error:
        raise UnreachableError(f"{path}: holds no {kind} token; expected TorchServe's key file") from error


def parse_token(text: str, kind: str) -> str:
    """Parse a token from a key file's text; raise ValueError if it is missing or the file is incomplete."""
    try:
        return next(str(value["key"]) for name, value in json.loads(text).items() if name.lower() == kind.lower())
    except (LookupError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"no {kind} token") from error


class ClosingClient:
    """Closes its connections at the end of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of all attributes."""
        for part in vars(self).values():
            if isinstance(part, ClosingClient | requests.Session):
                part.close()


class ApiClient(ClosingClient):
    """One API of a server over HTTP. May be shared by threads."""

    def __init__(
        self, url: str, tokens: TokenSource | None, timeout: float, retry: Retry, certificate: str = ""
    ) -> None:
        self.url, self.tokens, self.timeout = url, tokens, timeout
        self.session = requests.Session()  # shared by threads: TorchServe sets no cookies
        self.session.trust_env = False  # a .netrc would replace the token
        options: dict[str, Any] = {"pool_maxsize": _CONNECTIONS, "max_retries": retry}
        if certificate and url.startswith("https://"):
            self.session.mount(url, PinnedCertificateAdapter(Path(certificate), **options))
            self.session.verify = False  # the certificate itself is compared instead
        else:
            self.session.mount(url, CorrelatedAdapter(**options))

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Return the response, whatever its status; raise UnreachableError if there is none."""
        if self.tokens is None or "Authorization" in options.get("headers", {}):
            return self._send(method, path, options)
        token = self.tokens.read()
        while True:  # a repeated request may outlive several tokens
            response = self._send(method, path, _add_token(options, token))
            if not (_is_token_rejected(response) and (new := self.tokens.wait_for_new(token))):
                return response
            token = new

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Return the API's response; raise ApiError for any status of 400 and above."""
        response = self.request(method, path, **options)
        if response.status_code >= 400:
            raise error_from_response(response)
        return response

    def call_json(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON of the API's response; raise UnexpectedResponseError if it is not JSON."""
        try:
            return self.call(method, path, **options).json()
        except ValueError as error:
            message = f"{self.url}{path}: no JSON in the response; is this the digit service?"
            raise UnexpectedResponseError(message) from error

    def _send(self, method: str, path: str, options: dict[str, Any]) -> requests.Response:
        try:
            return self.session.request(method, self.url + path, **{"timeout": self.timeout} | options)
        except (requests.RequestException, HTTPError) as error:
            message = f"{self.url}{path} {_describe_failure(error)}; `make status` says how the server is"
            raise UnreachableError(message) from error


def retry_all(retries: int) -> Retry:
    """Return the retry policy for predictions, which may be repeated."""
    return Retry(retries, status_forcelist=_BUSY, allowed_methods=None, backoff_factor=_BACKOFF, raise_on_status=False)


def retry_repeatable(retries: int) -> Retry:
    """Return the retry policy for the management API: POST and DELETE are not repeated.

    500: taking workers away under load fails in TorchServe 0.12.0 with a ConcurrentModificationException, half done.
    """
    methods = ("GET", "PUT")
    return Retry(
        retries, status_forcelist=(500,), allowed_methods=methods, backoff_factor=_BACKOFF, raise_on_status=False
    )


def error_from_response(response: requests.Response) -> ApiError:
    """Return the error of a response, from whichever program it comes."""
    try:
        body = response.json()
    except ValueError:  # TorchServe's own 413 has no body
        body = {}
    fields = body if isinstance(body, dict) else {}
    too_large = f"the body is over the server's limit, {MAX_BODY_BYTES // 2**20} MiB by default"
    message = str(fields.get("message", "")).strip() or (too_large if response.status_code == 413 else response.text)
    return ApiError(response.status_code, str(fields.get("type", response.reason)), message)


def _add_token(options: dict[str, Any], token: str) -> dict[str, Any]:
    authorization = {"Authorization": f"Bearer {token}"} if token else {}
    return options | {"headers": options.get("headers", {}) | authorization}


def _is_token_rejected(response: requests.Response) -> bool:
    return response.status_code == 400 and "InvalidKeyException" in response.text


def _describe_failure(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "has another certificate than the expected one, or does not use TLS"
    if isinstance(error, MismatchedResponseError):
        return "returned the response of another request"
    reason = getattr(error.args[0], "reason", None) if error.args else None  # of the last attempt
    if isinstance(error, requests.Timeout) or isinstance(reason, ReadTimeoutError):
        return "did not respond in time"
    return f"does not answer ({type(error).__name__})"
