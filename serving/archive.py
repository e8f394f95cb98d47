"""Build archives, digits-<version>.mar with its SHA-256 file, and verify them without running their code."""

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

from common.models import MODEL_FOLDERS
from digits_client.smoke_test import Smoke
from serving.config import MODEL, ROOT, ServingError

VERSION_PATTERN = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
_MODEL_FILE = "scripted_model.pt"
_REQUIRED_FILES = {"digit_handler.py", _MODEL_FILE, "model-config.yaml", "model.json", "handler/preprocessing.py"}
# What reading a damaged or foreign archive may raise; RuntimeError if it is encrypted.
_READ_ERRORS = (
    *(OSError, EOFError, BadZipFile, zlib.error, RuntimeError),
    *(LookupError, ValueError, TypeError, AttributeError, yaml.YAMLError),
)
# TorchServe's defaults for settings that model-config.yaml leaves out; milliseconds and seconds.
_DEFAULT_SETTINGS = dict.fromkeys(("minWorkers", "maxWorkers", "batchSize"), 1)
_DEFAULT_SETTINGS |= {"maxBatchDelay": 100, "responseTimeout": 120, "startupTimeout": 120}


@dataclass(frozen=True)
class Archive:
    """A verified archive: its file, its version, and the settings of its model-config.yaml."""

    path: Path
    version: str
    settings: dict[str, Any]


def build_archive(version: str, store: Path, root: Path = ROOT, model: str = "default") -> Path:
    """Write the archive of a current model of `root` into the store, in full or not at all; return its path."""
    if not VERSION_PATTERN.fullmatch(version):
        raise ServingError(f"version {version!r}; expected letters, digits, dots and dashes, such as 1.1")
    target = get_archive_path(store, version)
    try:
        store.mkdir(parents=True, exist_ok=True)
        # The archiver stages in $TMPDIR/<model name>: a folder of its own keeps parallel runs apart.
        staging = tempfile.TemporaryDirectory(dir=store, prefix=".archive-")
    except OSError as error:
        advice = "change that, or set DIGITS_HOME to another folder"
        raise ServingError(f"{store}: cannot be written ({error.strerror}); {advice}") from error
    with staging as temporary:
        sources = _list_sources(root, model)
        staged = _stage_files(sources, Path(temporary) / "staged")
        _run_archiver(sources, staged, version, Path(temporary))
        written = Path(temporary) / f"{MODEL}.mar"
        checksum = Path(temporary) / "sha256"
        checksum.write_text(f"{compute_sha256(written)}  {target.name}\n", encoding="utf-8")  # as sha256sum writes it
        checksum.replace(_get_checksum_path(target))  # first: make takes an existing archive to be complete
        written.replace(target)
    return target


def get_archive_path(store: Path, version: str) -> Path:
    return store / f"{MODEL}-{version}.mar"


def compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_changed(path: Path) -> bool:
    """Return whether the archive differs from the SHA-256 beside it; False if there is none."""
    checksum = _get_checksum_path(path)
    return checksum.is_file() and checksum.read_bytes().split()[:1] != [compute_sha256(path).encode()]


def find_bundled_model(path: Path, root: Path = ROOT) -> str | None:
    """Return the current model of `root` that the archive bundles with the current handler; None if it is outdated."""
    try:
        with ZipFile(path) as members:
            contents = {name: members.read(name) for name in members.namelist()}
            return next((name for name in MODEL_FOLDERS if _read_sources(root, name).items() <= contents.items()), None)
    except _READ_ERRORS:
        return None


def check_archive(store: Path, name: str) -> Archive:
    """Return the archive of this file name or path; ServingError unless it is valid, unchanged and in the store."""
    path = _resolve_in_store(store, name)
    checksum = _get_checksum_path(path)
    if not checksum.is_file():
        raise ServingError(f"{path.name}: no {checksum.name} beside it; remove the archive, `make archive` writes both")
    if is_changed(path):
        raise ServingError(
            f"{path.name}: its SHA-256 differs from the one in {checksum.name}: the archive was changed; "
            "remove it, `make archive` writes it again"
        )
    try:
        with ZipFile(path) as members:
            return Archive(path, _check_members(members, path.name), _parse_settings(members))
    except _READ_ERRORS as error:
        raise ServingError(f"{path.name}: not a digits archive ({error}); `make archive` writes one") from error


def read_smoke(path: Path) -> Smoke:
    """Return the smoke images of an archive; ServingError unless it has one per digit, with expected probabilities."""
    try:
        with ZipFile(path) as members:
            return _parse_smoke(members)
    except _READ_ERRORS as error:
        raise ServingError(f"{path.name}: its smoke images cannot be read ({error})") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of an archive's model-config.yaml; TorchServe's defaults if it cannot be read."""
    try:
        with ZipFile(path) as members:
            return _parse_settings(members)
    except _READ_ERRORS:
        return dict(_DEFAULT_SETTINGS)


def _resolve_in_store(store: Path, name: str) -> Path:
    """Return the path of a regular file in the store; reject URLs, `..` and links."""
    if "://" in name or name.startswith("file:"):
        raise ServingError(f"{name}: is a URL; only archives in {store} are registered")
    path = Path(name) if os.sep in name else store / name
    if ".." in path.parts or path.parent.resolve() != store.resolve():
        raise ServingError(f"{name}: is not in {store}; only archives there are registered")
    if path.is_symlink():
        raise ServingError(f"{name}: is a symbolic link; put the archive itself into {store}")
    if not path.is_file():
        raise ServingError(f"{name}: no such archive in {store}; `make archive VERSION=…` writes one")
    return path


def _check_members(members: ZipFile, name: str) -> str:
    """Check that the members are complete and intact; return the version in the manifest."""
    manifest = json.loads(members.read("MAR-INF/MANIFEST.json"))["model"]
    missing = sorted(_REQUIRED_FILES - set(members.namelist()))
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    outside = [name for name in members.namelist() if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if outside:
        raise ValueError(f"{outside[0]} would be extracted outside its folder")
    if damaged := members.testzip():
        raise ValueError(f"{damaged} is damaged")
    _parse_smoke(members)
    version = str(manifest["modelVersion"])
    if not VERSION_PATTERN.fullmatch(version):
        raise ValueError(f"its manifest says version {version!r}; expected letters, digits, dots and dashes")
    expected = {"modelName": MODEL, "handler": "digit_handler.py"}
    expected |= {"serializedFile": _MODEL_FILE, "configFile": "model-config.yaml"}
    if any(manifest.get(key) != value for key, value in expected.items()):
        raise ValueError(f"its manifest names another model or handler: {manifest}")
    if name != f"{MODEL}-{version}.mar":
        raise ValueError(f"its manifest says version {version}")
    return version


def _parse_smoke(members: ZipFile) -> Smoke:
    """Parse the smoke images; ValueError or LookupError if an image or its ten probabilities are missing."""
    images = {digit: members.read(f"handler/smoke/{digit}.png") for digit in "0123456789"}
    expected = json.loads(members.read("model.json")).get("smoke", {})
    for digit in images:
        probabilities = expected.get(digit, [])
        if len(probabilities) != len(images) or not all(0 <= value <= 1 for value in probabilities):
            raise ValueError(f"its model.json lacks ten probabilities for smoke image {digit}.png; see `make train`")
    return Smoke(images, expected)


def _parse_settings(members: ZipFile) -> dict[str, Any]:
    configured = yaml.safe_load(members.read("model-config.yaml"))
    settings = {key: int(configured.get(key, default)) for key, default in _DEFAULT_SETTINGS.items()}
    settings["minWorkers"] = max(1, settings["minWorkers"])  # as TorchServe reads it
    if settings["maxWorkers"] < settings["minWorkers"]:  # TorchServe then leaves it to the registering client
        settings |= dict.fromkeys(("minWorkers", "maxWorkers"), count_cores())
    return settings


def count_cores() -> int:
    """Return the cores that this process may use, by its affinity and its container's quota; one per worker."""
    from joblib import cpu_count  # here, because importing it takes 0.2 s and few commands need it

    return int(cpu_count())


def _get_checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _stage_files(sources: dict[str, Path], folder: Path) -> Path:
    """Copy the handler package, under its own name so that imports work as in the checkout, and model.json."""
    (folder / "handler" / "smoke").mkdir(parents=True)
    for name, source in sources.items():
        if source.name != _MODEL_FILE:  # the archiver adds it
            shutil.copy2(source, folder / name)
    return folder


def _list_sources(root: Path, model: str) -> dict[str, Path]:
    """Return the files of `root` that an archive of this model bundles, by their name in the archive."""
    handler, folder = root / "handler", root / MODEL_FOLDERS[model]
    sources = sorted([*handler.glob("*.py"), *handler.glob("smoke/*.png")])
    sources += [handler / name for name in ("segment_model.pt", "segment_model.json", "model-config.yaml")]
    files = {_MODEL_FILE: folder / _MODEL_FILE, "model.json": folder / "model" / "model.json"}
    return {path.relative_to(root).as_posix(): path for path in sources} | files


def _read_sources(root: Path, model: str) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in _list_sources(root, model).items()}


def _run_archiver(sources: dict[str, Path], staged: Path, version: str, temporary: Path) -> None:
    options = {
        "--model-name": MODEL,
        "--version": version,
        "--serialized-file": sources[_MODEL_FILE],
        "--handler": sources["handler/digit_handler.py"],
        "--config-file": sources["handler/model-config.yaml"],
        "--extra-files": staged,
        "--export-path": temporary,
    }
    command = [str(Path(sys.executable).with_name("torch-model-archiver"))]
    command += [str(word) for option in options.items() for word in option]
    run = subprocess.run(command, env=os.environ | {"TMPDIR": str(temporary)}, capture_output=True, text=True)
    if run.returncode:
        raise ServingError(f"torch-model-archiver failed: {run.stderr.strip().rpartition(chr(10))[2]}")
