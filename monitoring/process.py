"""Prometheus for one server: its configuration, and the command that becomes it."""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from common.errors import UserError
from serving.config import Config

TEMPLATE = Path(__file__).with_name("prometheus.yml")
SERVER = "local"  # the label of this machine's server in the template
JOBS = {"digits": "supervisor", "torchserve": "metrics"}  # job -> address in config.properties
RETENTION = "15d"


def start(given: argparse.Namespace) -> int:
    """Become Prometheus, which runs until Ctrl-C; UserError if it is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        raise UserError(
            "no prometheus on PATH; on Debian: apt-get install prometheus; elsewhere the binary from "
            "https://prometheus.io/download/"
        )
    folder = given.config.logs / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "prometheus.yml"
    filled = fill_template(yaml.safe_load(TEMPLATE.read_text()), given.config)
    configuration.write_text(yaml.safe_dump(filled, sort_keys=False))
    scraped = ", ".join(f"{address} ({job})" for job, address in scrape_targets(given.config).items())
    print(f"Prometheus on http://{given.address} scrapes {scraped}; Ctrl-C ends it", flush=True)
    options = [f"--config.file={configuration}", f"--web.listen-address={given.address}", "--log.level=warn"]
    options += [f"--storage.tsdb.path={folder}", f"--storage.tsdb.retention.time={RETENTION}"]
    os.execv(program, [program, *options])


def scrape_targets(config: Config) -> dict[str, str]:
    """Return job -> HOST:PORT."""
    return {job: urlsplit(config.get_url(api)).netloc for job, api in JOBS.items()}


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
