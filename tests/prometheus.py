"""A real Prometheus with the project's configuration, and which alerts fire in it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from monitoring import api
from monitoring.process import TEMPLATE, fill_template, scrape_targets
from serving.config import Config
from tests.servers import find_port, wait_for


class Prometheus(api.Prometheus):
    def firing(self) -> set[tuple[str, str, str]]:
        """Return the alerts that fire now: name, the label that distinguishes its rules, server."""
        return {self._named(each["labels"]) for each in self._get("alerts")["alerts"] if each["state"] == "firing"}

    @staticmethod
    def _named(labels: dict[str, str]) -> tuple[str, str, str]:
        return labels["alertname"], labels.get("window", labels.get("sign", "")), labels["server"]

    def have_fired(self, server: str) -> set[tuple[str, str, str]]:
        """Return all alerts that have fired since the start."""
        query = f'max_over_time(ALERTS{{alertstate="firing",server="{server}"}}[1h])'
        return {self._named(each["metric"]) for each in self._get("query", query=query)["result"]}

    def value(self, query: str) -> list[float]:
        return [float(each["value"][1]) for each in self._get("query", query=query)["result"]]

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        response = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=5).json()
        return dict(response["data"])


@contextmanager
def prometheus(folder: Path, servers: dict[str, Config]) -> Iterator[Prometheus]:
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
        found = Prometheus(address)
        wait_for(found.is_ready)
        yield found
    finally:
        process.terminate()
        process.wait(30)
