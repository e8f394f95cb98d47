"""Command line of the evaluation.

python -m evaluation report --data mnist    docs/report.md; MNIST test 99.4%, about ten minutes
python -m evaluation numbers --data mnist   docs/numbers_report.md, about ten minutes
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_command, positive_int, run_command

_DATA = "mnist, mnist5k (the shipped models were trained on most of it), a torchvision root or a folder of own images"


def make_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    parser = argparse.ArgumentParser("python -m evaluation", description="Evaluate the current models.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "evaluate the current models on digits, corrupted digits and outliers; write docs/report.md"
    report = add_command(commands, "report", "evaluation.report:run_report", text)
    report.set_defaults(hint_if_stopped="stopped")
    report.add_argument("--data", default="mnist", help=f"{_DATA}: DIGIT/ or KIND/DIGIT/ (default: %(default)s)")
    report.add_argument("--part", choices=("test", "validation"), default="test", help="(default: %(default)s)")
    report.add_argument("--photos", type=int, default=2000, help="number of synthetic photos (default: %(default)s)")
    report.add_argument("--outliers", type=int, default=1000, help="images per generated set (default: %(default)s)")
    report.add_argument("--out", type=Path, help="output folder (default: docs, or mistakes for own images)")
    text = "evaluate how the current models read numbers of several digits; write docs/numbers_report.md"
    numbers = add_command(commands, "numbers", "evaluation.number_report:run_number_report", text)
    numbers.add_argument("--data", default="mnist", help="mnist, mnist5k or a torchvision root (default: %(default)s)")
    numbers.add_argument("--part", choices=("test", "validation"), default="test", help="(default: %(default)s)")
    numbers.add_argument("--numbers", type=positive_int, default=1000, help="numbers per set (default: %(default)s)")
    numbers.add_argument("--out", type=Path, help="output folder (default: docs)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(make_parser()))
