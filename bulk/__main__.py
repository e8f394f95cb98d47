"""Command line of bulk prediction; `make score` installs what it needs.

python -m bulk score images/ predictions/
python -m bulk score 's3://forms/2026-*.parquet' predictions/ --id-column form --number
"""

import argparse
import sys

from common.command_line import add_command, run_command
from common.models import MODEL_FOLDERS


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bulk", description="Predict images by the million, on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "predict all images of Parquet files or a folder; write a Parquet file per input file or 10,000 images"
    score = add_command(commands, "score", "bulk.score:run_score", text)
    score.set_defaults(hint_if_stopped="stopped; the same command continues after the finished files")
    text = "folder, file or quoted pattern of Parquet files, or folder of images; a path or a URL for pyarrow"
    score.add_argument("input", metavar="INPUT", help=text)
    text = "new folder, or that of a stopped run, which is continued; a path or a URL"
    score.add_argument("output", metavar="OUTPUT", help=text)
    text = "read whole numbers: columns number and boxes instead of digit and probabilities"
    score.add_argument("--number", action="store_true", help=text)
    text = "current model to use; large misreads less and is slower (default: %(default)s)"
    score.add_argument("--model", choices=tuple(MODEL_FOLDERS), default="default", help=text)
    text = "column of image files' bytes: binary, or a struct with a field bytes (default: %(default)s)"
    score.add_argument("--image-column", metavar="NAME", default="image", help=text)
    text = "column that identifies an image, the first of the output (default: %(default)s)"
    score.add_argument("--id-column", metavar="NAME", default="id", help=text)
    text = "host:port of a Ray cluster (default: RAY_ADDRESS, else a local Ray that ends with the command)"
    score.add_argument("--address", help=text)
    return parser


if __name__ == "__main__":
    sys.exit(run_command(make_parser()))
