"""Bundles scripted model and handler into model_store/digits-<version>.mar, by torch-model-archiver."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving.client import MODEL
from serving.config import ROOT, ServingError

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


def build_archive(version: str, store: Path, root: Path = ROOT) -> Path:
    """Writes the archive of `root`'s released model into the store, whole or not at all; returns its path."""
    if not _VERSION.fullmatch(version):
        raise ServingError(f"version {version!r}; expected letters, digits, dots and dashes, such as 1.1")
    store.mkdir(parents=True, exist_ok=True)
    target = store / f"{MODEL}-{version}.mar"
    # The archiver stages in $TMPDIR under the model's name: a folder of our own keeps parallel runs apart.
    with tempfile.TemporaryDirectory(dir=store, prefix=".archive-") as temporary:
        staged = _stage(root, Path(temporary) / "staged")
        _archiver(root, staged, version, Path(temporary))
        (Path(temporary) / f"{MODEL}.mar").replace(target)
    return target


def _stage(root: Path, folder: Path) -> Path:
    """What comes beside model and entry: the handler package under its own name, so that imports read alike."""
    smoke = folder / "handler" / "smoke"
    smoke.mkdir(parents=True)
    for source in [*sorted((root / "handler").glob("*.py")), root / "handler" / "model-config.yaml"]:
        shutil.copy2(source, folder / "handler")
    for source in sorted((root / "handler" / "smoke").glob("*.png")):
        shutil.copy2(source, smoke)
    shutil.copy2(root / "model" / "model.json", folder)
    return folder


def _archiver(root: Path, staged: Path, version: str, temporary: Path) -> None:
    options = {
        "--model-name": MODEL,
        "--version": version,
        "--serialized-file": root / "scripted_model.pt",
        "--handler": root / "handler" / "digit_handler.py",
        "--config-file": root / "handler" / "model-config.yaml",
        "--extra-files": staged,
        "--export-path": temporary,
    }
    command = [str(Path(sys.executable).with_name("torch-model-archiver"))]
    command += [str(word) for option in options.items() for word in option]
    run = subprocess.run(command, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True)
    if run.returncode:
        raise ServingError(f"torch-model-archiver failed:\n{run.stderr.strip()}")
