"""The supervisor's own HTTP address, 8083: /live, /ready, /metrics and the page to draw on."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serving.config import Config
from serving.draw_page import make_draw_routes

STOP_SECONDS = 1  # for requests that are being answered


def make_app(config: Config, registry: CollectorRegistry, problem: Callable[[], str | None]) -> Starlette:
    """Make the application; `problem` says why the service is not ready, None if it is.

    Probes come by whatever name a load balancer knows, so only the page checks Host.
    """

    def live(_: Request) -> Response:
        return PlainTextResponse("live\n")

    def ready(_: Request) -> Response:
        reason = problem()
        return PlainTextResponse(f"{reason or 'ready'}\n", 503 if reason else 200)

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    routes = [Route("/live", live), Route("/ready", ready), Route("/metrics", metrics)]
    return Starlette(routes=[*routes, *make_draw_routes(config, problem)])


@contextmanager
def run_http_server(config: Config, registry: CollectorRegistry, problem: Callable[[], str | None]) -> Iterator[None]:
    """Serve the application in a thread while the block runs."""
    options = {"http": "h11", "loop": "asyncio", "ws": "none", "lifespan": "off", "log_config": None}
    settings = uvicorn.Config(
        make_app(config, registry, problem),
        access_log=False,
        log_level="critical",  # a client that hangs up is its own business
        timeout_graceful_shutdown=STOP_SECONDS,
        **options,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(settings)
    with socket.create_server(config.ports()["supervisor"], backlog=settings.backlog) as listening:
        thread = threading.Thread(target=server.run, args=[[listening]], daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(2 * STOP_SECONDS)
