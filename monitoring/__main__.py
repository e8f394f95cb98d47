"""Command line of monitoring, `python -m monitoring start`: run Prometheus on http://127.0.0.1:9090 until Ctrl-C."""

import argparse
import sys
from pathlib import Path

from common.command_line import add_command, run_command
from serving.config import DEFAULT_PATH, read_config

ADDRESS = "127.0.0.1:9090"  # Prometheus' default


def make_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser(
        "python -m monitoring",
        description="Run Prometheus for the running service.",
        epilog="COMMAND --help shows the options. --config comes before COMMAND.",
    )
    help_text = "config.properties (default: the project's)"
    parser.add_argument(
        "--config", type=lambda path: read_config(Path(path)), default=str(DEFAULT_PATH), metavar="FILE", help=help_text
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "run Prometheus in the foreground until Ctrl-C"
    start = add_command(commands, "start", "monitoring.run_prometheus:start", text)
    start.add_argument("--address", default=ADDRESS, help="HOST:PORT of Prometheus (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(make_parser()))
