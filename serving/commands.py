"""What the command line's commands do: results to standard output, as a table or as JSON."""

import csv
import json
import os
import signal
import sys
import threading
import time
import webbrowser
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm

from serving import lock, supervisor
from serving.archive import build_archive, by_number
from serving.certs import CERTIFICATE, KEY, write_certificate
from serving.client import DigitsClient
from serving.config import Config, ServingError
from serving.draw_page import PATH
from serving.files import write_named
from serving.folders import COLUMNS, Side, find_pictures, rows
from serving.folders import compare as compare_versions
from serving.pictures import Picture, read_picture
from serving.results import Version
from serving.state import read_state

ROTATION_SECONDS = 10.0  # until the supervisor has changed the tokens
DIFFERENCES = 20  # that a comparison's table lists; its JSON has all


def archive(config: Config, given: Namespace) -> int:
    if lock.process_of(config) and given.version in read_state(config).versions:
        raise ServingError(
            f"{given.version} is registered with the running server and stays what it is; choose a version that is not "
            f"one of {', '.join(sorted(read_state(config).versions, key=by_number))}: `make archive VERSION=…`"
        )
    path = build_archive(given.version, config.model_store)
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    return 0


def certs(config: Config, _: Namespace) -> int:
    write_certificate(config.folder)
    lines = f"certificate_file={CERTIFICATE}\nprivate_key_file={KEY}"
    print(f"# for {config.path.name}: TLS for inference, management and gRPC from the next start on\n{lines}")
    return 0


def serve(config: Config, given: Namespace) -> int:
    return supervisor.serve(config, given.version)


def demo(config: Config, _: Namespace) -> int:
    """Serves unless a server runs here already, and opens the page to draw on."""
    url = config.url("supervisor") + PATH
    if lock.process_of(config) is None:
        # In a thread: some browsers are waited for until they are closed, and the server has other things to do.
        opening = threading.Thread(target=_open, args=(url,), daemon=True)
        return supervisor.serve(config, None, opening.start)
    print(url)
    _open(url)
    return 0


def stop(config: Config, _: Namespace) -> int:
    print("stopped" if lock.stop(config) else "no server is running here")
    return 0


def status(config: Config, given: Namespace) -> int:
    process = lock.process_of(config)
    if process is None:
        raise ServingError("no server is running here; `make serve` starts one")
    with DigitsClient(config, retries=0) as client:
        ready = client.ready()
        counts = {each.name: each.value for each in client.metrics(["supervisor"]) if not each.labels}
        told = {
            "ready": ready.ready,
            "reason": ready.reason,
            "process": process,
            "restarts": int(counts["digits_server_restarts_total"]),
            "token_rotations": int(counts["digits_token_rotations_total"]),
            "rollback_to": read_state(config).previous,
        }
        try:
            versions = _listed(client)
        except ServingError:  # it is not ready, and why is told above
            versions = []
    if given.json:
        _print_json(told | {"versions": versions})
    else:
        print(tabulate([(name, "-" if value is None else value) for name, value in told.items()], tablefmt="plain"))
        print()
        _print_table(versions)
    return 0 if ready.ready else 1


def predict(config: Config, given: Namespace) -> int:
    """Reads on past bad pictures; 1 if there were any."""
    paths = [each for one in given.pictures for each in (find_pictures(Path(one)) if Path(one).is_dir() else [one])]
    pictures: Iterator[Picture] = (sys.stdin.buffer.read() if path == "-" else path for path in paths)
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    done, bad = 0, 0
    with (
        _told_if_cut_short(lambda: f"stopped after {done} of {len(paths)} pictures" if done else ""),
        _ctrl_c_waits() as come,
        DigitsClient(config) as client,
        tqdm(total=len(paths), unit=" pictures", leave=False, disable=_quiet(paths)) as bar,
    ):
        answers = client.predict_many(pictures, version=given.version)
        for row in rows([str(path) for path in paths], answers):
            if done == 0 and not given.json:  # not before: a server that does not answer leaves an empty file
                writer.writeheader()
            bar.update()
            if row["error"]:
                bad += 1
                bar.write(
                    row["error"] if row["path"] in row["error"] else f"{row['path']}: {row['error']}", file=sys.stderr
                )
            if given.json:
                print(json.dumps(row))
            else:
                writer.writerow(row | {"warnings": " ".join(row.get("warnings", ()))})
            done += 1
            if come.is_set():
                raise KeyboardInterrupt
    if bad:
        print(f"{bad} of {len(paths)} pictures were not read", file=sys.stderr)
    return 1 if bad else 0


def explain(config: Config, given: Namespace) -> int:
    picture = sys.stdin.buffer.read() if given.picture == "-" else read_picture(given.picture)
    with DigitsClient(config) as client:
        explanation = client.explain(picture, given.target, given.version)
    from serving.drawing import drawn  # here: Matplotlib takes a second, of no use to other commands

    png = drawn(picture, explanation)
    if str(given.out) == "-":
        sys.stdout.buffer.write(png)
        return 0
    write_named(given.out, png)
    if given.json:
        _print_json({"digit": explanation.digit, "target": explanation.target, "out": str(given.out)})
    else:
        print(f"{given.picture}: read as {explanation.digit}; {given.out} shows what speaks for a {explanation.target}")
    return 0


def models(config: Config, given: Namespace) -> int:
    with DigitsClient(config) as client:
        return _print(given, _listed(client))


def register(config: Config, given: Namespace) -> int:
    _tell(f"registering {given.archive}: it is checked, its workers load, then read the smoke pictures")
    with DigitsClient(config) as client:
        return _print(given, [_row(client.register(given.archive), client.default().version)])


def compare(config: Config, given: Namespace) -> int:
    old, new = given.old, given.new
    pictures = find_pictures(given.folder)
    with DigitsClient(config) as client:
        bar = tqdm(pictures, "comparing", unit=" pictures", leave=False, disable=_quiet(pictures))
        compared = compare_versions(client, (old, new), bar)
    if given.json:
        _print_json(asdict(compared))
        return 0
    refused = f"; {compared.refused} refused by both" if compared.refused else ""
    share = f"{compared.agreed / compared.pictures:.2%}"
    print(f"{compared.agreed} of {compared.pictures} pictures are read alike ({share}){refused}")
    _print_table([_side(side, compared.pictures, compared.labelled) for side in compared.sides])
    listed = [
        {"path": each["path"], "label": each["label"], old: each["digits"][0], new: each["digits"][1]}
        for each in compared.different[:DIFFERENCES]
    ]
    if listed:
        _print_table(listed)
    if len(compared.different) > DIFFERENCES:
        print(f"and {len(compared.different) - DIFFERENCES} more; --json lists all")
    return 0


def promote(config: Config, given: Namespace) -> int:
    with DigitsClient(config) as client:
        return _print(given, [_row(client.promote(given.version), client.default().version)])


def rollback(config: Config, given: Namespace) -> int:
    with DigitsClient(config) as client:
        return _print(given, [_row(client.rollback(), client.default().version)])


def scale(config: Config, given: Namespace) -> int:
    with DigitsClient(config) as client:
        return _print(given, [_row(client.scale(given.min, given.max, given.version), client.default().version)])


def unregister(config: Config, given: Namespace) -> int:
    with DigitsClient(config) as client:
        client.unregister(given.version)
    print(f"{given.version} is unregistered; its archive stays in {config.model_store}")
    return 0


def token(config: Config, given: Namespace) -> int:
    with DigitsClient(config, key_file=config.key_file) as client:  # the server's, whatever the environment says
        if given.rotate:
            _rotate(config, client)
        print(client.token(given.kind))
    return 0


def metrics(config: Config, given: Namespace) -> int:
    with DigitsClient(config) as client:
        samples = [each._asdict() for each in client.metrics()]
    if given.json:
        _print_json(samples)
    else:
        labels = [" ".join(f"{name}={value}" for name, value in each["labels"].items()) for each in samples]
        _print_table([each | {"labels": text} for each, text in zip(samples, labels, strict=True)])
    return 0


def _rotate(config: Config, client: DigitsClient) -> None:
    """The supervisor alone changes tokens: it is asked to, and waited for."""
    process = lock.process_of(config)
    if process is None:
        raise ServingError("no server is running here; `make serve` starts one")
    before = [client.token(kind) for kind in ("inference", "management")]
    os.kill(process, signal.SIGUSR1)
    deadline = time.monotonic() + ROTATION_SECONDS
    while any(client.token(kind) in before for kind in ("inference", "management")):
        if time.monotonic() > deadline:
            raise ServingError(f"the tokens have not changed in {ROTATION_SECONDS:.0f} s; is the server ready?")
        time.sleep(0.05)


def _open(url: str) -> None:
    """Where there is a screen; else `webbrowser` would start a browser of text in this terminal."""
    if sys.platform == "darwin" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(url)


def _listed(client: DigitsClient) -> list[dict[str, Any]]:
    versions = client.models()
    default = client.default().version if versions else None
    return [_row(versions[name], default) for name in sorted(versions, key=by_number)]


def _row(version: Version, default: str | None) -> dict[str, Any]:
    return {
        "version": version.version,
        "default": version.version == default,
        "archive": version.archive,
        "ready": version.ready,
        "min": version.min_workers,
        "max": version.max_workers,
        "batch": version.batch_size,
        "pending": version.pending,
    }


def _side(side: Side, pictures: int, labelled: int) -> dict[str, Any]:
    return {
        "version": side.version,
        "answered": f"{side.answered} of {pictures}",
        "accepted": side.accepted,
        "right": "-" if side.right is None else f"{side.right} of {labelled} ({side.right / labelled:.2%})",
        "p50 ms": f"{side.p50_ms:.1f}",
        "p95 ms": f"{side.p95_ms:.1f}",
    }


def _print(given: Namespace, listed: list[dict[str, Any]]) -> int:
    if given.json:
        _print_json(listed)
    else:
        _print_table(listed)
    return 0


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_table(listed: list[dict[str, Any]]) -> None:
    print(tabulate(listed, headers="keys", disable_numparse=True))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _told_if_cut_short(told: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, ServingError):
        if line := told():
            _tell(line)
        raise


@contextmanager
def _ctrl_c_waits() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, for a loop to end between two rows; the second ends the command wherever it is.

    Anywhere means in a lock of Python's thread pools too, which then stays held, and its threads wait for good.
    """
    come, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        come.set()
        signal.signal(signal.SIGINT, before)

    if before is signal.default_int_handler:  # not where Ctrl-C is ignored, as of a job in the background
        signal.signal(signal.SIGINT, note)
    try:
        yield come
    finally:
        signal.signal(signal.SIGINT, before)


def _quiet(pictures: list[Any]) -> bool | None:
    """For tqdm: a bar in a terminal, and not for a single picture."""
    return True if len(pictures) < 2 else None
