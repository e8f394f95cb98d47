"""python -m serving serve | demo | stop | status | predict | explain | models | register | compare | promote | …

python -m serving serve      READY in about 5 s, then serves until Ctrl-C
"""

import argparse
import sys
from pathlib import Path

from common.command_line import add_command, run_command
from serving.config import DEFAULT, TOKENS, read_config


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        "python -m serving",
        description="Digit recognition, served by TorchServe.",
        epilog="COMMAND --help tells more. --config comes before COMMAND.",
    )
    text = "config.properties (default: the project's)"
    top.add_argument("--config", type=lambda path: read_config(Path(path)), default=str(DEFAULT), help=text)
    listed = top.add_subparsers(required=True, metavar="COMMAND")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print JSON (JSON lines where it is a row a picture)")

    def add(name: str, text: str, json: bool = True, module: str = "client_commands") -> argparse.ArgumentParser:
        return add_command(listed, name, f"serving.{module}:{name}", text, [as_json] if json else [])

    def add_server(name: str, text: str, json: bool = False) -> argparse.ArgumentParser:
        return add(name, text, json, "server_commands")

    archive = add_server("archive", "bundle scripted model and handler into the model store")
    archive.add_argument("--version", default="1.0", help="of the archive (default: %(default)s)")
    add_server("certs", "write a self-signed certificate to try TLS with")
    serve = add_server("serve", "serve in the foreground until Ctrl-C")
    serve.add_argument("--version", help="to make the default (default: what was served last, 1.0 at first)")
    add_server("demo", "open the page to draw on; serve, unless a server runs here already")
    add_server("stop", "drain and stop the server that runs")
    add_server("status", "is it ready, what does it serve, how often restarted; exits 1 if not ready", json=True)
    token = add_server("token", "print a token of the running server")
    kind = "of the API that it opens; API makes keys (default: %(default)s)"
    token.add_argument("--kind", choices=TOKENS, default="inference", help=kind)
    token.add_argument("--rotate", action="store_true", help="have new tokens made first")
    predict = add("predict", "read pictures and whole folders; CSV with a row a picture, exits 1 if one was not read")
    predict.add_argument("pictures", nargs="+", metavar="PICTURE", help="file, folder, or - for standard input")
    predict.add_argument("--version", default="", help="(default: the default version)")
    explain = add("explain", "draw what of a picture spoke for its digit")
    explain.add_argument("picture", metavar="PICTURE", help="file, or - for standard input")
    to = "PNG, or - for standard output (default: %(default)s)"
    explain.add_argument("-o", "--out", type=Path, default=Path("explanation.png"), help=to)
    explain.add_argument("--target", type=int, choices=range(10), help="why not this digit (default: the one read)")
    explain.add_argument("--version", default="", help="(default: the default version)")
    add("models", "list the registered versions")
    register = add("register", "register an archive of the model store and prove it")
    register.add_argument("archive", metavar="ARCHIVE", help="such as digits-1.1.mar")
    compare = add("compare", "two versions on a folder of pictures")
    compare.add_argument("old", metavar="OLD", help="a registered version")
    compare.add_argument("new", metavar="NEW", help="another")
    compare.add_argument("folder", metavar="DIR", type=Path, help="of pictures; those in folders 0 to 9 are labelled")
    promote = add("promote", "make a version the default, once it has proved itself")
    promote.add_argument("version", metavar="VERSION", help="a registered version")
    add("rollback", "make the version before the default again")
    scale = add("scale", "change how many workers a version has")
    scale.add_argument("--min", type=int, required=True, help="workers at least")
    scale.add_argument("--max", type=int, help="workers at most (default: as --min)")
    scale.add_argument("--version", default="", help="(default: the default version)")
    unregister = add("unregister", "remove a version that is not asked any more", json=False)
    unregister.add_argument("version", metavar="VERSION", help="a registered version that is not the default")
    add("metrics", "print the metrics of TorchServe and the supervisor")
    return top


if __name__ == "__main__":
    sys.exit(run_command(parser()))
