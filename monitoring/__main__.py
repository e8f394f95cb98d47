"""python -m monitoring start | check | draw

python -m monitoring start      Prometheus on http://127.0.0.1:9090 beside the running service, until Ctrl-C
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from monitoring import commands
from serving import config

ADDRESS = "127.0.0.1:9090"  # Prometheus' own
Command = Callable[[config.Config, argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python -m monitoring",
        description="Prometheus and the dashboard beside the running service.",
        epilog="COMMAND --help tells more. --config comes before COMMAND.",
    )
    top.add_argument("--config", type=Path, default=config.DEFAULT, help="config.properties (default: the project's)")
    listed = top.add_subparsers(required=True, metavar="COMMAND")
    at = argparse.ArgumentParser(add_help=False)
    at.add_argument("--address", default=ADDRESS, help="of Prometheus, HOST:PORT (default: %(default)s)")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = listed.add_parser(name, help=text, description=text, parents=[at])
        added.set_defaults(run=run)
        return added

    command("start", commands.start, "run Prometheus in the foreground until Ctrl-C")
    command("check", commands.check, "name every panel of the dashboard without data; exits 1 if there is one")
    draw = command("draw", commands.draw, "draw the dashboard as PNG")
    draw.add_argument("--minutes", type=_minutes, default=10.0, help="back from now (default: %(default)g)")
    out = Path("docs/dashboard.png")
    draw.add_argument("--out", type=Path, default=out, help="PNG (default: %(default)s)")
    return top


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}; expected minutes, more than 0")
    return value


def main() -> int:
    given = parser().parse_args()
    try:
        return int(given.run(config.read_config(given.config), given))
    except (config.ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
