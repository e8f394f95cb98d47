"""Command line of benchmarks."""

import argparse
import signal
import sys

from common.command_line import add_command, run_command


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure speed and accuracy of serving.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "compare this project with FastAPI, LitServe and TorchServe's defaults; write docs/performance/bench.md"
    compare = add_command(commands, "compare-servers", "benchmarks.compare_servers:compare_servers", text)
    compare.add_argument("--quick", action="store_true", help="two minutes; print the page, do not write it")
    text = "measure accuracy through the served API, and its agreement with training"
    evaluate = add_command(commands, "evaluate-served", "benchmarks.evaluate_served:evaluate_served", text)
    evaluate.add_argument("--data", default="mnist", help="mnist, mnist5k or a torchvision root (default: %(default)s)")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped however this ends
    sys.exit(run_command(make_parser()))
