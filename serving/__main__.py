"""python -m serving serve | demo | stop | status | predict | explain | models | register | compare | promote | …

python -m serving serve      READY in about 5 s, then serves until Ctrl-C
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from serving import commands, config
from serving.connection import TOKENS

Command = Callable[[config.Config, argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python -m serving",
        description="Digit recognition, served by TorchServe.",
        epilog="COMMAND --help tells more. --config comes before COMMAND.",
    )
    top.add_argument("--config", type=Path, default=config.DEFAULT, help="config.properties (default: the project's)")
    listed = top.add_subparsers(required=True, metavar="COMMAND")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON (JSON lines where it is a row a picture)")

    def command(name: str, run: Command, text: str, json: bool = True) -> argparse.ArgumentParser:
        added = listed.add_parser(name, help=text, description=text, parents=[as_json] if json else [])
        added.set_defaults(run=run)
        return added

    archive = command("archive", commands.archive, "bundle scripted model and handler into the model store", json=False)
    archive.add_argument("--version", default="1.0", help="of the archive (default: %(default)s)")
    command("certs", commands.certs, "write a self-signed certificate to try TLS with", json=False)
    serve = command("serve", commands.serve, "serve in the foreground until Ctrl-C", json=False)
    serve.add_argument("--version", help="to make the default (default: what was served last, 1.0 at first)")
    command("demo", commands.demo, "open the page to draw on; serve, unless a server runs here already", json=False)
    command("stop", commands.stop, "drain and stop the server that runs", json=False)
    command("status", commands.status, "is it ready, what does it serve, how often restarted; exits 1 if not ready")
    predict = command(
        "predict",
        commands.predict,
        "read pictures and whole folders, 64 a call; CSV with a row a picture, exits 1 if one was not read",
    )
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="file, folder, or - for standard input")
    predict.add_argument("--version", default="", help="(default: the default version)")
    explain = command("explain", commands.explain, "draw what of a picture spoke for its digit")
    explain.add_argument("picture", metavar="PICTURE", help="file, or - for standard input")
    out = Path("explanation.png")
    explain.add_argument(
        "-o", "--out", type=Path, default=out, help="PNG, or - for standard output (default: %(default)s)"
    )
    explain.add_argument("--target", type=int, choices=range(10), help="why not this digit (default: the one read)")
    explain.add_argument("--version", default="", help="(default: the default version)")
    command("models", commands.models, "list the registered versions")
    register = command("register", commands.register, "register an archive of the model store and prove it")
    register.add_argument("archive", metavar="ARCHIVE", help="such as digits-1.1.mar")
    compare = command("compare", commands.compare, "ask two versions about a folder of pictures")
    compare.add_argument("old", metavar="OLD", help="a registered version")
    compare.add_argument("new", metavar="NEW", help="another")
    compare.add_argument("folder", metavar="DIR", type=Path, help="of pictures; those in folders 0 to 9 are labelled")
    promote = command("promote", commands.promote, "make a version the default, once it has proved itself")
    promote.add_argument("version", metavar="VERSION", help="a registered version")
    command("rollback", commands.rollback, "make the version before the default again")
    scale = command("scale", commands.scale, "change how many workers a version has")
    scale.add_argument("--min", type=int, required=True, help="workers at least")
    scale.add_argument("--max", type=int, help="workers at most (default: as --min)")
    scale.add_argument("--version", default="", help="(default: the default version)")
    unregister = command("unregister", commands.unregister, "remove a version that is not asked any more", json=False)
    unregister.add_argument("version", metavar="VERSION", help="a registered version that is not the default")
    token = command("token", commands.token, "print a token of the running server", json=False)
    token.add_argument(
        "--kind",
        choices=TOKENS,
        default="inference",
        help="of the API that it opens; API makes keys (default: %(default)s)",
    )
    token.add_argument("--rotate", action="store_true", help="have new tokens made first")
    command("metrics", commands.metrics, "print the metrics of TorchServe and the supervisor")
    return top


def main() -> int:
    given = parser().parse_args()
    try:
        code = int(given.run(config.read_config(given.config), given))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (config.ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
