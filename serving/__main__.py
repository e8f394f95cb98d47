"""python -m serving archive | serve | stop | token

python -m serving serve      READY in about 5 s, then serves until Ctrl-C
"""

import argparse
import sys
from pathlib import Path

from serving import archive, client, config, supervisor


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m serving", description="Digit recognition, served by TorchServe.")
    top.add_argument("--config", type=Path, default=config.DEFAULT, help="config.properties (default: the project's)")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("archive", _archive, "bundle scripted model and handler into the model store"),
        ("serve", _serve, "serve an archive in the foreground until Ctrl-C"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--version", default="1.0", help="of the archive (default: %(default)s)")
        command.set_defaults(run=run)
    text = "stop the server that runs"
    commands.add_parser("stop", help=text, description=text).set_defaults(run=_stop)
    text = "print the token of the running server"
    token = commands.add_parser("token", help=text, description=text)
    token.add_argument("--kind", choices=client.TOKENS, default="inference", help="(default: %(default)s)")
    token.set_defaults(run=_token)
    return top


def _archive(settings: config.Config, given: argparse.Namespace) -> int:
    path = archive.build_archive(given.version, settings.model_store)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return 0


def _serve(settings: config.Config, given: argparse.Namespace) -> int:
    return supervisor.serve(settings, settings.model_store / f"{client.MODEL}-{given.version}.mar")


def _stop(settings: config.Config, _: argparse.Namespace) -> int:
    print("stopped" if supervisor.stop(settings) else "no server is running here")
    return 0


def _token(settings: config.Config, given: argparse.Namespace) -> int:
    print(client.Client(settings).token(given.kind))
    return 0


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
