"""Command line of the client.

digits predict | explain | models | register | promote | rollback | scale | unregister | compare | metrics
digits predict 7.png --url http://127.0.0.1:8080      CSV: path, digit, confidence, accepted, warnings, …
"""

import argparse
import os
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper

from digits_client.digits_commands import add_commands
from digits_client.exceptions import DigitsError
from digits_client.transport import Server, find_server

_TOKENS = "tokens: from DIGITS_INFERENCE_TOKEN and DIGITS_MANAGEMENT_TOKEN; otherwise from a server on this machine"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("digits", description="Client of the digit service.", epilog=_TOKENS)
    parser.add_argument("--version", action="version", version=f"digits-client {_find_version()}")
    options = argparse.ArgumentParser(add_help=False, epilog=_TOKENS)
    options.add_argument("--json", action="store_true", help="print JSON (predict: a line per image)")
    options.add_argument("--url", help="inference address (default: that of the server on this machine)")
    for api in ("management", "metrics", "supervisor"):
        port = getattr(Server, api)[-4:]
        options.add_argument(f"--{api}-url", metavar="URL", help=f"(default: the host of --url, port {port})")
    options.add_argument("--cacert", default="", help="PEM: the certificate that the server must present")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"), options)
    return parser


def main() -> int:
    """Run the command of the command line; return 1 after an error, 130 after Ctrl-C."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names may not be UTF-8
    try:
        args = make_parser().parse_args()
        server = find_server(args.url)
        urls = {api: getattr(args, f"{api}_url") for api in ("management", "metrics", "supervisor")}
        changes = {api: url.rstrip("/") for api, url in urls.items() if url}
        server = replace(server, **changes | ({"certificate": args.cacert} if args.cacert else {}))
        code = int(args.command(args, server))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # such as `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DigitsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _find_version() -> str:
    try:
        return version("digits-client")
    except PackageNotFoundError:
        return "of a checkout"


if __name__ == "__main__":
    sys.exit(main())
