"""Stand-ins for TorchServe, so that tests of the supervisor take milliseconds."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from serving.config import Config
from serving.signals import ShutdownRequest
from serving.state import State
from serving.supervisor import Supervisor

Step = Callable[[], object]


class StandIn:
    """A TorchServe that a test ends with an exit code."""

    def __init__(self, config: Config, state: State, environment: dict[str, str]) -> None:
        self.state, self.environment, self.code = state, environment, None
        self.key_file, self.temporary = config.folder / "own_keys.json", config.folder
        self.process, self.stopped, self.killed = SimpleNamespace(pid=1), False, False

    def get_exit_code(self) -> int | None:
        return self.code

    def get_last_lines(self) -> str:
        return "some lines"

    def publish_tokens(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True

    def stop(self) -> None:
        self.stopped = True


class ScriptedStop(threading.Event):
    """A stop event whose every wait runs the next step; it is set after the last."""

    def __init__(self, *steps: Step) -> None:
        super().__init__()
        self.steps, self.waits = list(steps), list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        if not self.steps:
            self.set()
            return True
        self.steps.pop(0)()
        return False


class Supervised:
    """A supervisor whose servers are stand-ins; `problem` is what readiness reports for the last one."""

    def __init__(self, config: Config, version: str | None = None) -> None:
        self.version = version
        self.servers: list[StandIn] = []
        self.problem: str | None = None
        self.partial: str | None = None  # the problem if some workers are enough
        self.supervisor = Supervisor(config, self.start)  # type: ignore[arg-type]
        self.supervisor.readiness.find_problem = self.find_problem  # type: ignore[method-assign]
        self.ready_calls = 0

    def start(self, *args: Any) -> StandIn:
        self.servers.append(StandIn(*args))
        return self.servers[-1]

    def find_problem(self, all_workers: bool = False) -> str | None:
        return self.problem if all_workers else self.partial or None

    def die(self, code: int = -9) -> None:
        self.servers[-1].code = code  # type: ignore[assignment]

    def count_ready(self) -> None:
        self.ready_calls += 1

    def run(self, *steps: Step) -> ScriptedStop:
        """Run to the end, with one step at every wait of the supervisor."""
        stop = ScriptedStop(*steps)
        self.supervisor.run(ShutdownRequest(stop=stop), self.version, self.count_ready)
        return stop
