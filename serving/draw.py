"""/draw of the supervisor's address: the page's files, and the page's questions, which get their token here.

Whoever reaches the address is answered without a token, so the page is there on loopback alone, under a loopback
name (a foreign one may have been made to point here: DNS rebinding), and a question counts only where the browser says
that the page itself asks it. The page can ask about pictures and which versions there are, nothing else.
"""

import ipaddress
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from email.message import Message
from io import BufferedIOBase
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serving.archive import VERSION, by_number
from serving.client import DigitsClient
from serving.config import Config, ServingError
from serving.connection import RefusedError, UnreachableError

Told = tuple[int, str, bytes]  # status, content type, body

PATH = "/draw"
QUESTIONS = (f"{PATH}/predictions", f"{PATH}/explanations")  # to POST, with a picture
AT_ONCE = 4  # questions of the page; callers with a token come first
TURN_SECONDS = 5.0  # that a question waits for its turn
BODY_SECONDS = 10.0  # that a picture may take to arrive
PART_BYTES = 1 << 16
MOST_DIGITS = 15  # of a length
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}


class Draw:
    """Answers what begins with PATH; `problem` is why the service is not ready, None if it is.

    What the service refuses comes as 200 with its code in the body, as in a call of many pictures: it is the page's
    daily bread, and browsers would write an error into their console.
    """

    def __init__(self, config: Config, problem: Callable[[], str | None]) -> None:
        self.config, self.problem = config, problem
        self.files = {_address(path): path.read_bytes() for path in _PAGE.rglob("*.*")}
        self.turns = threading.BoundedSemaphore(AT_ONCE)

    def get(self, path: str, headers: Message) -> Told:
        """A file of the page, or the state of the service."""
        if problem := self._outside(headers):
            return _refusal(403, "Forbidden", problem)
        if path == f"{PATH}/state":
            return _answered(self._state)
        name = path.rstrip("/")
        if name not in self.files:
            return _refusal(404, "ResourceNotFoundException", f"nothing is at {path}; the page is at {PATH}")
        return 200, _TYPES[Path(name).suffix or ".html"], self.files[name]

    def post(self, target: str, headers: Message, body: BufferedIOBase) -> Told:
        """The answer to one of QUESTIONS about the picture in the body; ConnectionError if that does not come."""
        if problem := self._outside(headers) or _not_own(headers):
            return _refusal(403, "Forbidden", problem)
        if not self.turns.acquire(timeout=TURN_SECONDS):
            return _json(
                200, _refused(429, "TooManyRequests", f"{AT_ONCE} pictures of the page are being read; ask again")
            )
        try:
            picture = self._picture(headers, body)
            return picture if isinstance(picture, tuple) else _answered(lambda: self._asked(target, picture))
        finally:
            self.turns.release()

    def _outside(self, headers: Message) -> str | None:
        """What is wrong with the address by which the page is asked, None if it is this machine's own."""
        bound, _ = self.config.ports()["supervisor"]
        if not _is_loopback(bound):
            return f"the page asks without a token: it is here only while supervisor_address is loopback, not {bound}"
        name = headers.get("Host", "")
        if not _is_loopback(_host(name)):
            return f"Host is {name or 'missing'}; expected 127.0.0.1 or localhost"
        return None

    def _picture(self, headers: Message, body: BufferedIOBase) -> bytes | Told:
        """The body, or why it is not read."""
        length = headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > MOST_DIGITS:
            return _refusal(411, "InvalidRequest", f"Content-Length is {length or 'missing'}; expected bytes")
        if int(length) > self.config.max_body:
            return _refusal(
                413, "InvalidImage", f"the picture has {length} bytes; at most {self.config.max_body} are read"
            )
        return _received(body, int(length))

    def _state(self) -> dict[str, Any]:
        if problem := self.problem():
            return {"problem": problem}
        with self._client() as client:
            names = sorted(client.models(), key=by_number)
            return {"default": client.default().version, "versions": names, "max_bytes": self.config.max_body}

    def _asked(self, target: str, picture: bytes) -> dict[str, Any]:
        """Asked as a probe, and by a version's own URL: who tries the page out must not move the callers' figures."""
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        version, digit = query.get("version", ""), query.get("target", "")
        if version and not VERSION.fullmatch(version):
            raise RefusedError(400, "InvalidRequest", f"version is {version}; expected one of {PATH}/state")
        if digit and digit not in set("0123456789"):
            raise RefusedError(400, "InvalidRequest", f"target is {digit}; expected a digit")
        with self._client() as client:
            version = version or client.default().version
            if url.path == QUESTIONS[0]:
                return asdict(client.predict(picture, version, probe=True))
            told = client.explain(picture, int(digit) if digit else None, version, probe=True)
            return vars(told) | {"attribution": told.attribution.tolist(), "framed": told.framed.tolist()}

    def _client(self) -> DigitsClient:
        """By the keys and the certificate of now; the server's own, whatever the environment says."""
        return DigitsClient(self.config, key_file=self.config.key_file)


def _received(body: BufferedIOBase, length: int) -> bytes:
    """So many bytes; ConnectionError where they end before, or take longer than BODY_SECONDS."""
    deadline, parts = time.monotonic() + BODY_SECONDS, []
    while length > 0:
        part = body.read1(min(length, PART_BYTES))
        if not part or time.monotonic() > deadline:
            raise ConnectionError("the picture did not come to its end")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _refusal(status: int, kind: str, message: str) -> Told:
    """In the service's shape."""
    return _json(status, _refused(status, kind, message))


def _answered(ask: Callable[[], Any]) -> Told:
    try:
        return _json(200, ask())
    except RefusedError as error:
        return _json(200, _refused(error.status, error.type, error.message))
    except UnreachableError as error:
        return _json(200, _refused(503, "ServiceUnavailableException", str(error)))
    except ServingError as error:
        return _json(200, _refused(502, "InvalidAnswer", str(error)))


def _refused(status: int, kind: str, message: str) -> dict[str, Any]:
    return {"code": status, "type": kind, "message": message}


def _json(status: int, value: Any) -> Told:
    return status, "application/json", json.dumps(value).encode()


def _not_own(headers: Message) -> str | None:
    """What tells that another site's page asks, or none; browsers send Origin with every POST."""
    origin, host = headers.get("Origin", ""), headers.get("Host", "")
    if origin != f"http://{host}":
        return f"Origin is {origin or 'missing'}; only the page at http://{host}{PATH} may ask here"
    return None


def _host(name: str) -> str:
    """Without its port."""
    with suppress(ValueError):
        return urlsplit(f"//{name}").hostname or ""
    return ""


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return False


def _address(path: Path) -> str:
    """Where a file of the page is served."""
    name = path.relative_to(_PAGE).as_posix()
    return PATH if name == "index.html" else f"{PATH}/{name}"
