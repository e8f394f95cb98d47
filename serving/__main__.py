"""python -m serving serve | demo | stop | status | predict | explain | models | register | compare | promote | …

python -m serving serve      READY in about 5 s, then serves until Ctrl-C
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_command, run_command
from digits_client.digits_commands import add_commands
from digits_client.exceptions import DigitsError
from serving.config import DEFAULT_PATH, TOKEN_KINDS, read_config


def make_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python -m serving",
        description="Digit recognition, served by TorchServe.",
        epilog="COMMAND --help tells more. --config comes before COMMAND.",
    )
    text = "config.properties (default: the project's)"
    top.add_argument("--config", type=lambda path: read_config(Path(path)), default=str(DEFAULT_PATH), help=text)
    listed = top.add_subparsers(required=True, metavar="COMMAND")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON (predict: a line per image)")
    as_json.set_defaults(function="serving.server_commands:run_client_command", hint_if_stopped="")
    add_commands(listed, as_json)

    def add_server(name: str, text: str, json: bool = False) -> argparse.ArgumentParser:
        return add_command(listed, name, f"serving.server_commands:{name}", text, [as_json] if json else [])

    archive = add_server("archive", "bundle scripted model and handler into the model store")
    archive.add_argument("--version", default="1.0", help="of the archive (default: %(default)s)")
    serve = add_server("serve", "serve in the foreground until Ctrl-C")
    serve.add_argument("--version", help="to make the default (default: what was served last, 1.0 at first)")
    add_server("demo", "open the page to draw on; serve, unless a server runs here already")
    add_server("stop", "drain and stop the server that runs")
    add_server("status", "is it ready, what does it serve, how often restarted; exits 1 if not ready", json=True)
    token = add_server("token", "print a token of the running server")
    kind = "of the API that it opens; API makes keys (default: %(default)s)"
    token.add_argument("--kind", choices=TOKEN_KINDS, default="inference", help=kind)
    token.add_argument("--rotate", action="store_true", help="have new tokens made first")
    return top


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), errors=(DigitsError,)))
