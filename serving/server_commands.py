"""The commands for the server of this folder: archive, serve, demo, stop, status, token."""

import os
import signal
import sys
import threading
import time
import webbrowser
from argparse import Namespace
from collections.abc import Callable
from functools import partial

from tabulate import tabulate

from digits_client.digits_commands import list_versions, print_json, print_table
from digits_client.exceptions import DigitsError
from digits_client.status import StatusClient
from digits_client.transport import add_environment_tokens, read_token
from digits_client.types import make_sort_key
from serving import lock
from serving.archive import build_archive, find_bundled_model, get_archive_path, is_changed
from serving.config import DRAW_PATH, FIRST_VERSION, Config, ServingError
from serving.local_management import LocalManagementClient
from serving.state import read_state

ROTATION_SECONDS = 10.0  # in which the supervisor must have replaced the tokens


def create_archive(args: Namespace) -> int:
    path = get_archive_path(args.config.model_store, args.version)
    if find_bundled_model(path) == args.model and not is_changed(path):
        print(f"{path}: is up to date")
        return 0
    if lock.find_process(args.config) and args.version in read_state(args.config).versions:
        registered = ", ".join(sorted(read_state(args.config).versions, key=make_sort_key))
        advice = f"choose a version other than {registered}: `make archive VERSION=…`"
        raise ServingError(f"{args.version} is registered with the running server and cannot be replaced; {advice}")
    path = build_archive(args.version, args.config.model_store, model=args.model)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return 0


def serve_model(args: Namespace) -> int:
    path = get_archive_path(args.config.model_store, args.version or read_state(args.config).default or FIRST_VERSION)
    if path.exists() and not find_bundled_model(path):
        advice = "roll it out as a new version: make archive VERSION=… (MODEL=large for the large model)"
        print(f"note: model or handler differ from {path}; {advice}", file=sys.stderr)
    return _run_supervisor(args.config, args.version)


def open_demo(args: Namespace) -> int:
    """Open the draw page; start a server first if none is running here."""
    url = args.config.get_url("supervisor") + DRAW_PATH
    if lock.find_process(args.config) is None:
        # In a thread, because opening some browsers blocks until they are closed.
        opening = threading.Thread(target=_open_browser, args=(url,), daemon=True)
        return _run_supervisor(args.config, None, opening.start)
    print(url)
    _open_browser(url)
    return 0


def stop_server(args: Namespace) -> int:
    print("stopped" if lock.stop_server(args.config) else "no server is running here")
    return 0


def print_status(args: Namespace) -> int:
    process = lock.find_process(args.config)
    if process is None:
        raise ServingError("no server is running here; `make serve` starts one")
    with StatusClient(server=args.config.make_server(), retries=0) as client:
        readiness = client.read_readiness()
        counts = {sample.name: sample.value for sample in client.read_metrics(torchserve=False) if not sample.labels}
    fields = {
        "ready": readiness.ready,
        "reason": readiness.reason,
        "process": process,
        "restarts": int(counts["digits_server_restarts_total"]),
        "token_rotations": int(counts["digits_token_rotations_total"]),
        "rollback_to": read_state(args.config).previous,
    }
    try:
        with LocalManagementClient(args.config, retries=0) as management:
            versions = list_versions(management)
    except DigitsError:  # not ready; `reason` says why
        versions = []
    if args.json:
        print_json(fields | {"versions": versions})
    else:
        print(tabulate([(name, "-" if value is None else value) for name, value in fields.items()], tablefmt="plain"))
        print()
        print_table(versions)
    return 0 if readiness.ready else 1


def print_token(args: Namespace) -> int:
    if args.rotate:
        _rotate_tokens(args.config)
    print(read_token(args.config.key_file, args.kind))  # ignores tokens in the environment
    return 0


def run_client_command(args: Namespace) -> int:
    """Run a command of `digits` with the server of this configuration."""
    args.management = partial(LocalManagementClient, args.config)
    return int(args.command(args, add_environment_tokens(args.config.make_server())))


def _run_supervisor(config: Config, version: str | None, on_ready: Callable[[], None] = lambda: None) -> int:
    from serving.supervisor import run_supervisor

    return run_supervisor(config, version, on_ready)


def _rotate_tokens(config: Config) -> None:
    """Signal the supervisor to replace the tokens, and wait until it has."""
    process = lock.find_process(config)
    if process is None:
        raise ServingError("no server is running here; `make serve` starts one")
    before = [read_token(config.key_file, kind) for kind in ("inference", "management")]
    os.kill(process, signal.SIGUSR1)
    deadline = time.monotonic() + ROTATION_SECONDS
    while any(read_token(config.key_file, kind) in before for kind in ("inference", "management")):
        if time.monotonic() > deadline:
            with StatusClient(server=config.make_server(), retries=0) as client:
                reason = client.read_readiness().reason
            raise ServingError(f"tokens were not replaced in {ROTATION_SECONDS:.0f} s; the server reports: {reason}")
        time.sleep(0.05)


def _open_browser(url: str) -> None:
    """Open a browser if there is a display; otherwise `webbrowser` would start a text browser in this terminal."""
    if sys.platform == "darwin" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(url)
