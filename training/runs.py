"""Training runs in runs/: find one, and make one the current model, which `make archive` bundles."""

import hashlib
import json
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

from common.atomic import ReservedFile, write_atomic
from common.errors import UserError
from common.models import MODEL_FOLDERS, ONNX, RECORD
from training.export import CURVES, MODEL, PARAMETERS, SCRIPTED
from training.predict import ROOT

RUNS = Path("runs")
SHIPPED_RUNS = {"default": "e4b77830522d", "large": "9bb9f5ee2208"}  # run ids; in commands, `released`
FILES = (MODEL, PARAMETERS, CURVES, ONNX, RECORD, SCRIPTED)  # as written; a run with the last one is complete


class RunError(UserError):
    """A run that does not exist; the message lists those that do."""


def run_release(args: Namespace) -> int:
    """Run the command `release`."""
    release_run(args.run, args.out or MODEL_FOLDERS[args.model], args.model)
    return 0


def find_run(name: str, out: Path, model: str = "default") -> Path:
    """Return the folder of a run id or `released`: in runs/, or `out` for the current run; or raise RunError."""
    run_id = SHIPPED_RUNS[model] if name == "released" else name
    for root in (out, ROOT / MODEL_FOLDERS[model]):
        if run_id in _list_runs(root):
            return root / RUNS / run_id
        if run_id == read_record(root).get("run_id"):
            return root
    if name == "released":
        files = f"{MODEL_FOLDERS[model] / MODEL.parent} {MODEL_FOLDERS[model] / SCRIPTED}"
        raise RunError(f"the shipped run {run_id} is missing; `git checkout {files}` restores it")
    listed = ", ".join(["released", *(_describe_run(out / RUNS / run) for run in _list_runs(out))])
    raise RunError(f"{name}: no such run of the {model} model in {out / RUNS}; expected one of: {listed}")


def release_run(name: str, out: Path, model: str = "default") -> None:
    """Make a run the current one of `out`; keep the previous one and print how to restore it."""
    files, previous = (_read_files(folder) for folder in (find_run(name, out, model), out))
    if files != previous:
        kept = _keep_files(previous, out)
        _replace_files({out / path: content for path, content in files.items()})
        for path in previous.keys() - files.keys():
            (out / path).unlink()
        if kept:
            options = "" if model == "default" else f" MODEL={model}"
            options += "" if out == MODEL_FOLDERS[model] else f' ARGS="--out {quote(str(out))}"'
            print(f"replaced run {_describe_run(kept)}; to go back: make release RUN={kept.name}{options}")
    print(f"current run: {_describe_run(out)}")


def read_record(folder: Path) -> dict[str, Any]:
    """Read a run's model.json; {} if there is none."""
    try:
        return dict(json.loads((folder / RECORD).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _list_runs(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / RUNS).glob(f"*/{SCRIPTED}"))


def _describe_run(folder: Path) -> str:
    record = read_record(folder)
    accuracies = [f"{part} {metrics['accuracy']:.2%}" for part, metrics in record.get("metrics", {}).items()]
    name = folder.name if folder.parent.name == RUNS.name else record.get("run_id")
    return f"{name} ({', '.join([record.get('data', {}).get('name', 'unknown data'), *accuracies])})"


def _read_files(folder: Path) -> dict[Path, bytes]:
    return {path: (folder / path).read_bytes() for path in FILES if (folder / path).is_file()}


def _keep_files(files: dict[Path, bytes], out: Path) -> Path | None:
    """Copy the current run's files to runs/, unless they are there; return their folder, or None without files."""
    if not files:
        return None
    run_id, digest = str(read_record(out).get("run_id", "")), hashlib.sha256(b"".join(files.values())).hexdigest()
    folder = out / RUNS / (run_id if run_id.isalnum() else digest[:12])
    if _read_files(folder) not in ({}, files):  # such as a changed drift baseline
        folder = folder.with_name(f"{folder.name}-{digest[:6]}")
    _replace_files({folder / path: content for path, content in files.items()})
    return folder


def _replace_files(contents: dict[Path, bytes]) -> None:
    """Replace all files or, after an error or Ctrl-C, none: all contents are on disk before the first rename."""
    previous = {path: path.read_bytes() for path in contents if path.is_file()}
    with ExitStack() as stack:
        staged = [stack.enter_context(ReservedFile(path, 0)) for path in contents]
        for file, content in zip(staged, contents.values(), strict=True):
            file.write(content)
        try:
            for file in staged:
                file.replace()
        except BaseException:
            for path in contents.keys() - previous.keys():
                path.unlink(missing_ok=True)
            for path, content in previous.items():
                write_atomic(path, content)
            raise
