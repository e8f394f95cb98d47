"""python -m benchmarks COMMAND: how fast serving is, and how accurate it is."""

import argparse
import signal
import sys

from common.command_line import add_command, run_command


def make_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    text = "this project beside FastAPI, LitServe and TorchServe's defaults"
    compare = add_command(commands, "compare-servers", "benchmarks.compare_servers:run", text)
    compare.add_argument("--quick", action="store_true", help="two minutes; prints and changes no page")
    text = "accuracy through the served API, and agreement with training"
    evaluate = add_command(commands, "evaluate-served", "benchmarks.evaluate_served:run", text)
    evaluate.add_argument("--data", default="mnist", help="mnist, mnist5k or a torchvision root (default: %(default)s)")
    return top


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped however this ends
    sys.exit(run_command(make_parser()))
