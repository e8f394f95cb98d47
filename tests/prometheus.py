"""A real Prometheus with the project's configuration, and which alerts fire in it."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
import yaml

from serving.config import ROOT, Config
from tests.servers import (
    wait_for,
)

MONITORING = ROOT / "monitoring"


class Prometheus:
    """A real one that scrapes the servers by monitoring's own configuration."""

    def __init__(self, url: str) -> None:
        self.url = url

    def firing(self) -> set[tuple[str, str, str]]:
        """Alert, what tells its rules apart, and server, right now."""
        return {self._named(each["labels"]) for each in self._alerts() if each["state"] == "firing"}

    def _alerts(self) -> list[dict[str, Any]]:
        return list(requests.get(f"{self.url}/api/v1/alerts", timeout=5).json()["data"]["alerts"])

    @staticmethod
    def _named(labels: dict[str, str]) -> tuple[str, str, str]:
        return labels["alertname"], labels.get("window", labels.get("sign", "")), labels["server"]

    def have_fired(self, server: str) -> set[tuple[str, str, str]]:
        """All that fired since the start."""
        query = f'max_over_time(ALERTS{{alertstate="firing",server="{server}"}}[1h])'
        told = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=5).json()
        return {self._named(each["metric"]) for each in told["data"]["result"]}

    def value(self, query: str) -> list[float]:
        told = requests.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=5).json()
        return [float(each["value"][1]) for each in told["data"]["result"]]


@contextmanager
def prometheus(folder: Path, servers: dict[str, Config]) -> Iterator[Prometheus]:
    configured = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    configured["rule_files"] = [str(MONITORING / name) for name in configured["rule_files"]]
    for job, api in zip(configured["scrape_configs"], ("supervisor", "metrics"), strict=True):
        job["static_configs"] = [
            {"targets": ["{}:{}".format(*config.ports()[api])], "labels": {"server": name}}
            for name, config in servers.items()
        ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configured))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options, f"--web.listen-address={address}"], stderr=log)
    try:
        wait_for(lambda: _answers(f"http://{address}/-/ready"))
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=5).ok
    return False
