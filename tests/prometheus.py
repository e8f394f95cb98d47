"""A real Prometheus with the project's configuration, and the alerts that fire in it."""

import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from monitoring.run_prometheus import TEMPLATE, fill_template, scrape_targets
from serving.config import Config
from tests.dashboard import read_panels
from tests.servers import find_port, wait_for


class Prometheus:
    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"

    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/-/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    def list_empty_panels(self) -> list[str]:
        """Return the titles of the dashboard's panels that have a query without data in the last 10 minutes."""
        return [panel.title for panel in read_panels() if not all(map(self.has_data, panel.queries))]

    def has_data(self, query: str) -> bool:
        """Return whether a series had a finite value in the last 10 minutes."""
        now = time.time()
        found = self._get("query_range", query=query, start=str(now - 600), end=str(now), step="5")
        return any(math.isfinite(float(value)) for series in found["result"] for _, value in series["values"])

    def list_firing(self) -> set[tuple[str, str, str]]:
        """Return the alerts that fire now: name, the label that distinguishes its rules, server."""
        return {
            self._identify(alert["labels"]) for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"
        }

    @staticmethod
    def _identify(labels: dict[str, str]) -> tuple[str, str, str]:
        return labels["alertname"], labels.get("window", labels.get("sign", "")), labels["server"]

    def list_fired(self, server: str) -> set[tuple[str, str, str]]:
        """Return all alerts that have fired since the start."""
        query = f'max_over_time(ALERTS{{alertstate="firing",server="{server}"}}[1h])'
        return {self._identify(series["metric"]) for series in self._get("query", query=query)["result"]}

    def query_values(self, query: str) -> list[float]:
        return [float(series["value"][1]) for series in self._get("query", query=query)["result"]]

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        response = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=5).json()
        return dict(response["data"])


@contextmanager
def run_prometheus(folder: Path, servers: dict[str, Config]) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes these servers by monitoring's own configuration; the keys are their labels."""
    configured = fill_template(yaml.safe_load(TEMPLATE.read_text()), next(iter(servers.values())))
    for job in configured["scrape_configs"]:
        job["static_configs"] = [
            {"targets": [scrape_targets(config)[job["job_name"]]], "labels": {"server": name}}
            for name, config in servers.items()
        ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configured))
    address = f"127.0.0.1:{find_port()}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(["prometheus", *options, f"--web.listen-address={address}"], stderr=log)
    try:
        prometheus = Prometheus(address)
        wait_for(prometheus.is_ready)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)
