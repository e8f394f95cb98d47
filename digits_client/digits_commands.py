"""Commands of `digits`: predict, explain, compare, and the management of versions."""

import argparse
import csv
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits_client.batch_predict import COLUMNS, NUMBER_COLUMNS, find_images, make_rows
from digits_client.client import DigitsClient
from digits_client.compare import Comparison, Side, compare_versions
from digits_client.encoding import ImageLike, encode_image
from digits_client.exceptions import DigitsError
from digits_client.interrupts import defer_ctrl_c
from digits_client.management import ManagementClient
from digits_client.status import StatusClient
from digits_client.transport import Server
from digits_client.types import Version, make_sort_key

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DIFFERENCES = 20  # rows in the table of a comparison; its JSON has all
FEW_IMAGES = 100  # number of images below which two versions may agree by chance


def add_commands(commands: "Subparsers", options: argparse.ArgumentParser) -> None:
    """Add a parser for every command, with the `options` of all; `command` is then its function."""

    def add(command: Callable[[Namespace, Server], int], text: str) -> argparse.ArgumentParser:
        parser = commands.add_parser(command.__name__, help=text, description=text, parents=[options])
        parser.set_defaults(command=command, management=ManagementClient)
        return parser

    def add_version(parser: argparse.ArgumentParser, text: str) -> None:
        parser.add_argument("version", nargs="?", metavar="VERSION", help=text)
        parser.add_argument("--version", dest="named", metavar="VERSION", help="same as the argument VERSION")

    predict_parser = add(predict, "predict images and whole folders; CSV with a row per image, exits 1 if one failed")
    predict_parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder, or - for standard input")
    predict_parser.add_argument("--number", action="store_true", help="read whole numbers instead of single digits")
    explain_parser = add(explain, "draw which parts of an image are evidence for its digit, and which against it")
    explain_parser.add_argument("image", metavar="IMAGE", help="file, or - for standard input")
    text = "PNG, or - for standard output (default: %(default)s; needs Matplotlib and SciPy)"
    explain_parser.add_argument("-o", "--out", type=Path, default=Path("explanation.png"), help=text)
    text = "digit to explain (default: the predicted digit)"
    explain_parser.add_argument("--target", type=int, choices=range(10), help=text)
    scale_parser = add(scale, "change how many workers a version has")
    scale_parser.add_argument("--min", type=int, required=True, help="workers at least")
    scale_parser.add_argument("--max", type=int, help="workers at most (default: as --min)")
    for parser in (predict_parser, explain_parser, scale_parser):
        parser.add_argument("--version", default="", help="(default: the default version)")
    for command, text in ((models, "list the registered versions"), (metrics, "print the metrics of the server")):
        add(command, text).add_argument("--version", default="", help="only this version")
    text = "register an archive of the server's store and run its smoke test"
    add_version(add(register, text), "version or file name of the archive, such as 1.1 or digits-1.1.mar")
    compare_parser = add(compare, "compare two versions on a folder of images")
    compare_parser.add_argument("old", metavar="OLD", help="a registered version")
    compare_parser.add_argument("new", metavar="NEW", help="another registered version")
    compare_parser.add_argument("folder", metavar="DIR", type=Path, help="image folder; subfolders 0 to 9 are labels")
    add_version(add(promote, "make a version the default after its smoke test"), "a registered version")
    add(rollback, "make the version before the default the default again")
    add_version(add(unregister, "remove a version that is not the default"), "a registered version")


def predict(args: Namespace, server: Server) -> int:
    """Predict every image; return 1 if any of them failed."""
    paths = [path for name in args.images for path in (find_images(Path(name)) if Path(name).is_dir() else [name])]
    images: Iterator[ImageLike] = (sys.stdin.buffer.read() if path == "-" else path for path in paths)
    columns = NUMBER_COLUMNS if args.number else COLUMNS
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    done, failed = 0, 0
    with defer_ctrl_c() as stopped, DigitsClient(server=server) as client, _show_progress(paths, "") as bar:
        predict_all = client.read_numbers if args.number else client.predict_batch
        results = predict_all(images, version=args.version)
        for row in make_rows([str(path) for path in paths], results):
            if done == 0 and not args.json:  # only now: without a server, the output stays empty
                writer.writeheader()
            bar.update()
            if row["error"]:
                failed += 1
                line = row["error"] if row["path"] in row["error"] else f"{row['path']}: {row['error']}"
                bar.write(line, file=sys.stderr)
            _print_row(row, None if args.json else writer)
            done += 1
            if stopped.is_set():
                bar.write(f"stopped after {done} of {len(paths)} images", file=sys.stderr)
                raise KeyboardInterrupt
    if failed:
        print(f"{failed} of {len(paths)} images failed", file=sys.stderr)
    return 1 if failed else 0


def explain(args: Namespace, server: Server) -> int:
    image = sys.stdin.buffer.read() if args.image == "-" else encode_image(args.image)
    try:
        from digits_client.explanation_plot import draw_explanation  # here: Matplotlib takes a second to import
    except ImportError as error:
        raise DigitsError(f"drawing needs {error.name}: pip install 'digits-client[plot]'") from error
    with DigitsClient(server=server) as client:
        explanation = client.explain(image, args.target, args.version)
        prediction = client.predict(image, args.version, probe=True)
    png = draw_explanation(image, explanation)
    if str(args.out) == "-":
        sys.stdout.buffer.write(png)
        return 0
    args.out.write_bytes(png)
    judgment = ", ".join(["accepted" if prediction.accepted else "rejected", *prediction.warnings])
    if args.json:
        fields = {"digit": explanation.digit, "target": explanation.target, "out": str(args.out)}
        print_json(fields | {"accepted": prediction.accepted, "warnings": prediction.warnings})
    else:
        print(f"{args.image}: {explanation.digit}, {judgment}; {args.out} shows the evidence for {explanation.target}")
    return 0


def models(args: Namespace, server: Server) -> int:
    with args.management(server=server) as client:
        return _print_versions(args, [row for row in list_versions(client) if args.version in ("", row["version"])])


def register(args: Namespace, server: Server) -> int:
    name = _get_version(args)
    archive = name if name.endswith(".mar") else f"digits-{name}.mar"
    print(f"registering {archive}: its workers load, then the smoke test runs", file=sys.stderr)
    with args.management(server=server) as client:
        return _print_version(args, client, client.register(archive))


def compare(args: Namespace, server: Server) -> int:
    images = find_images(args.folder)
    with DigitsClient(server=server) as client:
        compared = compare_versions(client, (args.old, args.new), _show_progress(images, "comparing"))
    if args.json:
        print_json(asdict(compared))
    else:
        _print_comparison(compared)
    if compared.images < FEW_IMAGES or not compared.labelled:
        text = f"note: {compared.images} images, {compared.labelled} labeled; to judge by accuracy, compare on "
        print(f"{text}{FEW_IMAGES} or more in folders named 0 to 9", file=sys.stderr)
    return 0


def _print_comparison(compared: Comparison) -> None:
    old, new = (side.version for side in compared.sides)
    errors = f"; {compared.errors} errors of both" if compared.errors else ""
    share = f"{compared.agreed / compared.images:.2%}"
    print(f"the versions agree on {compared.agreed} of {compared.images} images ({share}){errors}")
    print_table([_describe_side(side, compared.images, compared.labelled) for side in compared.sides])
    listed = [
        {"path": row["path"], "label": row["label"], old: row["digits"][0], new: row["digits"][1]}
        for row in compared.different[:DIFFERENCES]
    ]
    if listed:
        print_table(listed)
    if len(compared.different) > DIFFERENCES:
        print(f"and {len(compared.different) - DIFFERENCES} more; --json lists all")


def promote(args: Namespace, server: Server) -> int:
    with args.management(server=server) as client:
        return _print_version(args, client, client.promote(_get_version(args)))


def rollback(args: Namespace, server: Server) -> int:
    with args.management(server=server) as client:
        return _print_version(args, client, client.rollback())


def scale(args: Namespace, server: Server) -> int:
    with args.management(server=server) as client:
        return _print_version(args, client, client.scale(args.min, args.max, args.version))


def unregister(args: Namespace, server: Server) -> int:
    version = _get_version(args)
    with args.management(server=server) as client:
        client.unregister(version)
    if args.json:
        print_json({"unregistered": version})
    else:
        print(f"{version} is unregistered; its archive stays in the server's store")
    return 0


def metrics(args: Namespace, server: Server) -> int:
    with StatusClient(server=server) as client:
        samples = [sample._asdict() for sample in client.read_metrics()]
    samples = [sample for sample in samples if args.version in ("", sample["labels"].get("version"))]
    if args.json:
        print_json(samples)
    else:
        labels = [" ".join(f"{name}={value}" for name, value in sample["labels"].items()) for sample in samples]
        print_table([sample | {"labels": text} for sample, text in zip(samples, labels, strict=True)])
    return 0


def list_versions(client: ManagementClient) -> list[dict[str, Any]]:
    """Return a row per registered version; accuracy on test, else validation images; it and the run may be empty."""
    versions = client.list_versions()
    default = client.get_default().version if versions else None
    runs: dict[str, dict[str, str]] = {}
    with suppress(DigitsError):  # the supervisor's address need not be open to callers
        samples = client.status.read_metrics(False)
        runs = {sample.labels["version"]: sample.labels for sample in samples if sample.name == "digits_model_info"}
    rows = []
    for name in sorted(versions, key=make_sort_key):
        info = runs.get(name, {})
        accuracy = info.get("accuracy", "").replace("nan", "")  # nan: its model.json has none
        rows.append(_describe_version(versions[name], default) | {"run": info.get("run_id", ""), "accuracy": accuracy})
    return rows


def _get_version(args: Namespace) -> str:
    if not (version := args.version or args.named):
        raise DigitsError("missing VERSION, such as 1.1")
    return str(version)


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


def _describe_side(side: Side, images: int, labelled: int) -> dict[str, Any]:
    return {
        "version": side.version,
        "answered": f"{side.answered} of {images}",
        "accepted": side.accepted,
        "right": "-" if side.right is None else f"{side.right} of {labelled} ({side.right / labelled:.2%})",
        "p50 ms": f"{side.p50_ms:.1f}",
        "p95 ms": f"{side.p95_ms:.1f}",
    }


def _print_version(args: Namespace, client: ManagementClient, version: Version) -> int:
    return _print_versions(args, [_describe_version(version, client.get_default().version)])


def _print_versions(args: Namespace, listed: list[dict[str, Any]]) -> int:
    if args.json:
        print_json(listed)
    else:
        print_table(listed)
    return 0


def _print_row(row: dict[str, Any], writer: "csv.DictWriter[str] | None") -> None:
    if writer is None:
        print(json.dumps(row))
        return
    accepted = {"accepted": str(row["accepted"]).lower()} if "accepted" in row else {}
    writer.writerow(row | accepted | {"warnings": " ".join(row.get("warnings", ()))})


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_table(rows: list[dict[str, Any]]) -> None:
    from tabulate import tabulate

    print(tabulate(rows, headers="keys", disable_numparse=True))


def _show_progress(items: list[Any], text: str) -> Any:
    """Wrap `items` in a progress bar, which is shown in a terminal only and disappears at the end."""
    from tqdm import tqdm

    return tqdm(items, text, leave=False, unit=" images", disable=None if len(items) > 1 else True)
