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
from serving.readiness import Readiness
from serving.start_checks import resolve_address
from serving.state_store import StateStore
from serving.tokens import Tokens

STOP_SECONDS = 1  # for requests that are being answered


class HttpApp:
    """Answers probes; they come by whatever name a load balancer knows, so only the page checks Host."""

    def __init__(self, registry: CollectorRegistry, tokens: Tokens, readiness: Readiness, keeper: StateStore) -> None:
        self.registry, self.tokens, self.readiness, self.keeper = registry, tokens, readiness, keeper

    def find_problem(self) -> str | None:
        """Return why callers cannot use the service now, None if they can."""
        return self.tokens.problem or self.readiness.find_problem()

    def get_live(self, _: Request) -> Response:
        return PlainTextResponse("live\n")

    def get_ready(self, _: Request) -> Response:
        """Return the problem, else `ready`; after it, what an operator must mend although the service answers."""
        problem = self.find_problem()
        unkept = f"changes are not kept: {self.keeper.problem}" if self.keeper.problem else None
        text = "; warning: ".join(filter(None, (problem or "ready", self.tokens.warning or unkept)))
        return PlainTextResponse(f"{text}\n", 503 if problem else 200)

    def get_state(self, _: Request) -> Response:
        """Return the kept state (digits_client/status.py), after the latest changes are kept."""
        try:
            with self.tokens.open_client() as client:
                return JSONResponse(self.keeper.describe_state(client))
        except DigitsError as error:
            body = {"code": 503, "type": "ServiceUnavailableException", "message": str(error)}
            return JSONResponse(body, 503)

    def get_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    @contextmanager
    def run_in_thread(self, config: Config) -> Iterator[None]:
        """Serve in a thread while the block runs."""
        endpoints = (self.get_live, self.get_ready, self.get_state, self.get_metrics)
        routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in endpoints]
        options = {"http": "h11", "loop": "asyncio", "ws": "none", "lifespan": "off", "log_config": None}
        settings = uvicorn.Config(
            Starlette(routes=[*routes, *make_draw_routes(config, self.find_problem)]),
            access_log=False,
            log_level="critical",  # a client that hangs up is its own business
            timeout_graceful_shutdown=STOP_SECONDS,
            **options,  # type: ignore[arg-type]
        )
        server = uvicorn.Server(settings)
        family, address = resolve_address(*config.get_ports()["supervisor"])
        with socket.create_server(address, family=family, backlog=settings.backlog) as listening:
            thread = threading.Thread(target=server.run, args=[[listening]], daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.should_exit = True
                thread.join(2 * STOP_SECONDS)
