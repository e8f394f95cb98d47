"""A Prometheus process for one server: its configuration, start and end."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from common.errors import UserError
from serving.config import Config
from serving.torchserve import end_with_parent

TEMPLATE = Path(__file__).with_name("prometheus.yml")
SERVER = "local"  # the label of this machine's server in the template
JOBS = {"digits": "supervisor", "torchserve": "metrics"}  # job -> address in config.properties
RETENTION = "15d"
START_SECONDS = 60.0  # a write-ahead log of many days takes a while to replay
STOP_SECONDS = 30.0
POLL_SECONDS, PROBE_SECONDS = 0.1, 30.0


def scrape_targets(config: Config) -> dict[str, str]:
    """Return job -> HOST:PORT."""
    return {job: urlsplit(config.url(api)).netloc for job, api in JOBS.items()}


def fill_template(template: dict[str, Any], config: Config) -> dict[str, Any]:
    """Set this server's addresses as the targets labelled `local` and make the paths of rules absolute."""
    addresses = scrape_targets(config)
    jobs = [
        _set_target(job, addresses[job["job_name"]]) if job["job_name"] in addresses else job
        for job in template["scrape_configs"]
    ]
    rules = [str(TEMPLATE.parent / name) for name in template["rule_files"]]
    return template | {"rule_files": rules, "scrape_configs": jobs}


def _set_target(job: dict[str, Any], address: str) -> dict[str, Any]:
    targets = [
        group | {"targets": [address]} if group.get("labels", {}).get("server") == SERVER else group
        for group in job["static_configs"]
    ]
    return job | {"static_configs": targets}


@contextmanager
def run_prometheus(config: Config, address: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start Prometheus on the address; it is stopped when the block is left."""
    program = shutil.which("prometheus")
    if program is None:
        raise UserError(
            "no prometheus on PATH; on Debian: apt-get install prometheus; elsewhere the binary from "
            "https://prometheus.io/download/"
        )
    folder = config.logs / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "prometheus.yml"
    filled = fill_template(yaml.safe_load(TEMPLATE.read_text()), config)
    configuration.write_text(yaml.safe_dump(filled, sort_keys=False))
    process = subprocess.Popen(
        [
            program,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches this process only, which then stops Prometheus
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


def wait_ready(process: "subprocess.Popen[bytes]", address: str, stop: threading.Event) -> None:
    """Wait until Prometheus is ready or `stop` is set; raises UserError if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not (stop.is_set() or is_ready(address)):
        check_running(process)
        if time.monotonic() > deadline:
            raise UserError(f"Prometheus does not answer on {address} after {START_SECONDS:.0f} s")
        stop.wait(POLL_SECONDS)


def is_ready(address: str) -> bool:
    """Return whether a Prometheus on the address answers."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy on the way to loopback
            return session.get(f"http://{address}/-/ready", timeout=PROBE_SECONDS).ok
    except requests.RequestException:
        return False


def check_running(process: "subprocess.Popen[bytes]") -> None:
    """Raise UserError if the process has ended."""
    if process.poll() is not None:
        raise UserError(f"Prometheus ended by itself, with code {process.returncode}; its output says why")
