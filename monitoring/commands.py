"""What the command line does, one function a command; each returns the exit code."""

import argparse
from collections.abc import Iterator

from common.atomic import write_output
from monitoring.api import Prometheus
from monitoring.dashboard import read_dashboard
from monitoring.drawing import drawn
from monitoring.process import check_running, running, targets, wait_ready
from serving.config import Config
from serving.signals import handle_signals, take_terminal

POLL_SECONDS = 0.5
CHECKED_MINUTES = 10.0  # a panel that had data in them is not empty


def start(config: Config, given: argparse.Namespace) -> int:
    """Runs Prometheus until a signal stops it."""
    with take_terminal():
        request = handle_signals()
        with running(config, given.address) as process:
            wait_ready(process, given.address, request)
            scraped = ", ".join(f"{address} ({job})" for job, address in targets(config).items())
            print(f"Prometheus listens on http://{given.address}\nit scrapes {scraped}\nCtrl-C ends it", flush=True)
            while not request.stop.wait(POLL_SECONDS):
                check_running(process)
    return 0


def check(_: Config, given: argparse.Namespace) -> int:
    """Names every panel of the dashboard without data; exit code 1 if there is one."""
    empty = list(_without_data(Prometheus(given.address)))
    for line in empty:
        print(line)
    return int(bool(empty))


def _without_data(prometheus: Prometheus) -> Iterator[str]:
    for panel in read_dashboard():
        without = [each.text for each in panel.queries if not prometheus.range(each.text, CHECKED_MINUTES)]
        if without:
            yield f"no data: {panel.title}: {'; '.join(without)}"


def draw(_: Config, given: argparse.Namespace) -> int:
    """Writes the dashboard as PNG."""
    write_output(given.out, drawn(read_dashboard(), Prometheus(given.address), given.minutes))
    print(given.out)
    return 0
