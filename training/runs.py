"""Kept runs: a training has a folder of its own below runs/; one of them is current, which `make archive` bundles."""

import hashlib
import json
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import Any

from common.atomic import ReservedFile, write_atomic
from common.errors import UserError
from training.export import CURVES, MODEL, PARAMETERS, RECORD, SCRIPTED
from training.predict import ROOT

RUNS = Path("runs")
RELEASED_RUN = "a9af06e3a145"  # the run in git's model/, which commands take as `released`
FILES = (MODEL, PARAMETERS, CURVES, RECORD, SCRIPTED)  # as they are written: a run that has the last one is whole


class RunError(UserError):
    """A run that does not exist; the message names it, and those that do."""


def run_release(given: Namespace) -> int:
    """Run the command `release`."""
    release_run(given.run, given.out)
    return 0


def find_run(name: str, out: Path) -> Path:
    """Return the folder of a run, by its id or as `released`: below runs/, or `out` if it is current; else RunError."""
    run_id = RELEASED_RUN if name == "released" else name
    for root in (out, ROOT):
        if run_id in _list_runs(root):
            return root / RUNS / run_id
        if run_id == read_record(root).get("run_id"):
            return root
    if name == "released":
        raise RunError(f"the released run {run_id} is gone; `git checkout model scripted_model.pt` brings it back")
    listed = ", ".join(["released", *(_describe_run(out / RUNS / each) for each in _list_runs(out))])
    raise RunError(f"{name}: no such run in {out / RUNS}; expected one of: {listed}")


def release_run(name: str, out: Path) -> None:
    """Make a run the current one of `out`; keep the one before and print how to go back to it."""
    files, before = (_read_files(folder) for folder in (find_run(name, out), out))
    if files != before:
        kept = _keep_files(before, out)
        _replace_files({out / path: content for path, content in files.items()})
        for path in before.keys() - files.keys():
            (out / path).unlink()
        if kept:
            options = "" if out == Path() else f' ARGS="--out {quote(str(out))}"'
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
    measured = [f"{part} {each['accuracy']:.2%}" for part, each in record.get("metrics", {}).items()]
    name = folder.name if folder.parent.name == RUNS.name else record.get("run_id")
    return f"{name} ({', '.join([record.get('data', {}).get('name', 'unknown data'), *measured])})"


def _read_files(folder: Path) -> dict[Path, bytes]:
    return {path: (folder / path).read_bytes() for path in FILES if (folder / path).is_file()}


def _keep_files(files: dict[Path, bytes], out: Path) -> Path | None:
    """Write the current run's files below runs/, unless they are there; return their folder, or None without files."""
    if not files:
        return None
    run_id, digest = str(read_record(out).get("run_id", "")), hashlib.sha256(b"".join(files.values())).hexdigest()
    folder = out / RUNS / (run_id if run_id.isalnum() else digest[:12])
    if _read_files(folder) not in ({}, files):  # as after `reference`: another drift baseline
        folder = folder.with_name(f"{folder.name}-{digest[:6]}")
    _replace_files({folder / path: content for path, content in files.items()})
    return folder


def _replace_files(contents: dict[Path, bytes]) -> None:
    """Replace all files or, after an error or Ctrl-C, none: all contents are on the disk before the first rename."""
    before = {path: path.read_bytes() for path in contents if path.is_file()}
    with ExitStack() as stack:
        staged = [stack.enter_context(ReservedFile(path, 0)) for path in contents]
        for file, content in zip(staged, contents.values(), strict=True):
            file.write(content)
        try:
            for file in staged:
                file.replace()
        except BaseException:
            for path in contents.keys() - before.keys():
                path.unlink(missing_ok=True)
            for path, content in before.items():
                write_atomic(path, content)
            raise
