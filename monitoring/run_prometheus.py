"""Configure and run Prometheus for one server."""

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
SERVER = "local"  # label `server` of this machine in the template
JOBS = {"digits": "supervisor", "torchserve": "metrics"}  # job -> address in config.properties
RETENTION = "15d"


def start(args: argparse.Namespace) -> int:
    """Replace this process by Prometheus, which runs until Ctrl-C; raise UserError if it is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        raise UserError(
            "prometheus is not on PATH; install it by apt-get install prometheus on Debian, elsewhere from "
            "https://prometheus.io/download/"
        )
    folder = args.config.logs / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "prometheus.yml"
    filled = fill_template(yaml.safe_load(TEMPLATE.read_text()), args.config)
    configuration.write_text(yaml.safe_dump(filled, sort_keys=False))
    scraped = ", ".join(f"{address} ({job})" for job, address in scrape_targets(args.config).items())
    print(f"Prometheus on http://{args.address} scrapes {scraped}; press Ctrl-C to stop", flush=True)
    options = [f"--config.file={configuration}", f"--web.listen-address={args.address}", "--log.level=warn"]
    options += [f"--storage.tsdb.path={folder}", f"--storage.tsdb.retention.time={RETENTION}"]
    os.execv(program, [program, *options])


def scrape_targets(config: Config) -> dict[str, str]:
    """Return the HOST:PORT to scrape, by job."""
    return {job: urlsplit(config.get_url(api)).netloc for job, api in JOBS.items()}


def fill_template(template: dict[str, Any], config: Config) -> dict[str, Any]:
    """Set this server's addresses in the targets labeled `local`, and make the paths of rules absolute."""
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
