"""The commands of callers and operators: predict, explain, compare, and versions rolled forward and back."""

import csv
import json
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common.atomic import write_output
from common.command_line import print_json, print_table, show_progress
from serving.archive import by_number
from serving.client import DigitsClient
from serving.config import ServingError
from serving.folders import COLUMNS, Side, find_pictures, rows
from serving.folders import compare as compare_versions
from serving.pictures import Picture, read_picture
from serving.results import Version

DIFFERENCES = 20  # that a comparison's table lists; its JSON has all


def predict(given: Namespace) -> int:
    """Predict every image; return 1 if any of them failed."""
    paths = [each for one in given.pictures for each in (find_pictures(Path(one)) if Path(one).is_dir() else [one])]
    pictures: Iterator[Picture] = (sys.stdin.buffer.read() if path == "-" else path for path in paths)
    writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
    done, bad = 0, 0
    with (
        _report_if_stopped(lambda: f"stopped after {done} of {len(paths)} pictures" if done else ""),
        _defer_ctrl_c() as come,
        DigitsClient(given.config) as client,
        show_progress(paths, "", len(paths), "pictures", len(paths) < 2) as bar,
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


def explain(given: Namespace) -> int:
    picture = sys.stdin.buffer.read() if given.picture == "-" else read_picture(given.picture)
    with DigitsClient(given.config) as client:
        explanation = client.explain(picture, given.target, given.version)
    from serving.drawing import drawn  # here: Matplotlib takes a second, of no use to other commands

    png = drawn(picture, explanation)
    if str(given.out) == "-":
        sys.stdout.buffer.write(png)
        return 0
    write_output(given.out, png)
    if given.json:
        print_json({"digit": explanation.digit, "target": explanation.target, "out": str(given.out)})
    else:
        print(f"{given.picture}: read as {explanation.digit}; {given.out} shows what speaks for a {explanation.target}")
    return 0


def models(given: Namespace) -> int:
    with DigitsClient(given.config) as client:
        return _print_rows(given, list_versions(client))


def register(given: Namespace) -> int:
    text = f"registering {given.archive}: it is checked, its workers load, then read the smoke pictures"
    print(text, file=sys.stderr)
    with DigitsClient(given.config) as client:
        return _print_rows(given, [_describe_version(client.register(given.archive), client.default().version)])


def compare(given: Namespace) -> int:
    old, new = given.old, given.new
    pictures = find_pictures(given.folder)
    with DigitsClient(given.config) as client:
        bar = show_progress(pictures, "comparing", None, "pictures", len(pictures) < 2)
        compared = compare_versions(client, (old, new), bar)
    if given.json:
        print_json(asdict(compared))
        return 0
    refused = f"; {compared.refused} refused by both" if compared.refused else ""
    share = f"{compared.agreed / compared.pictures:.2%}"
    print(f"{compared.agreed} of {compared.pictures} pictures are read alike ({share}){refused}")
    print_table([_describe_side(side, compared.pictures, compared.labelled) for side in compared.sides])
    listed = [
        {"path": each["path"], "label": each["label"], old: each["digits"][0], new: each["digits"][1]}
        for each in compared.different[:DIFFERENCES]
    ]
    if listed:
        print_table(listed)
    if len(compared.different) > DIFFERENCES:
        print(f"and {len(compared.different) - DIFFERENCES} more; --json lists all")
    return 0


def promote(given: Namespace) -> int:
    with DigitsClient(given.config) as client:
        return _print_rows(given, [_describe_version(client.promote(given.version), client.default().version)])


def rollback(given: Namespace) -> int:
    with DigitsClient(given.config) as client:
        return _print_rows(given, [_describe_version(client.rollback(), client.default().version)])


def scale(given: Namespace) -> int:
    with DigitsClient(given.config) as client:
        return _print_rows(
            given, [_describe_version(client.scale(given.min, given.max, given.version), client.default().version)]
        )


def unregister(given: Namespace) -> int:
    with DigitsClient(given.config) as client:
        client.unregister(given.version)
    print(f"{given.version} is unregistered; its archive stays in {given.config.model_store}")
    return 0


def metrics(given: Namespace) -> int:
    with DigitsClient(given.config) as client:
        samples = [each._asdict() for each in client.metrics()]
    if given.json:
        print_json(samples)
    else:
        labels = [" ".join(f"{name}={value}" for name, value in each["labels"].items()) for each in samples]
        print_table([each | {"labels": text} for each, text in zip(samples, labels, strict=True)])
    return 0


def list_versions(client: DigitsClient) -> list[dict[str, Any]]:
    versions = client.models()
    default = client.default().version if versions else None
    return [_describe_version(versions[name], default) for name in sorted(versions, key=by_number)]


def _describe_version(version: Version, default: str | None) -> dict[str, Any]:
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


def _describe_side(side: Side, pictures: int, labelled: int) -> dict[str, Any]:
    return {
        "version": side.version,
        "answered": f"{side.answered} of {pictures}",
        "accepted": side.accepted,
        "right": "-" if side.right is None else f"{side.right} of {labelled} ({side.right / labelled:.2%})",
        "p50 ms": f"{side.p50_ms:.1f}",
        "p95 ms": f"{side.p95_ms:.1f}",
    }


def _print_rows(given: Namespace, listed: list[dict[str, Any]]) -> int:
    if given.json:
        print_json(listed)
    else:
        print_table(listed)
    return 0


@contextmanager
def _report_if_stopped(text: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, ServingError):
        if line := text():
            print(line, file=sys.stderr)
        raise


@contextmanager
def _defer_ctrl_c() -> Iterator[threading.Event]:
    """Set an event on the first Ctrl-C, for a loop to end between two rows; the second one ends the command at once.

    At once means within a lock of Python's thread pools too, which then stays held, and its threads wait for good.
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
