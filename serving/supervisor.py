"""Owns TorchServe: starts it with what was served before, restarts it, drains and stops it."""

import sys
import time
from collections import deque
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics

from handler.protocol import REQUEST_LOG_LEVEL, REQUEST_LOG_PATH
from serving.archive import archive_path, by_number, check_archive
from serving.config import DRAW_PATH, MODEL, Config, ServingError
from serving.connection import UnreachableError
from serving.drain import wait_idle
from serving.http_server import run_http_server
from serving.lock import Lock, locked
from serving.readiness import Readiness
from serving.rotation import Rotation
from serving.signals import ShutdownRequest, handle_signals, take_terminal
from serving.state import State, discard_snapshots, keep_up, read_state, write_state
from serving.tokens import Tokens
from serving.torchserve import TorchServe, check_ports
from serving.watch import Watch, build_info
from serving.worker_metrics import WorkerMetrics

FIRST = "1.0"  # served where nothing has been before
READY_SECONDS = 120.0  # until a start is given up
DRAIN_SECONDS = 30.0
RESTARTS, RESTART_SECONDS = 5, 600.0  # so many within so many seconds, then the supervisor gives up
RESTART_DELAY_SECONDS = 1.0  # more before each restart than before the last
POLL_SECONDS = 0.1


class Supervisor:
    """One server, from free ports to the end of all its processes. `version` becomes the default if it is named.

    `start_server` starts TorchServe; tests replace it.
    """

    def __init__(
        self,
        config: Config,
        version: str | None = None,
        start_server: Callable[[Config, State, dict[str, str]], TorchServe] = TorchServe,
    ) -> None:
        self.config, self.version, self.start_server = config, version, start_server
        self.server: TorchServe | None = None
        self.state = State({})  # as it is kept
        self.unproven = False  # while a version that was named has not answered yet
        self.is_ready = False  # since the last start
        self.deaths: deque[float] = deque()  # when TorchServe died, within RESTART_SECONDS
        self.warnings: set[str] = set()
        self.readiness = Readiness(config, lambda: self.server)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each counter, of no use here
        self.registry = CollectorRegistry()
        self.workers = WorkerMetrics(config.worker_metrics)
        self.registry.register(self.workers)
        self.tokens = Tokens(config, lambda: self.server, self.readiness.lock, self.registry, self._warn_once)
        self.watch = Watch(config, lambda: self.server, self.readiness, self.workers, self.registry, self._warn_once)
        self.rotation = Rotation(config.request_log)
        build_info(self.registry)
        self.restarts = Counter("digits_server_restarts", "restarts of a TorchServe that died", registry=self.registry)

    def run(self, request: ShutdownRequest, welcome: Callable[[], None] = lambda: None) -> None:
        """Serve until shutdown is requested; call `welcome` when all workers answer for the first time.

        ServingError if the server cannot be started, or dies too often.
        """
        with locked(self.config) as lock:
            check_ports(self.config)
            self.state = keep_up(self.config, read_state(self.config))  # what a killed server has left
            discard_snapshots(self.config)  # and did not write to its end
            wanted = self._choose_state()
            self.workers.begin()
            with run_http_server(self.config, self.registry, self.readiness.problem), self.watch.looking():
                self.supervise(lock, wanted, request, welcome)

    def supervise(self, lock: Lock, wanted: State, request: ShutdownRequest, welcome: Callable[[], None]) -> None:
        """Start, wait until ready, look after, drain and stop the server."""
        try:
            self._start(lock, wanted)
            if self._wait_ready(request):
                self._accept(wanted)
                welcome()
            while not request.stop.wait(POLL_SECONDS):
                self._look_after(lock, request)
            self._drain(request)
        finally:
            self._end()

    def _choose_state(self) -> State:
        """Return what was served before, with the version that was named as the default."""
        state = self._drop_lost()
        version = self.version or state.default or FIRST
        if version == state.default:
            return state
        path = archive_path(self.config.model_store, version)
        self.unproven = True
        return state.with_default(check_archive(self.config.model_store, path.name))

    def _drop_lost(self) -> State:
        """Return what was served before, without archives that vanished or changed."""
        state, lines = self.state.without_lost(self.config.model_store)
        for line in lines:
            _log(line)
        return state

    def _start(self, lock: Lock, state: State) -> None:
        _log(f"starting TorchServe with {MODEL} {', '.join(sorted(state.versions, key=by_number))}")
        log = {REQUEST_LOG_PATH: str(self.config.request_log), REQUEST_LOG_LEVEL: self.config.request_log_level}
        self.server = self.start_server(self.config, state, self.workers.environment() | log)
        lock.name(self.server)
        self.tokens.note_creation(time.time())

    def _wait_ready(self, request: ShutdownRequest) -> bool:
        """Wait until all workers answer, or as many as do in READY_SECONDS; False if shutdown is requested first."""
        deadline = time.monotonic() + READY_SECONDS
        last_problem = None
        while problem := self.readiness.problem(all_workers=True):
            self.tokens.publish()
            if self._exit_code() is not None:
                raise ServingError(f"TorchServe ended while starting, with code {self._exit_code()}; see logs/")
            if time.monotonic() > deadline:
                if self.readiness.problem() is None:
                    _log(f"going on: {problem} after {READY_SECONDS:.0f} s; see logs/torchserve.log")
                    break
                raise ServingError(f"not ready after {READY_SECONDS:.0f} s: {problem}; see logs/torchserve.log")
            if problem != last_problem:
                _log(f"  {problem}")
                last_problem = problem
            if request.stop.wait(POLL_SECONDS):
                return False
        self.is_ready = True
        return True

    def _accept(self, state: State) -> None:
        """Keep what has answered, until promote, rollback and the like change it."""
        self.state, self.unproven = state, False
        write_state(self.config, state)

    def _look_after(self, lock: Lock, request: ShutdownRequest) -> None:
        if self._exit_code() is not None:
            self._restart(lock, request)
        elif not self.is_ready and self.readiness.problem() is None:
            self.is_ready = True
            _log("READY again")
        self.tokens.publish()
        self._keep_changes()
        self._rotate_log()
        self.tokens.rotate_if_due(request.rotate)

    def _restart(self, lock: Lock, request: ShutdownRequest) -> None:
        """Start a TorchServe that died again, with what it served last; give up after RESTARTS."""
        code, now = self._exit_code(), time.monotonic()
        while self.deaths and now - self.deaths[0] > RESTART_SECONDS:
            self.deaths.popleft()
        if len(self.deaths) == RESTARTS:
            raise ServingError(
                f"TorchServe ended by itself, with code {code}, for the {RESTARTS + 1}th time in "
                f"{now - self.deaths[0]:.0f} s; see logs/torchserve.log"
            )
        _log(f"TorchServe ended by itself, with code {code}; it is started again")
        self.is_ready = False
        self._stop_server()
        self._keep_changes()
        if request.stop.wait(RESTART_DELAY_SECONDS * len(self.deaths)):
            return
        self.deaths.append(now)
        self.restarts.inc()
        left = self._drop_lost()
        if not left.versions:
            raise ServingError(f"nothing is left to serve in {self.config.model_store}; `make serve` starts anew")
        self._start(lock, left)

    def _keep_changes(self) -> None:
        """Keep what TorchServe has written since the last time; a disk that refuses is tried again the next time."""
        try:
            self.state = keep_up(self.config, self.state)
        except OSError as error:
            self._warn_once(f"changes are not kept: {error}")

    def _rotate_log(self) -> None:
        try:
            self.rotation.look()
        except OSError as error:
            self._warn_once(f"the log of requests is not renamed: {error}")

    def _drain(self, request: ShutdownRequest) -> None:
        """Let no new request in, and wait until the others are answered; Ctrl-C ends the wait."""
        self.readiness.draining = True
        if self.server is None or self._exit_code() is not None:
            return
        _log("draining; Ctrl-C again stops at once")
        try:
            self.tokens.revoke_inference()
            with self.tokens.open_client() as client:
                if wait_idle(lambda: client.models().values(), DRAIN_SECONDS, request.hurry.is_set):
                    self.server.kill()
                else:
                    _log("stopping at once" if request.hurry.is_set() else "stopping with requests under way")
        except UnreachableError:
            pass  # it has only just been started, or hangs: nothing of it would be answered
        except ServingError as error:
            _log(f"stopping without draining: {error}")

    def _end(self) -> None:
        self._stop_server()
        if self.unproven:
            discard_snapshots(self.config)
        else:
            self._keep_changes()
        _log("stopped")

    def _stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.tokens.unpublish()

    def _warn_once(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.add(line)
            _log(line)

    def _exit_code(self) -> int | None:
        return self.server.exit_code() if self.server is not None else None


def serve(config: Config, version: str | None, welcome: Callable[[], None] = lambda: None) -> int:
    """Serve in the foreground until SIGINT, SIGTERM or SIGHUP; returns the exit code.

    Calls `welcome` when READY is printed.
    """
    request = handle_signals()
    started = time.monotonic()
    supervisor = Supervisor(config, version)

    def print_welcome() -> None:
        print(_format_welcome(config, time.monotonic() - started), flush=True)
        welcome()

    with take_terminal():
        supervisor.run(request, print_welcome)
    return 0


def _log(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=sys.stderr, flush=True)


def _format_welcome(config: Config, seconds: float) -> str:
    inference, management = config.url("inference"), config.url("management")
    trust = f"--cacert {config.properties['certificate_file']} " if config.certificate else ""
    return f"""READY in {seconds:.1f} s
  inference   {inference}/predictions/{MODEL}
  management  {management}/models
  metrics     {config.url("metrics")}/metrics
  readiness   {config.url("supervisor")}/ready
  draw        {config.url("supervisor")}{DRAW_PATH}

curl {trust}-H "Authorization: Bearer $(make -s token)" -T handler/smoke/7.png {inference}/predictions/{MODEL}
"""
