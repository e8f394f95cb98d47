"""Owns TorchServe: starts it with what was served before, restarts it, changes its tokens, drains and stops it."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics

from handler.protocol import REQUEST_LOG_LEVEL, REQUEST_LOG_PATH
from serving.archive import archive_path, by_number, check_archive
from serving.client import DigitsClient
from serving.config import MODEL, Config, ServingError
from serving.connection import UnreachableError
from serving.door import door
from serving.drain import wait_idle
from serving.draw import PATH
from serving.foreground import Orders, orders_by_signals, own_terminal
from serving.lock import Lock, locked
from serving.readiness import Readiness
from serving.rotation import Rotation
from serving.state import State, discard_snapshots, keep_up, read_state, write_state
from serving.torchserve import TorchServe, check_ports
from serving.watch import Watch, build_info
from serving.worker_metrics import WorkerMetrics

FIRST = "1.0"  # served where nothing has been before
READY_SECONDS = 120.0  # until a start is given up
DRAIN_SECONDS = 30.0
RESTARTS, RESTART_SECONDS = 5, 600.0  # so many within so many seconds, then the supervisor gives up
ROTATE_AGAIN_SECONDS = 10.0  # after tokens could not be changed
POLL_SECONDS = 0.1


class Supervisor:
    """One server, from free ports to the end of all its processes. `version` is made the default if it is named."""

    def __init__(self, config: Config, version: str | None = None) -> None:
        self.config, self.version = config, version
        self.server: TorchServe | None = None
        self.state = State({})  # as it is kept
        self.unproven = False  # while a version that was asked for has not answered yet
        self.is_ready = False  # since the last start
        self.died: deque[float] = deque()  # when, lately
        self.rotate_at = 0.0  # by the clock, as tokens expire
        self.expires_at = 0.0  # the same
        self.told: set[str] = set()
        self.readiness = Readiness(config, lambda: self.server)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each counter, of use to nobody here
        self.registry = CollectorRegistry()
        self.workers = WorkerMetrics(config.worker_metrics)
        self.registry.register(self.workers)
        self.watch = Watch(config, lambda: self.server, self.readiness, self.workers, self.registry, self._tell_once)
        self.rotation = Rotation(config.request_log)
        self._gauge("digits_key_lifetime_seconds", "that tokens last", lambda: config.token_seconds)
        self._gauge("digits_key_expires_in_seconds", "until the tokens expire", lambda: self.expires_at - time.time())
        build_info(self.registry)
        self.restarts = Counter("digits_server_restarts", "restarts of a TorchServe that died", registry=self.registry)
        self.rotations = Counter("digits_token_rotations", "changes of the tokens", registry=self.registry)

    def _gauge(self, name: str, told: str, value: Callable[[], float]) -> None:
        Gauge(name, told, registry=self.registry).set_function(value)

    def run(self, orders: Orders, welcome: Callable[[], None] = lambda: None) -> None:
        """Serves until it is ordered to stop; calls `welcome` when all workers answer for the first time.

        ServingError if the server cannot be started, or dies too often.
        """
        with locked(self.config) as lock:
            check_ports(self.config)
            self.state = keep_up(self.config, read_state(self.config))  # what a killed server has left
            discard_snapshots(self.config)  # and did not write to its end
            wanted = self._wanted()
            self.workers.begin()
            with door(self.config, self.registry, self.readiness.problem), self.watch.looking():
                try:
                    self._start(lock, wanted)
                    if self._wait_ready(orders):
                        self._accept(wanted)
                        welcome()
                    while not orders.stop.wait(POLL_SECONDS):
                        self._look_after(lock, orders)
                    self._drain(orders)
                finally:
                    self._end()

    def _wanted(self) -> State:
        """What is left, and the version that was asked for."""
        state = self._left()
        version = self.version or state.default or FIRST
        if version == state.default:
            return state
        path = archive_path(self.config.model_store, version)
        self.unproven = True
        return state.with_default(check_archive(self.config.model_store, path.name))

    def _left(self) -> State:
        """What was served before, less what is lost."""
        state, told = self.state.without_lost(self.config.model_store)
        for line in told:
            _tell(line)
        return state

    def _start(self, lock: Lock, state: State) -> None:
        _tell(f"starting TorchServe with {MODEL} {', '.join(sorted(state.versions, key=by_number))}")
        self.server = TorchServe(self.config, state, self.workers.environment() | self._log_environment())
        lock.name(self.server)
        self._new_keys_at(time.time())

    def _log_environment(self) -> dict[str, str]:
        return {REQUEST_LOG_PATH: str(self.config.request_log), REQUEST_LOG_LEVEL: self.config.request_log_level}

    def _wait_ready(self, orders: Orders) -> bool:
        """Waits until all workers answer, or as many as do in READY_SECONDS; False if it is to stop before that."""
        deadline = time.monotonic() + READY_SECONDS
        told = None
        while problem := self.readiness.problem(all_workers=True):
            self._publish()
            if self._exit_code() is not None:
                raise ServingError(f"TorchServe ended while starting, with code {self._exit_code()}; see logs/")
            if time.monotonic() > deadline:
                if self.readiness.problem() is None:
                    _tell(f"going on: {problem} after {READY_SECONDS:.0f} s; see logs/torchserve.log")
                    break
                raise ServingError(f"not ready after {READY_SECONDS:.0f} s: {problem}; see logs/torchserve.log")
            if problem != told:
                _tell(f"  {problem}")
                told = problem
            if orders.stop.wait(POLL_SECONDS):
                return False
        self.is_ready = True
        return True

    def _accept(self, state: State) -> None:
        """What was asked for has answered: it is kept, until promote, rollback and the like change it."""
        self.state, self.unproven = state, False
        write_state(self.config, state)

    def _look_after(self, lock: Lock, orders: Orders) -> None:
        if self._exit_code() is not None:
            self._restart(lock, orders)
        elif not self.is_ready and self.readiness.problem() is None:
            self.is_ready = True
            _tell("READY again")
        self._publish()
        self._keep_up()
        self._rotate_log()
        if orders.rotate.is_set() or time.time() > self.rotate_at:
            orders.rotate.clear()
            self._rotate()

    def _restart(self, lock: Lock, orders: Orders) -> None:
        """Starts a TorchServe that died again, with what it served last; each time in a row a second later."""
        code, now = self._exit_code(), time.monotonic()
        while self.died and now - self.died[0] > RESTART_SECONDS:
            self.died.popleft()
        if len(self.died) == RESTARTS:
            raise ServingError(
                f"TorchServe ended by itself, with code {code}, for the {RESTARTS + 1}th time in "
                f"{now - self.died[0]:.0f} s; see logs/torchserve.log"
            )
        _tell(f"TorchServe ended by itself, with code {code}; it is started again")
        self.is_ready = False
        self._stop_server()
        self._keep_up()
        if orders.stop.wait(len(self.died)):
            return
        self.died.append(now)
        self.restarts.inc()
        left = self._left()
        if not left.versions:
            raise ServingError(f"nothing is left to serve in {self.config.model_store}; `make serve` starts anew")
        self._start(lock, left)

    def _keep_up(self) -> None:
        """Keeps what TorchServe has written since the last time; where the disk refuses, it is done the next time."""
        try:
            self.state = keep_up(self.config, self.state)
        except OSError as error:
            self._tell_once(f"changes are not kept: {error}")

    def _rotate_log(self) -> None:
        try:
            self.rotation.look()
        except OSError as error:
            self._tell_once(f"the log of requests is not renamed: {error}")

    def _publish(self) -> None:
        try:
            if self.server is not None:
                self.server.publish_keys()
        except OSError as error:
            self._tell_once(f"the tokens are not published: {error}")

    def _rotate(self) -> None:
        """Changes both tokens; callers that read the key file again go on."""
        begun = time.time()
        try:
            with self.readiness.lock:  # it reads TorchServe's own file of keys, which is not written whole
                for kind in ("inference", "management"):
                    self._new_key(kind)
                    self._publish()
        except ServingError as error:  # it has just died: it starts again with new tokens
            _tell(f"the tokens are not changed: {error}")
            self.rotate_at = time.time() + ROTATE_AGAIN_SECONDS
            return
        self._new_keys_at(begun)
        self.rotations.inc()

    def _new_keys_at(self, when: float) -> None:
        """Tokens are changed after half of their life, so that there is time to try again."""
        self.rotate_at, self.expires_at = when + self.config.token_seconds / 2, when + self.config.token_seconds

    def _new_key(self, kind: str) -> None:
        """Has TorchServe write a new key; the one before is dead from then on."""
        with self._client() as client:
            headers = {"Authorization": f"Bearer {client.token('API')}"}
            client.ask("management", "GET", "/token", params={"type": kind}, headers=headers)

    def _drain(self, orders: Orders) -> None:
        """Lets no new request in, and waits until those that were are answered; Ctrl-C ends the wait."""
        self.readiness.draining = True
        if self.server is None or self._exit_code() is not None:
            return
        _tell("draining; Ctrl-C again stops at once")
        try:
            # A key that nobody is told: callers with the old one are refused at once.
            self.config.key_file.unlink(missing_ok=True)
            self._new_key("inference")
            with self._client() as client:
                if wait_idle(lambda: client.models().values(), DRAIN_SECONDS, orders.hurry.is_set):
                    self.server.kill()
                else:
                    _tell("stopping at once" if orders.hurry.is_set() else "stopping with requests under way")
        except UnreachableError:
            pass  # it has only just been started, or hangs: nothing of it would be answered
        except ServingError as error:
            _tell(f"stopping without draining: {error}")

    def _end(self) -> None:
        self._stop_server()
        if self.unproven:
            discard_snapshots(self.config)
        else:
            self._keep_up()
        _tell("stopped")

    def _stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.config.key_file.unlink(missing_ok=True)

    def _tell_once(self, line: str) -> None:
        if line not in self.told:
            self.told.add(line)
            _tell(line)

    def _exit_code(self) -> int | None:
        return self.server.exit_code() if self.server is not None else None

    def _client(self) -> DigitsClient:
        assert self.server is not None
        return DigitsClient(self.config, retries=0, key_file=self.server.key_file)


def serve(config: Config, version: str | None, welcome: Callable[[], None] = lambda: None) -> int:
    """Serves in the foreground until SIGINT, SIGTERM or SIGHUP; returns the exit code.

    Calls `welcome` when READY is printed.
    """
    orders = orders_by_signals()
    started = time.monotonic()
    supervisor = Supervisor(config, version)

    def ready() -> None:
        print(_welcome(config, time.monotonic() - started), flush=True)
        welcome()

    with own_terminal():
        supervisor.run(orders, ready)
    return 0


@contextmanager
def running(config: Config, version: str | None = None) -> Iterator[Orders]:
    """A server that is ready, supervised by a thread of this process, until the end of the block."""
    supervisor, orders = Supervisor(config, version), Orders()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(supervisor.run, orders)
        try:
            while not supervisor.is_ready and not ended.done():
                time.sleep(POLL_SECONDS)
            if ended.done():
                ended.result()
            yield orders
        finally:
            orders.stop.set()
    ended.result()


def _tell(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=sys.stderr, flush=True)


def _welcome(config: Config, seconds: float) -> str:
    inference, management = config.url("inference"), config.url("management")
    trust = f"--cacert {config.properties['certificate_file']} " if config.certificate else ""
    return f"""READY in {seconds:.1f} s
  inference   {inference}/predictions/{MODEL}
  management  {management}/models
  metrics     {config.url("metrics")}/metrics
  readiness   {config.url("supervisor")}/ready
  draw        {config.url("supervisor")}{PATH}

curl {trust}-H "Authorization: Bearer $(make -s token)" -T handler/smoke/7.png {inference}/predictions/{MODEL}
"""
