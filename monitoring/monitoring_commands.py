"""The commands of `python -m monitoring`; every function returns the exit code."""

import argparse

from monitoring.process import check_running, run_prometheus, scrape_targets, wait_ready
from serving.signals import handle_signals, take_terminal

POLL_SECONDS = 0.5


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
