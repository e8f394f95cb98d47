"""The commands that concern the server of this folder: archive, serve, stop, status, tokens."""

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
from serving.archive import build_archive
from serving.config import DRAW_PATH, Config, ServingError
from serving.local_management import LocalManagementClient
from serving.state import read_state

ROTATION_SECONDS = 10.0  # until the supervisor has changed the tokens


def create_archive(given: Namespace) -> int:
    if lock.find_process(given.config) and given.version in read_state(given.config).versions:
        registered = ", ".join(sorted(read_state(given.config).versions, key=make_sort_key))
        raise ServingError(
            f"{given.version} is registered with the running server and stays what it is; choose a version that is not "
            f"one of {registered}: `make archive VERSION=…`"
        )
    path = build_archive(given.version, given.config.model_store)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return 0


def serve_model(given: Namespace) -> int:
    return _run_supervisor(given.config, given.version)


def open_demo(given: Namespace) -> int:
    """Open the page to draw on; serve first, unless a server runs here already."""
    url = given.config.url("supervisor") + DRAW_PATH
    if lock.find_process(given.config) is None:
        # In a thread: some browsers are waited for until they are closed, and the server has other things to do.
        opening = threading.Thread(target=_open_browser, args=(url,), daemon=True)
        return _run_supervisor(given.config, None, opening.start)
    print(url)
    _open_browser(url)
    return 0


def stop_server(given: Namespace) -> int:
    print("stopped" if lock.stop_server(given.config) else "no server is running here")
    return 0


def print_status(given: Namespace) -> int:
    process = lock.find_process(given.config)
    if process is None:
        raise ServingError("no server is running here; `make serve` starts one")
    with StatusClient(server=given.config.make_server(), retries=0) as client:
        readiness = client.read_readiness()
        counts = {sample.name: sample.value for sample in client.read_metrics(torchserve=False) if not sample.labels}
    fields = {
        "ready": readiness.ready,
        "reason": readiness.reason,
        "process": process,
        "restarts": int(counts["digits_server_restarts_total"]),
        "token_rotations": int(counts["digits_token_rotations_total"]),
        "rollback_to": read_state(given.config).previous,
    }
    try:
        with LocalManagementClient(given.config, retries=0) as management:
            versions = list_versions(management)
    except DigitsError:  # it is not ready, and `reason` says why
        versions = []
    if given.json:
        print_json(fields | {"versions": versions})
    else:
        print(tabulate([(name, "-" if value is None else value) for name, value in fields.items()], tablefmt="plain"))
        print()
        print_table(versions)
    return 0 if readiness.ready else 1


def print_token(given: Namespace) -> int:
    if given.rotate:
        _rotate_tokens(given.config)
    print(read_token(given.config.key_file, given.kind))  # the server's, whatever the environment says
    return 0


def run_client_command(given: Namespace) -> int:
    """Run a command of `digits` for the server of this configuration."""
    given.management = partial(LocalManagementClient, given.config)
    return int(given.command(given, add_environment_tokens(given.config.make_server())))


def _run_supervisor(config: Config, version: str | None, welcome: Callable[[], None] = lambda: None) -> int:
    from serving.supervisor import run_supervisor

    return run_supervisor(config, version, welcome)


def _rotate_tokens(config: Config) -> None:
    """Have the supervisor, which alone changes tokens, make new ones, and wait for them."""
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
            raise ServingError(f"the tokens have not changed in {ROTATION_SECONDS:.0f} s; the server says: {reason}")
        time.sleep(0.05)


def _open_browser(url: str) -> None:
    """Open a browser where there is a screen; else `webbrowser` would start one of text in this terminal."""
    if sys.platform == "darwin" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(url)
