"""Command line of serving.

python -m serving serve | demo | stop | status | predict | explain | models | register | compare | promote | …
python -m serving serve      READY in about 5 s, then serves until Ctrl-C
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_command, run_command
from common.models import MODEL_FOLDERS
from digits_client.digits_commands import add_commands
from digits_client.exceptions import DigitsError
from serving.config import DEFAULT_PATH, TOKEN_KINDS, read_config


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m serving",
        description="Serve handwritten-digit recognition with TorchServe.",
        epilog="COMMAND --help lists the options of a command. --config comes before COMMAND.",
    )
    text = "path of config.properties (default: the project's)"
    parser.add_argument("--config", type=lambda path: read_config(Path(path)), default=str(DEFAULT_PATH), help=text)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON (predict: one line per image)")
    as_json.set_defaults(function="serving.server_commands:run_client_command", hint_if_stopped="")
    add_commands(commands, as_json)

    def add(name: str, function: str, text: str, json: bool = False) -> argparse.ArgumentParser:
        return add_command(commands, name, f"serving.server_commands:{function}", text, [as_json] if json else [])

    archive = add("archive", "create_archive", "bundle the scripted model and the handler into the model store")
    archive.add_argument("--model", choices=MODEL_FOLDERS, default="default", help="(default: %(default)s)")
    archive.add_argument("--version", default="1.0", help="version of the archive (default: %(default)s)")
    serve = add("serve", "serve_model", "serve in the foreground until Ctrl-C")
    serve.add_argument("--version", help="version to make the default (default: the one served last, at first 1.0)")
    add("demo", "open_demo", "open the draw page; start a server first if none is running")
    add("stop", "stop_server", "drain and stop the running server")
    add("status", "print_status", "print readiness, versions and restarts; exit with 1 if not ready", json=True)
    token = add("token", "print_token", "print a token of the running server")
    text = "API that the token opens; an API token creates the others (default: %(default)s)"
    token.add_argument("--kind", choices=TOKEN_KINDS, default="inference", help=text)
    token.add_argument("--rotate", action="store_true", help="replace the tokens first")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), errors=(DigitsError,)))
