"""Servers as users run them, processes of `python -m serving serve`, and a load that records its requests."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import BytesIO, TextIOWrapper
from itertools import count
from pathlib import Path

import psutil
import pytest
import requests

from common.command_line import run_command
from digits_client.client import DigitsClient
from digits_client.exceptions import DigitsError
from digits_client.transport import read_token
from serving.__main__ import make_parser
from serving.config import ROOT, Config, read_config
from serving.local_management import LocalManagementClient
from serving.phases import Phase
from serving.signals import ShutdownRequest
from serving.supervisor import Supervisor
from tests.archives import provide_archive
from tests.images import SMOKE

START_SECONDS = 60
APIS = ("inference", "management", "metrics", "supervisor")


# Below the ports that the system gives to connections; pytest-xdist's workers have separate ranges.
_PORTS = count(20_000 + 1_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))


def configure_free_ports(folder: Path, store: Path | None = None) -> Config:
    """Write the project's configuration for a separate server: free ports, its files in `folder`."""
    config = read_config()
    changed = {f"{api}_address": f"http://127.0.0.1:{find_port()}" for api in APIS}
    changed |= {key: str(find_port()) for key in config.properties if key.startswith("grpc") and key.endswith("_port")}
    changed["model_store"] = str(store or config.model_store)
    path = folder / "config.properties"
    path.write_text("".join(f"{key}={value}\n" for key, value in (config.properties | changed).items()))
    return read_config(path)


def make_certificate(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run `make certs` in the folder; skip the test without openssl."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "certs"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def find_port() -> int:
    """Return a free port that no other test gets."""
    for port in _PORTS:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def configure_with_archives(folder: Path, *versions: str) -> Config:
    """Return a configuration with free ports and archives of these versions in its store."""
    for version in versions:
        provide_archive(version, folder / "model_store")
    return configure_free_ports(folder, folder / "model_store")


@contextmanager
def run_supervised(config: Config, version: str | None = None) -> Iterator[ShutdownRequest]:
    """Run a server, supervised by a thread of this process; it is ready while the block runs."""
    supervisor, request = Supervisor(config), ShutdownRequest()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(supervisor.run, request, version)
        try:
            while supervisor.phase is Phase.STARTING and not ended.done():
                time.sleep(0.05)
            if ended.done():
                ended.result()
            yield request
        finally:
            request.stop.set()
    ended.result()


def make_command(config: Config, *words: str) -> list[str]:
    """Return the command line of `python -m serving` with this configuration."""
    return [sys.executable, "-m", "serving", "--config", str(config.path), *words]


@contextmanager
def run_process(config: Config, *words: str, before: Sequence[str] = ()) -> Iterator["subprocess.Popen[str]"]:
    """Run `serve` in a separate process, ready or not; `before` is a command that runs it."""
    with (config.folder / "errors").open("w") as file:
        command = [*before, *make_command(config, "serve", *words)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)
        print(read_log(config), file=sys.stderr)  # pytest shows it if the test fails


def get_readiness(config: Config) -> tuple[int, str]:
    """Return the status and text of /ready."""
    response = requests.get(config.get_url("supervisor") + "/ready", timeout=10)
    return response.status_code, response.text.strip()


def wait_for(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def read_until_curl(process: "subprocess.Popen[str]") -> str:
    """Return the output of `serve` until it is ready; the last line is the curl command."""
    assert process.stdout is not None
    lines: list[str] = []
    while not (lines and lines[-1].startswith("curl")):
        lines.append(process.stdout.readline())
        assert lines[-1], "ended before it was ready"
    return "".join(lines)


@contextmanager
def run_server(config: Config) -> Iterator[tuple["subprocess.Popen[str]", LocalManagementClient]]:
    """Run a server in a separate process; yield it when it is ready, and a client without retries."""
    with run_process(config) as process:
        read_until_curl(process)
        with LocalManagementClient(config, retries=0) as client:
            yield process, client


def read_log(config: Config) -> str:
    """Return what the server's process has written to standard error."""
    return (config.folder / "errors").read_text()


def is_predicting(config: Config) -> bool:
    """Return whether a new client without retries gets a prediction now."""
    try:
        with DigitsClient(server=config.make_server(), retries=0) as client:
            return client.predict(SMOKE[7]).digit == 7
    except DigitsError:
        return False


def list_processes(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def list_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [item for item in processes if item.is_running() and item.status() != psutil.STATUS_ZOMBIE]


def run_subprocess(config: Config, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the command line in a subprocess."""
    return subprocess.run(make_command(config, *words), cwd=ROOT, capture_output=True, text=True)


def run_in_process(config: Config, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the command line in this process."""
    out, err = (TextIOWrapper(BytesIO(), write_through=True) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(make_parser(), ["--config", str(config.path), *words], (DigitsError,))
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (out, err))
    return subprocess.CompletedProcess(words, code, stdout, stderr)


def find_java(process: "subprocess.Popen[str]") -> psutil.Process:
    return next(child for child in list_processes(process) if child.name() == "java")


def list_workers(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [child for child in list_processes(process) if child.name() != "java"]


def is_flat(memory: Sequence[int]) -> bool:
    """Return whether samples in bytes grow by at most a tenth after the first fifth, the warm-up."""
    rest = memory[len(memory) // 5 :]
    return max(rest) <= 1.1 * rest[0]


@dataclass(frozen=True)
class RequestRecord:
    """A request's times, status and response; status 0 is a broken connection."""

    start: float  # s, of the monotonic clock, as are the others
    sent: float  # complete
    ended: float
    status: int
    body: bytes

    @property
    def version(self) -> str:
        return str(json.loads(self.body)["model_version"])


@dataclass
class Load:
    """Sends requests one after the other over keep-alive connections, without retries."""

    config: Config
    connections: int = 16
    image: bytes = SMOKE[7]
    path: str = "/predictions/digits"
    pause: float = 0.0  # s, after a request that failed
    records: list[RequestRecord] = field(default_factory=list)
    waiting: dict[int, float] = field(default_factory=dict)  # by thread: the time since when it waits for its response
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        host, port = self.config.get_ports()["inference"]
        headers = {"Authorization": f"Bearer {read_token(self.config.key_file, 'inference')}"}
        connection = http.client.HTTPConnection(host, port, timeout=60)
        while not self.ended.is_set():
            start = sent = time.monotonic()
            status, body = 0, b""
            try:
                connection.request("POST", self.path, self.image, headers)
                sent = self.waiting[threading.get_ident()] = time.monotonic()
                response = connection.getresponse()
                status, body = response.status, response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
            self.waiting.pop(threading.get_ident(), None)
            self.records.append(RequestRecord(start, sent, time.monotonic(), status, body))
            if status != 200:
                time.sleep(self.pause)
        connection.close()

    @property
    def failures(self) -> list[RequestRecord]:
        return [record for record in self.records if record.status != 200]


@contextmanager
def run_load(load: Load) -> Iterator[Load]:
    """Run the load while the block runs; its last responses have arrived when the block ends."""
    threads = [threading.Thread(target=load.run) for _ in range(load.connections)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(load.records) >= load.connections)
        yield load
    finally:
        load.ended.set()
        for thread in threads:
            thread.join()
