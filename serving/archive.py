"""The archives in the model store: digits-<version>.mar and, beside each, its SHA-256.

`build_archive` bundles scripted model and handler, by torch-model-archiver. `check_archive` says whether an archive
is one of these and unchanged, without running anything of it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile

import yaml

from digits_client.smoke_test import Smoke
from serving.config import MODEL, ROOT, ServingError

VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
_MANIFEST = "MAR-INF/MANIFEST.json"
_REQUIRED_FILES = {
    "digit_handler.py",
    "scripted_model.pt",
    "model-config.yaml",
    "model.json",
    "handler/preprocessing.py",
}
# What a damaged or foreign archive makes of being read; RuntimeError: it is encrypted.
_READ_ERRORS = (
    *(OSError, EOFError, BadZipFile, zlib.error, RuntimeError),
    *(LookupError, ValueError, TypeError, AttributeError, yaml.YAMLError),
)
# TorchServe's own, for what an archive's model-config.yaml leaves out.
_DEFAULT_SETTINGS = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 1,
    "maxBatchDelay": 100,
    "responseTimeout": 120,
    "startupTimeout": 120,
}


@dataclass(frozen=True)
class Archive:
    """An archive of ours: its file, its version, and how its model-config.yaml wants to be run."""

    path: Path
    version: str
    settings: dict[str, Any]


def build_archive(version: str, store: Path, root: Path = ROOT) -> Path:
    """Writes the archive of `root`'s released model into the store, whole or not at all; returns its path."""
    if not VERSION_PATTERN.fullmatch(version):
        raise ServingError(f"version {version!r}; expected letters, digits, dots and dashes, such as 1.1")
    target = get_archive_path(store, version)
    try:
        store.mkdir(parents=True, exist_ok=True)
        # The archiver stages in $TMPDIR under the model's name: a folder of our own keeps parallel runs apart.
        staging = tempfile.TemporaryDirectory(dir=store, prefix=".archive-")
    except OSError as error:
        raise ServingError(
            f"{store}: cannot be written ({error.strerror}); change that, or set DIGITS_HOME to another folder"
        ) from error
    with staging as temporary:
        staged = _stage_files(root, Path(temporary) / "staged")
        _run_archiver(root, staged, version, Path(temporary))
        written = Path(temporary) / f"{MODEL}.mar"
        listed = Path(temporary) / "sha256"
        listed.write_text(
            f"{compute_sha256(written)}  {target.name}\n", encoding="utf-8"
        )  # `sha256sum --check` reads it
        listed.replace(_get_checksum_path(target))  # first: make takes an archive that is there for a finished one
        written.replace(target)
    return target


def get_archive_path(store: Path, version: str) -> Path:
    return store / f"{MODEL}-{version}.mar"


def compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_changed(path: Path) -> bool:
    """Whether the archive is not the one whose SHA-256 is beside it; False if none is."""
    listed = _get_checksum_path(path)
    return listed.is_file() and listed.read_bytes().split()[:1] != [compute_sha256(path).encode()]


def check_archive(store: Path, given: str) -> Archive:
    """The archive that a person names by file name or path; ServingError unless it is ours, unchanged, in the store."""
    path = _resolve_in_store(store, given)
    if not _get_checksum_path(path).is_file():
        raise ServingError(
            f"{path.name}: no {_get_checksum_path(path).name} beside it; remove it, `make archive` writes both"
        )
    if is_changed(path):
        raise ServingError(
            f"{path.name}: its SHA-256 is not the one in {_get_checksum_path(path).name}: it was changed since; "
            "remove it, `make archive` writes it anew"
        )
    try:
        with ZipFile(path) as members:
            return Archive(path, _check_members(members, path.name), _parse_settings(members))
    except _READ_ERRORS as error:
        raise ServingError(f"{path.name}: is no archive of ours ({error}); `make archive` writes one") from error


def read_smoke(path: Path) -> Smoke:
    """The smoke pictures of an archive; ServingError if it has not one of each digit, and what it must give."""
    try:
        with ZipFile(path) as members:
            return _parse_smoke(members)
    except _READ_ERRORS as error:
        raise ServingError(f"{path.name}: its smoke pictures cannot be read ({error})") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Return how an archive's model-config.yaml wants to be run; TorchServe's defaults if it cannot be read."""
    try:
        with ZipFile(path) as members:
            return _parse_settings(members)
    except _READ_ERRORS:
        return dict(_DEFAULT_SETTINGS)


def _resolve_in_store(store: Path, given: str) -> Path:
    """The file itself, in the store itself: no URL, no `..`, no link."""
    if "://" in given or given.startswith("file:"):
        raise ServingError(f"{given}: is a URL; only archives in {store} are registered")
    path = Path(given) if os.sep in given else store / given
    if ".." in path.parts or path.parent.resolve() != store.resolve():
        raise ServingError(f"{given}: is not in {store}; only archives there are registered")
    if path.is_symlink():
        raise ServingError(f"{given}: is a symbolic link; put the archive itself into {store}")
    if not path.is_file():
        raise ServingError(f"{given}: no such archive in {store}; `make archive VERSION=…` writes one")
    return path


def _check_members(members: ZipFile, name: str) -> str:
    """What the manifest says, if everything that makes an archive ours is there."""
    manifest = json.loads(members.read(_MANIFEST))["model"]
    missing = sorted(_REQUIRED_FILES - set(members.namelist()))
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    outside = [name for name in members.namelist() if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise ValueError(f"{outside[0]} would be written outside of it")
    if damaged := members.testzip():
        raise ValueError(f"{damaged} is damaged")
    _parse_smoke(members)
    version = str(manifest["modelVersion"])
    if not VERSION_PATTERN.fullmatch(version):
        raise ValueError(f"its manifest says version {version!r}; expected letters, digits, dots and dashes")
    expected = {
        "modelName": MODEL,
        "handler": "digit_handler.py",
        "serializedFile": "scripted_model.pt",
        "configFile": "model-config.yaml",
    }
    if any(manifest.get(key) != value for key, value in expected.items()):
        raise ValueError(f"its manifest names another model or handler: {manifest}")
    if name != f"{MODEL}-{version}.mar":
        raise ValueError(f"its manifest says version {version}")
    return version


def _parse_smoke(members: ZipFile) -> Smoke:
    """ValueError or LookupError if a picture or its ten probabilities are missing."""
    pictures = {digit: members.read(f"handler/smoke/{digit}.png") for digit in "0123456789"}
    expected = json.loads(members.read("model.json")).get("smoke", {})
    for digit in pictures:
        probabilities = expected.get(digit, [])
        if len(probabilities) != len(pictures) or not all(0 <= each <= 1 for each in probabilities):
            raise ValueError(
                f"its model.json does not say which ten probabilities smoke picture {digit}.png must give; "
                "`make train` writes that"
            )
    return Smoke(pictures, expected)


def _parse_settings(members: ZipFile) -> dict[str, Any]:
    configured = yaml.safe_load(members.read("model-config.yaml"))
    settings = {key: int(configured.get(key, default)) for key, default in _DEFAULT_SETTINGS.items()}
    settings["minWorkers"] = max(1, settings["minWorkers"])  # as TorchServe reads it
    if settings["maxWorkers"] < settings["minWorkers"]:  # TorchServe leaves it to who registers
        settings |= dict.fromkeys(("minWorkers", "maxWorkers"), count_cores())
    return settings


def count_cores() -> int:
    """That this process may use, by its affinity and its container's quota; each is one worker's."""
    from joblib import cpu_count  # here: a fifth of a second, of no use to most commands

    return int(cpu_count())


def _get_checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _stage_files(root: Path, folder: Path) -> Path:
    """What comes beside model and entry: the handler package under its own name, so that imports read alike."""
    smoke = folder / "handler" / "smoke"
    smoke.mkdir(parents=True)
    for source in [*sorted((root / "handler").glob("*.py")), root / "handler" / "model-config.yaml"]:
        shutil.copy2(source, folder / "handler")
    for source in sorted((root / "handler" / "smoke").glob("*.png")):
        shutil.copy2(source, smoke)
    shutil.copy2(root / "model" / "model.json", folder)
    return folder


def _run_archiver(root: Path, staged: Path, version: str, temporary: Path) -> None:
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
        raise ServingError(f"torch-model-archiver failed: {run.stderr.strip().rpartition(chr(10))[2]}")
