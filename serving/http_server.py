"""The supervisor's HTTP server, port 8083: /live, /ready, /state, /metrics and the draw page."""

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

STOP_SECONDS = 1  # for requests in progress


class HttpApp:
    """The endpoints. They accept any Host, since load balancers use various names; only the draw page checks it."""

    def __init__(self, registry: CollectorRegistry, tokens: Tokens, readiness: Readiness, store: StateStore) -> None:
        self.registry, self.tokens, self.readiness, self.store = registry, tokens, readiness, store

    def find_problem(self) -> str | None:
        """Return why the service is not usable now, None if it is."""
        return self.tokens.problem or self.readiness.find_problem()

    def get_live(self, _: Request) -> Response:
        return PlainTextResponse("live\n")

    def get_ready(self, _: Request) -> Response:
        """Return the problem, or `ready`; then any warning that needs an operator although the service is ready."""
        problem = self.find_problem()
        unsaved = f"changes are not kept: {self.store.problem}" if self.store.problem else None
        text = "; warning: ".join(filter(None, (problem or "ready", self.tokens.warning or unsaved)))
        return PlainTextResponse(f"{text}\n", 503 if problem else 200)

    def get_state(self, _: Request) -> Response:
        """Save the latest changes; return the state (its fields: digits_client/status.py)."""
        try:
            with self.tokens.open_client() as client:
                return JSONResponse(self.store.describe_state(client))
        except DigitsError as error:
            body = {"code": 503, "type": "ServiceUnavailableException", "message": str(error)}
            return JSONResponse(body, 503)

    def get_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    @contextmanager
    def run_in_thread(self, config: Config) -> Iterator[None]:
        """Serve in a thread while the block runs."""
        routes = [Route("/live", self.get_live), Route("/ready", self.get_ready)]
        routes += [Route("/state", self.get_state), Route("/metrics", self.get_metrics)]
        options = {"http": "h11", "loop": "asyncio", "ws": "none", "lifespan": "off", "log_config": None}
        settings = uvicorn.Config(
            Starlette(routes=[*routes, *make_draw_routes(config, self.find_problem)]),
            access_log=False,
            log_level="critical",  # no line for a client that disconnects
            timeout_graceful_shutdown=STOP_SECONDS,
            **options,  # type: ignore[arg-type]
        )
        server = uvicorn.Server(settings)
        family, address = resolve_address(*config.get_ports()["supervisor"])
        with socket.create_server(address, family=family, backlog=settings.backlog) as listener:
            thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
            thread.start()
            try:
                yield
            finally:
                server.should_exit = True
                thread.join(2 * STOP_SECONDS)
