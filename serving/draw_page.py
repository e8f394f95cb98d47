"""Serve the draw page at /draw of the supervisor's address, and add the token to its requests.

The page needs no token. So it is served on loopback addresses only, under a loopback host name (against DNS
rebinding), and its POST requests must carry the page's own Origin. It can only predict, read numbers, explain and list
versions.
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
MAX_CONCURRENT_IMAGES = 4  # further images from the page wait, so that callers with a token are not delayed
BODY_TIMEOUT_SECONDS = 10.0  # in which an image must arrive
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

mimetypes.add_type("text/javascript", ".js")  # some systems map it to another type, or to none


def make_draw_routes(config: Config, find_problem: Callable[[], str | None]) -> list[BaseRoute]:
    """Return the routes of the page; `find_problem` returns why the service is not ready, None if it is."""
    _, (host, _port) = resolve_address(*config.get_ports()["supervisor"])
    if not ipaddress.ip_address(host).is_loopback:
        reason = f"the draw page needs no token, so it is served only if supervisor_address is loopback, not {host}\n"
        return [Mount(PATH, PlainTextResponse(reason, 403)), Route(PATH, PlainTextResponse(reason, 403))]
    page = DrawPage(config, find_problem)
    guards = [Middleware(PageGuard), Middleware(TrustedHostMiddleware, allowed_hosts=ALLOWED_HOSTS, www_redirect=False)]
    below = [
        Route("/state", page.read_state),
        Route("/predictions", page.predict, methods=["POST"]),
        Route("/numbers", page.read_number, methods=["POST"]),
        Route("/explanations", page.explain, methods=["POST"]),
        Mount("/", StaticFiles(directory=PAGE_FOLDER, html=True)),
    ]
    index = Route(PATH, lambda _: FileResponse(PAGE_FOLDER / "index.html"), middleware=guards)
    return [index, Mount(PATH, routes=below, middleware=guards)]


class PageGuard:
    """Middleware that adds the security headers and rejects a POST whose Origin is not the page's."""

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
            message = f"Origin is {origin or 'missing'}; only the page at http://{host}{PATH} may send requests here"
            app = _make_error_response(403, "Forbidden", message, status=403)
        await app(scope, receive, send_with_headers)


class DrawPage:
    """Handles the page's requests; service errors have status 200, since browsers would log any other."""

    def __init__(self, config: Config, find_problem: Callable[[], str | None]) -> None:
        self.config, self.find_problem = config, find_problem
        self.semaphore = asyncio.Semaphore(MAX_CONCURRENT_IMAGES)

    def read_state(self, _: Request) -> Response:
        return _make_response(self._describe_state)

    async def predict(self, request: Request) -> Response:
        return await self._handle(request, self._predict)

    async def read_number(self, request: Request) -> Response:
        return await self._handle(request, self._read_number)

    async def explain(self, request: Request) -> Response:
        return await self._handle(request, self._explain)

    async def _handle(self, request: Request, call: Callable[[bytes, str, str], Any]) -> Response:
        async with self.semaphore:
            try:
                image = await asyncio.wait_for(self._read_body(request), BODY_TIMEOUT_SECONDS)
            except TimeoutError:
                message = f"the image did not arrive within {BODY_TIMEOUT_SECONDS:g} s"
                return _make_error_response(408, "RequestTimeout", message, status=408)
            except ClientDisconnect:
                return Response(status_code=400)  # the client is gone
            if isinstance(image, Response):
                return image
            version, target = (request.query_params.get(name, "") for name in ("version", "target"))
            return await run_in_threadpool(_make_response, lambda: call(image, version, target))

    async def _read_body(self, request: Request) -> bytes | Response:
        body, size, limit = bytearray(), int(request.headers.get("content-length", 0)), self.config.max_body
        if size <= limit:
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    break
        if max(size, len(body)) > limit:
            message = f"the image exceeds the limit of {limit} bytes"
            return _make_error_response(413, "InvalidImage", message, status=413)
        return bytes(body)

    def _describe_state(self) -> dict[str, Any]:
        if problem := self.find_problem():
            return {"problem": problem}
        with self._open_client() as client:
            names = sorted(client.list_versions(), key=make_sort_key)
            return {"default": client.get_default().version, "versions": names, "max_bytes": self.config.max_body}

    def _predict(self, image: bytes, version: str, _: str) -> dict[str, Any]:
        with self._open_client() as client:
            return asdict(client.inference.predict(image, _choose_version(client, version), probe=True))

    def _read_number(self, image: bytes, version: str, _: str) -> dict[str, Any]:
        with self._open_client() as client:
            return asdict(client.inference.read_number(image, _choose_version(client, version), probe=True))

    def _explain(self, image: bytes, version: str, target: str) -> dict[str, Any]:
        if target and target not in set("0123456789"):
            raise ApiError(400, "InvalidRequest", f"target is {target}; expected a digit")
        with self._open_client() as client:
            version = _choose_version(client, version)
            explanation = client.inference.explain(image, int(target) if target else None, version, probe=True)
        return asdict(explanation)

    def _open_client(self) -> ManagementClient:
        """Open a client with this server's current tokens, ignoring those in the environment."""
        return ManagementClient(server=self.config.make_server())


def _choose_version(client: ManagementClient, version: str) -> str:
    """Return the version for the URL; without one, TorchServe would count the request for the default."""
    if version and not VERSION_PATTERN.fullmatch(version):
        raise ApiError(400, "InvalidRequest", f"version is {version}; expected one of {PATH}/state")
    return version or client.get_default().version


def _make_response(call: Callable[[], Any]) -> Response:
    try:
        return JSONResponse(call())
    except ApiError as error:
        return _make_error_response(error.status, error.type, error.message)
    except UnreachableError as error:
        return _make_error_response(503, "ServiceUnavailableException", str(error))
    except DigitsError as error:
        return _make_error_response(502, "InvalidAnswer", str(error))


def _make_error_response(code: int, kind: str, message: str, status: int = 200) -> Response:
    """Make a response with the service's error fields; close the connection if the body was not read to its end."""
    headers = {"Connection": "close"} if status in (408, 413) else None
    return JSONResponse({"code": code, "type": kind, "message": message}, status, headers)
