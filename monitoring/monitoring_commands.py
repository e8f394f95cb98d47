"""The commands of `python -m monitoring`; every function returns the exit code."""

import argparse

from monitoring.api import Prometheus
from monitoring.dashboard import read_panels
from monitoring.process import check_running, run_prometheus, scrape_targets, wait_ready
from serving.signals import handle_signals, take_terminal

POLL_SECONDS = 0.5
CHECKED_MINUTES = 10.0


def start(given: argparse.Namespace) -> int:
    """Run Prometheus until a signal stops it."""
    with take_terminal():
        stop = handle_signals().stop
        with run_prometheus(given.config, given.address) as process:
            wait_ready(process, given.address, stop)
            scraped = ", ".join(f"{address} ({job})" for job, address in scrape_targets(given.config).items())
            print(f"Prometheus listens on http://{given.address}\nit scrapes {scraped}\nCtrl-C ends it", flush=True)
            while not stop.wait(POLL_SECONDS):
                check_running(process)
    return 0


def check(given: argparse.Namespace) -> int:
    """Print every panel of the dashboard that had no data in the last minutes; return 1 if there is one."""
    prometheus, code = Prometheus(given.address), 0
    for panel in read_panels():
        empty = [query for query in panel.queries if not prometheus.has_data(query, CHECKED_MINUTES)]
        if empty:
            print(f"no data: {panel.title}: {'; '.join(empty)}")
            code = 1
    return code
