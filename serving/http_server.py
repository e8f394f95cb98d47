"""The supervisor's own HTTP address, 8083: /live, /ready, /state, /metrics and the page to draw on."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from digits_client.exceptions import DigitsError
from serving.config import Config
from serving.draw_page import make_draw_routes
from serving.service_status import ServiceStatus
from serving.start_checks import resolve_address

STOP_SECONDS = 1  # for requests that are being answered


def make_app(config: Config, registry: CollectorRegistry, status: ServiceStatus) -> Starlette:
    """Make the application.

    Probes come by whatever name a load balancer knows, so only the page checks Host.
    """

    def live(_: Request) -> Response:
        return PlainTextResponse("live\n")

    def ready(_: Request) -> Response:
        problem, warning = status.find_problem(), status.find_warning()
        text = "; warning: ".join(filter(None, (problem or "ready", warning)))
        return PlainTextResponse(f"{text}\n", 503 if problem else 200)

    def state(_: Request) -> Response:
        try:
            return JSONResponse(status.describe_state())
        except DigitsError as error:
            body = {"code": 503, "type": "ServiceUnavailableException", "message": str(error)}
            return JSONResponse(body, 503)

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/live", live), Route("/ready", ready), Route("/metrics", metrics), Route("/state", state)]
    return Starlette(routes=[*routes, *make_draw_routes(config, status.find_problem)])


@contextmanager
def run_http_server(config: Config, registry: CollectorRegistry, status: ServiceStatus) -> Iterator[None]:
    """Serve the application in a thread while the block runs."""
    options = {"http": "h11", "loop": "asyncio", "ws": "none", "lifespan": "off", "log_config": None}
    settings = uvicorn.Config(
        make_app(config, registry, status),
        access_log=False,
        log_level="critical",  # a client that hangs up is its own business
        timeout_graceful_shutdown=STOP_SECONDS,
        **options,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(settings)
    family, address = resolve_address(*config.ports()["supervisor"])
    with socket.create_server(address, family=family, backlog=settings.backlog) as listening:
        thread = threading.Thread(target=server.run, args=[[listening]], daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(2 * STOP_SECONDS)
