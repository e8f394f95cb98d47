"""Supervise TorchServe: start it with the saved state, restart it after a crash, drain and stop it."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from digits_client.exceptions import TOKEN_VARIABLES, DigitsError, UnreachableError
from digits_client.management import wait_idle
from digits_client.transport import write_server
from digits_client.types import make_sort_key
from handler.protocol import METRICS_FOLDER, REQUEST_LOG_LEVEL, REQUEST_LOG_PATH
from serving.config import DRAW_PATH, MODEL, Config, ServingError
from serving.http_server import HttpApp
from serving.lock import Lock, hold_lock
from serving.log_rotation import LogRotation
from serving.phases import Phase, check_transition
from serving.readiness import Readiness
from serving.signals import ShutdownRequest, handle_signals
from serving.start_checks import check_folders, check_options, check_ports
from serving.state import State
from serving.state_store import StateStore
from serving.supervisor_metrics import SupervisorMetrics
from serving.tokens import Tokens
from serving.torchserve import TorchServe
from serving.worker_activity import measure_activity

READY_SECONDS = 120.0  # after which a start fails
DRAIN_SECONDS = 30.0
MAX_RESTARTS, RESTART_WINDOW_SECONDS = 5, 600.0  # more restarts within the window end the supervisor
RESTART_DELAY_SECONDS = 1.0  # added to the delay with every restart
WAIT_SECONDS = 0.1  # between checks whether TorchServe still runs


class RunOptions(NamedTuple):
    """The arguments of a run: the lock, the shutdown request, the version, and what to call at the first READY."""

    lock: Lock
    request: ShutdownRequest
    version: str | None
    on_ready: Callable[[], None]


class Supervisor:
    """Runs one server, from the checks to the end of its processes: a method per phase returns the next phase."""

    def __init__(
        self, config: Config, start_server: Callable[[Config, State, dict[str, str]], TorchServe] = TorchServe
    ) -> None:
        self.config, self.start_server = config, start_server
        self.server: TorchServe | None = None
        self.phase = Phase.STARTING
        self.metrics = SupervisorMetrics(config, lambda: self.readiness.is_ready)
        self.store = StateStore(config, self.metrics.registry, log_line)
        self.tokens = Tokens(config, lambda: self.server, self.metrics.registry, log_line)
        self.readiness = Readiness(config, lambda: self.server, self.tokens.open_client)
        self.log_rotation = LogRotation(config.request_log, log_line)
        self.restart_limit = RestartLimit()

    def run(
        self, request: ShutdownRequest, version: str | None = None, on_ready: Callable[[], None] = lambda: None
    ) -> None:
        """Serve until shutdown is requested; ServingError if TorchServe cannot be started or dies too often."""
        check_options(self.config)
        check_folders(self.config)
        with hold_lock(self.config) as lock:
            check_ports(self.config)
            self.store.load_state()
            self.metrics.workers.reset_folder()
            write_server(self.config.make_server(), self.config.home)
            run = RunOptions(lock, request, version, on_ready)
            app = HttpApp(self.metrics.registry, self.tokens, self.readiness, self.store)
            phases = {
                Phase.STARTING: self._start_server,
                Phase.SERVING: self._watch_server,
                Phase.RECOVERING: self._restart_server,
                Phase.DRAINING: self._drain_server,
            }
            with app.run_in_thread(self.config), self.metrics.poll_in_thread(self._poll_versions, log_line):
                try:
                    while self.phase is not Phase.STOPPED:
                        self.phase = check_transition(self.phase, phases[self.phase](run))
                finally:
                    self.phase = Phase.STOPPED
                    self._stop_server()
                    self.store.save_final_state()
                    log_line("stopped")

    def _start_server(self, run: RunOptions) -> Phase:
        """Start TorchServe and wait until all workers are READY, or those that are after READY_SECONDS."""
        self._launch_torchserve(run, self.store.choose_state(run.version))
        deadline = time.monotonic() + READY_SECONDS
        last_problem = None
        while problem := self.readiness.find_problem(all_workers=True):
            self.tokens.publish_tokens()
            if self.server is not None and (code := self.server.get_exit_code()) is not None:
                output = self.server.get_last_lines()
                raise ServingError(f"TorchServe exited while starting, with code {code}; its output: {output}")
            if time.monotonic() > deadline:
                if self.readiness.find_problem() is None:
                    log_line(f"continuing: {problem} after {READY_SECONDS:.0f} s; see logs/torchserve.log")
                    break
                raise ServingError(f"not ready after {READY_SECONDS:.0f} s: {problem}; see logs/torchserve.log")
            if problem != last_problem:
                log_line(f"  {problem}")
                last_problem = problem
            if run.request.stop.wait(WAIT_SECONDS):
                return Phase.DRAINING
        self.store.confirm_state()
        self._poll_versions()
        run.on_ready()
        return Phase.SERVING

    def _watch_server(self, run: RunOptions) -> Phase:
        """Run the periodic tasks until TorchServe dies or shutdown is requested."""
        while not run.request.stop.wait(WAIT_SECONDS):
            if has_ended(self.server):
                return Phase.RECOVERING
            self._run_periodic_tasks(run)
        return Phase.DRAINING

    def _restart_server(self, run: RunOptions) -> Phase:
        """Restart a TorchServe that died, with the state it served last; ServingError after MAX_RESTARTS."""
        code = self.server.get_exit_code() if self.server is not None else None
        delay = self.restart_limit.record_exit(code)
        log_line(f"TorchServe exited with code {code}; restarting it")
        self._stop_server()
        self.store.save_snapshots()
        if run.request.stop.wait(delay):
            return Phase.DRAINING
        self.metrics.restarts.inc()
        state = self.store.drop_missing_archives()
        if not state.versions:
            raise ServingError(f"no archive to serve is left in {self.config.model_store}; `make serve` writes one")
        self._launch_torchserve(run, state)
        while not run.request.stop.wait(WAIT_SECONDS):
            if has_ended(self.server):
                return Phase.RECOVERING
            if self.readiness.find_problem() is None:
                log_line("READY again")
                return Phase.SERVING
            self._run_periodic_tasks(run)
        return Phase.DRAINING

    def _drain_server(self, run: RunOptions) -> Phase:
        """Reject new requests and wait for those in progress; a second Ctrl-C ends the wait."""
        self.readiness.is_draining = True
        if self.server is None or has_ended(self.server):
            return Phase.STOPPED
        log_line("draining; Ctrl-C again stops at once")
        is_skipped = run.request.skip_drain.is_set
        try:
            self.tokens.revoke_inference_token()
            with self.tokens.open_client() as client:
                fetch = client.list_versions
                if wait_idle(
                    lambda: fetch().values(), lambda: measure_activity(fetch().values()), DRAIN_SECONDS, is_skipped
                ):
                    self.server.kill()
                else:
                    log_line("stopping at once" if is_skipped() else "stopping with requests in progress")
        except UnreachableError:
            pass  # it has just been started, or hangs: it has no requests to answer
        except DigitsError as error:
            log_line(f"stopping without draining: {error}")
        return Phase.STOPPED

    def _launch_torchserve(self, run: RunOptions, state: State) -> None:
        log_line(f"starting TorchServe with {MODEL} {', '.join(sorted(state.versions, key=make_sort_key))}")
        environment = {
            METRICS_FOLDER: str(self.config.worker_metrics),
            REQUEST_LOG_PATH: str(self.config.request_log),
            REQUEST_LOG_LEVEL: self.config.request_log_level,
        }
        self.server = self.start_server(self.config, state, environment)
        run.lock.record(self.server)
        self.tokens.record_creation(time.time())

    def _run_periodic_tasks(self, run: RunOptions) -> None:
        self.tokens.publish_tokens()
        self.store.save_snapshots()
        self.log_rotation.rotate_if_due()
        self.tokens.rotate_if_due(run.request.rotate_tokens)

    def _poll_versions(self) -> None:
        """Pass the versions that TorchServe lists to metrics and store; keep the last ones if it does not respond."""
        self.readiness.find_problem()  # here, not on a scrape, as it may take seconds
        if has_ended(self.server):
            self.metrics.collector.update({}, "", None)
            return
        try:
            with self.tokens.open_client() as client:
                versions, default = client.list_versions(), client.get_default().version
                self.store.save_listing(versions, default)  # before any other thread saves a newer listing
        except DigitsError:  # TorchServe is starting, or hangs, or its tokens were just replaced
            return
        self.metrics.collector.update(versions, default, self.server)

    def _stop_server(self) -> None:
        if self.server is not None:
            self.server.stop()
        self.tokens.remove_published()


class RestartLimit:
    """Limits restarts to MAX_RESTARTS within RESTART_WINDOW_SECONDS."""

    def __init__(self) -> None:
        self.exits: deque[float] = deque()

    def record_exit(self, code: int | None) -> float:
        """Record an exit of TorchServe and return the delay of its restart in seconds; ServingError above the limit."""
        now = time.monotonic()
        while self.exits and now - self.exits[0] > RESTART_WINDOW_SECONDS:
            self.exits.popleft()
        if len(self.exits) == MAX_RESTARTS:
            raise ServingError(
                f"TorchServe exited with code {code}, for the {MAX_RESTARTS + 1}th time in "
                f"{now - self.exits[0]:.0f} s; see logs/torchserve.log"
            )
        self.exits.append(now)
        return RESTART_DELAY_SECONDS * (len(self.exits) - 1)


def has_ended(server: TorchServe | None) -> bool:
    return server is None or server.get_exit_code() is not None


def run_supervisor(config: Config, version: str | None, on_ready: Callable[[], None] = lambda: None) -> int:
    """Serve in the foreground until SIGINT, SIGTERM or SIGHUP; call `on_ready` after READY is printed."""
    for name in TOKEN_VARIABLES.values():  # tokens for clients, which neither Java nor the workers need
        os.environ.pop(name, None)
    request = handle_signals()
    started = time.monotonic()
    supervisor = Supervisor(config)

    def announce_ready() -> None:
        print(_format_ready_message(config, time.monotonic() - started), flush=True)
        on_ready()

    supervisor.run(request, version, announce_ready)
    return 0


def log_line(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), line, file=sys.stderr, flush=True)


def _format_ready_message(config: Config, seconds: float) -> str:
    inference, management = config.get_url("inference"), config.get_url("management")
    trust = f"--cacert {config.properties['certificate_file']} " if config.certificate else ""
    return f"""READY in {seconds:.1f} s
  inference   {inference}/predictions/{MODEL}
  management  {management}/models
  metrics     {config.get_url("metrics")}/metrics
  readiness   {config.get_url("supervisor")}/ready
  draw        {config.get_url("supervisor")}{DRAW_PATH}

curl {trust}-H "Authorization: Bearer $(make -s token)" -T handler/smoke/7.png {inference}/predictions/{MODEL}
"""
