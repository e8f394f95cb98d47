"""/draw of the supervisor's address: the page's files, and the page's requests, which get their token here.

Whoever reaches the address needs no token, so the page is there on loopback alone, under a loopback name (a foreign
one may point here: DNS rebinding), and a prediction is made only where the browser says that the page itself asks for
it. The page can ask about images and which versions there are, nothing else.
"""

import asyncio
import ipaddress
import mimetypes
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from digits_client.exceptions import ApiError, DigitsError, UnreachableError
from digits_client.management import ManagementClient
from digits_client.types import make_sort_key
from serving.archive import VERSION_PATTERN
from serving.config import DRAW_PATH as PATH
from serving.config import Config
from serving.start_checks import resolve_address

ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
MAX_CONCURRENT_IMAGES = 4  # images of the page, which others wait for; callers with a token come first
BODY_TIMEOUT_SECONDS = 10.0  # that an image may take to arrive
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
PAGE_FOLDER = Path(__file__).parent / "page"

mimetypes.add_type("text/javascript", ".js")  # some systems know another, or none


def make_draw_routes(config: Config, problem: Callable[[], str | None]) -> list[BaseRoute]:
    """Make the routes of the page; `problem` says why the service is not ready, None if it is."""
    _, (host, _port) = resolve_address(*config.get_ports()["supervisor"])
    if not ipaddress.ip_address(host).is_loopback:
        reason = f"the page needs no token: it is here only while supervisor_address is loopback, not {host}\n"
        return [Mount(PATH, PlainTextResponse(reason, 403)), Route(PATH, PlainTextResponse(reason, 403))]
    page = DrawPage(config, problem)
    guards = [Middleware(PageGuard), Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS, www_redirect=False)]
    below = [
        Route("/state", page.read_state),
        Route("/predictions", page.predict, methods=["POST"]),
        Route("/explanations", page.explain, methods=["POST"]),
        Mount("/", StaticFiles(directory=PAGE_FOLDER, html=True)),
    ]
    index = Route(PATH, lambda _: FileResponse(PAGE_FOLDER / "index.html"), middleware=guards)
    return [index, Mount(PATH, routes=below, middleware=guards)]


class PageGuard:
    """Adds the security headers; refuses a POST that the page itself has not sent: browsers send Origin with each."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        origin, host = headers.get("origin", ""), headers.get("host", "")
        app = self.app
        if scope["method"] == "POST" and origin != f"http://{host}":
            message = f"Origin is {origin or 'missing'}; only the page at http://{host}{PATH} may ask here"
            app = _make_error_response(403, "Forbidden", message, status=403)
        await app(scope, receive, send_with_headers)


class DrawPage:
    """Answers the page's requests.

    An error of the service comes as 200 with its code in the body, as in a batch request: for the page it is nothing
    unusual, and browsers would write it into their console.
    """

    def __init__(self, config: Config, problem: Callable[[], str | None]) -> None:
        self.config, self.problem = config, problem
        self.turns = asyncio.Semaphore(MAX_CONCURRENT_IMAGES)

    def read_state(self, _: Request) -> Response:
        """Name the versions, or the problem."""
        return _make_response(self._find_state)

    async def predict(self, request: Request) -> Response:
        return await self._handle(request, self._predict)

    async def explain(self, request: Request) -> Response:
        return await self._handle(request, self._explain)

    async def _handle(self, request: Request, answer: Callable[[bytes, str, str], Any]) -> Response:
        async with self.turns:
            try:
                picture = await asyncio.wait_for(self._read_body(request), BODY_TIMEOUT_SECONDS)
            except TimeoutError:
                message = f"the picture did not arrive within {BODY_TIMEOUT_SECONDS:g} s"
                return _make_error_response(408, "RequestTimeout", message, status=408)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            if isinstance(picture, Response):
                return picture
            version, target = (request.query_params.get(name, "") for name in ("version", "target"))
            return await run_in_threadpool(_make_response, lambda: answer(picture, version, target))

    async def _read_body(self, request: Request) -> bytes | Response:
        body, size, most = bytearray(), int(request.headers.get("content-length", 0)), self.config.max_body
        if size <= most:
            async for part in request.stream():
                body += part
                if len(body) > most:
                    break
        if max(size, len(body)) > most:
            return _make_error_response(
                413, "InvalidImage", f"the picture has over {most} bytes, the limit", status=413
            )
        return bytes(body)

    def _find_state(self) -> dict[str, Any]:
        if problem := self.problem():
            return {"problem": problem}
        with self._open_client() as client:
            names = sorted(client.list_versions(), key=make_sort_key)
            return {"default": client.get_default().version, "versions": names, "max_bytes": self.config.max_body}

    def _predict(self, picture: bytes, version: str, _: str) -> dict[str, Any]:
        with self._open_client() as client:
            return asdict(client.inference.predict(picture, self._choose_version(client, version), probe=True))

    def _explain(self, picture: bytes, version: str, target: str) -> dict[str, Any]:
        if target and target not in set("0123456789"):
            raise ApiError(400, "InvalidRequest", f"target is {target}; expected a digit")
        with self._open_client() as client:
            version = self._choose_version(client, version)
            found = client.inference.explain(picture, int(target) if target else None, version, probe=True)
        return asdict(found)

    def _choose_version(self, client: ManagementClient, version: str) -> str:
        """Name the version even if it is the default: its own URL keeps the page out of the callers' figures."""
        if version and not VERSION_PATTERN.fullmatch(version):
            raise ApiError(400, "InvalidRequest", f"version is {version}; expected one of {PATH}/state")
        return version or client.get_default().version

    def _open_client(self) -> ManagementClient:
        """Open a client with the current tokens of this server, whatever the environment says."""
        return ManagementClient(server=self.config.make_server())


def _make_response(answer: Callable[[], Any]) -> Response:
    try:
        return JSONResponse(answer())
    except ApiError as error:
        return _make_error_response(error.status, error.type, error.message)
    except UnreachableError as error:
        return _make_error_response(503, "ServiceUnavailableException", str(error))
    except DigitsError as error:
        return _make_error_response(502, "InvalidAnswer", str(error))


def _make_error_response(code: int, kind: str, message: str, status: int = 200) -> Response:
    """Make a response in the service's shape of an error; a sender that is not read to its end is disconnected."""
    headers = {"Connection": "close"} if status in (408, 413) else None
    return JSONResponse({"code": code, "type": kind, "message": message}, status, headers)
