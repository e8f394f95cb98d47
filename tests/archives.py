"""Real archives for tests, built once per version and run, and copies of their sources."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import torch

from common.models import RECORD
from serving.archive import build_archive, get_archive_path
from serving.config import ROOT
from training.export import MODEL, export_model
from training.model import DigitCNN, load_model

CACHE = "DIGITS_TEST_ARCHIVES"  # environment: the folder of this run's archives, which its processes share


def provide_archive(version: str, store: Path) -> Path:
    """Copy the archive of this version into the store, with its SHA-256; it is built on first use."""
    cache = Path(os.environ[CACHE])
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = get_archive_path(cache, version)
        if not built.exists():
            build_archive(version, cache)
    store.mkdir(parents=True, exist_ok=True)
    for path in (built, Path(f"{built}.sha256")):
        shutil.copy2(path, store)
    return get_archive_path(store, version)


def copy_project(folder: Path) -> Path:
    """Copy the sources of an archive."""
    for name in ("handler", "model", "large"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    shutil.copy2(ROOT / "scripted_model.pt", folder)
    return folder


def swap_digits(project: Path) -> Path:
    """Give the project a model that predicts 3 for a 0 and 0 for a 3."""
    model = load_model(project / MODEL)
    assert isinstance(model, DigitCNN)
    order = [3, 1, 2, 0, 4, 5, 6, 7, 8, 9]
    with torch.no_grad():
        model.linear.weight.copy_(model.linear.weight[order].clone())
        model.linear.bias.copy_(model.linear.bias[order].clone())
    export_model(model, json.loads((project / RECORD).read_text()), project)
    return project
