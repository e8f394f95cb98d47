"""A Prometheus of its own for one server: its configuration, its process, its end."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from monitoring.api import Prometheus
from serving.config import Config, ServingError
from serving.signals import ShutdownRequest
from serving.torchserve import end_with_parent

TEMPLATE = Path(__file__).with_name("prometheus.yml")
SERVER = "local"  # what the template calls the server of this machine
JOBS = {"digits": "supervisor", "torchserve": "metrics"}  # job -> the address in config.properties
RETENTION = "15d"
START_SECONDS = 60.0  # a log of many days is read again first
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1


def targets(config: Config) -> dict[str, str]:
    """Job -> HOST:PORT that is scraped."""
    return {job: urlsplit(config.url(api)).netloc for job, api in JOBS.items()}


def effective(template: dict[str, Any], config: Config) -> dict[str, Any]:
    """The template with this server's addresses for those of `local` in JOBS and with absolute paths of rules."""
    addresses = targets(config)
    jobs = [
        _with_target(job, addresses[job["job_name"]]) if job["job_name"] in addresses else job
        for job in template["scrape_configs"]
    ]
    rules = [str(TEMPLATE.parent / each) for each in template["rule_files"]]
    return template | {"rule_files": rules, "scrape_configs": jobs}


def _with_target(job: dict[str, Any], address: str) -> dict[str, Any]:
    listed = [
        each | {"targets": [address]} if each.get("labels", {}).get("server") == SERVER else each
        for each in job["static_configs"]
    ]
    return job | {"static_configs": listed}


@contextmanager
def running(config: Config, address: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A Prometheus that listens; it is ended, in order, when the block is left."""
    program = _program()
    _check_address(address)
    folder = config.logs / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump(effective(yaml.safe_load(TEMPLATE.read_text()), config), sort_keys=False))
    process = subprocess.Popen(
        [
            program,
            f"--config.file={written}",
            f"--storage.tsdb.path={folder}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us alone, who then end it in order
        preexec_fn=end_with_parent(),
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(process: "subprocess.Popen[bytes]", address: str, request: ShutdownRequest) -> None:
    """Returns when it answers, or is to stop; ServingError if it ends or does not answer in time."""
    prometheus, deadline = Prometheus(address), time.monotonic() + START_SECONDS
    while not (request.stop.is_set() or prometheus.is_ready()):
        check_running(process)
        if time.monotonic() > deadline:
            raise ServingError(f"Prometheus does not answer on {address} after {START_SECONDS:.0f} s")
        request.stop.wait(POLL_SECONDS)


def check_running(process: "subprocess.Popen[bytes]") -> None:
    """ServingError if it has ended."""
    if process.poll() is not None:
        raise ServingError(f"Prometheus ended by itself, with code {process.returncode}; what it printed tells why")


def _program() -> str:
    if found := shutil.which("prometheus"):
        return found
    raise ServingError(
        "no prometheus on PATH; on Debian: apt-get install prometheus; elsewhere the binary from "
        "https://prometheus.io/download/"
    )


def _check_address(address: str) -> None:
    try:
        parsed = urlsplit(f"//{address}")
        host, port = parsed.hostname, parsed.port
    except ValueError as error:
        raise ServingError(f"--address is {address}: {error}; expected HOST:PORT") from error
    if not host or not port:
        raise ServingError(f"--address is {address}; expected HOST:PORT, such as 127.0.0.1:9090")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Prometheus does; old connections do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServingError(
                f"cannot listen on {address}: {error.strerror}; end what listens there or choose another --address"
            ) from error
