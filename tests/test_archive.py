"""serving/archive.py: the archive holds the source's bytes and is written in full or not at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from common.models import MODEL_FOLDERS
from digits_client.types import make_sort_key
from serving.archive import (
    build_archive,
    check_archive,
    compute_sha256,
    count_cores,
    find_bundled_model,
    is_changed,
    read_smoke,
)
from serving.config import ROOT, ServingError
from tests.archives import provide_archive
from tests.images import SMOKE


def expected_members(model: str) -> dict[str, Path]:
    """Return the file of the checkout that a member must equal, by the member's name."""
    folder = ROOT / MODEL_FOLDERS[model]
    package = [*(ROOT / "handler").glob("*.py"), *(ROOT / "handler").glob("*.yaml")]
    package += (ROOT / "handler").glob("segment_model.[jp]*")  # without the ONNX model
    package += (ROOT / "handler" / "smoke").glob("*.png")
    members = {path.relative_to(ROOT).as_posix(): path for path in package}
    # torch-model-archiver puts these at the root as well.
    members |= {name: ROOT / "handler" / name for name in ("digit_handler.py", "model-config.yaml")}
    return members | {"scripted_model.pt": folder / "scripted_model.pt", "model.json": folder / "model" / "model.json"}


@pytest.mark.parametrize("model", MODEL_FOLDERS)
def test_archive_holds_the_sources_bytes_its_manifest_and_nothing_else(model: str, tmp_path: Path) -> None:
    members = expected_members(model)
    with ZipFile(build_archive("1.0", tmp_path, model=model)) as mar:
        assert set(mar.namelist()) == {*members, "MAR-INF/MANIFEST.json"}
        for name, source in members.items():
            assert mar.read(name) == source.read_bytes(), name
        manifest = json.loads(mar.read("MAR-INF/MANIFEST.json"))["model"]
    assert manifest == {
        "modelName": "digits",
        "modelVersion": "1.0",
        "handler": "digit_handler.py",
        "serializedFile": "scripted_model.pt",
        "configFile": "model-config.yaml",
    }


def test_a_worker_imports_nothing_that_only_training_or_explanations_need() -> None:
    heavy = ("torchvision", "captum", "matplotlib", "scipy", "joblib")
    code = f"import sys, handler.digit_handler; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "[]\n", run.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_an_archive_by_default_has_one_worker_per_core(
    count: int, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usable cores, by affinity, by a container's quota, or by this variable of joblib."""
    built = build_archive("1.0", tmp_path / "store", project)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", str(count))
    settings = check_archive(built.parent, built.name).settings
    assert (settings["minWorkers"], settings["maxWorkers"]) == (min(count, count_cores()), min(count, count_cores()))
    assert count_cores() <= count


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"minWorkers": 3, "maxWorkers": 5}, (3, 5)),
        ({"batchSize": 1}, (1, 1)),
        ({"minWorkers": 3}, (count_cores(), count_cores())),  # a maximum below the minimum: TorchServe uses neither
        ({"maxWorkers": 2}, (1, 2)),
        ({"minWorkers": 0, "maxWorkers": 4}, (1, 4)),
    ],
)
def test_an_archive_may_set_its_number_of_workers(
    given: dict[str, int], expected: tuple[int, int], project: Path, tmp_path: Path
) -> None:
    """The same as when TorchServe registers the version over the API."""
    (project / "handler" / "model-config.yaml").write_text(yaml.safe_dump(given))
    built = build_archive("1.0", tmp_path / "store", project)
    settings = check_archive(built.parent, built.name).settings
    assert (settings["minWorkers"], settings["maxWorkers"], settings["batchSize"]) == (*expected, 1)


@pytest.mark.parametrize("version", ["", "../1.0", "1 0", "1.0/2", ".1"])
def test_a_version_that_is_not_a_file_name_is_rejected(version: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="expected letters, digits"):
        build_archive(version, tmp_path / "store")
    assert not list(tmp_path.rglob("*.mar"))


def test_archives_built_in_parallel_do_not_mix(tmp_path: Path) -> None:
    versions = ["1.0", "1.1"]
    with ThreadPoolExecutor() as pool:
        archives = list(pool.map(lambda version: build_archive(version, tmp_path / "store"), versions))
    for version, path in zip(versions, archives, strict=True):
        with ZipFile(path) as mar:
            assert json.loads(mar.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"] == version
            assert mar.read("handler/smoke/7.png") == SMOKE[7]
        assert not is_changed(path)
    assert sorted(path.name for path in (tmp_path / "store").glob("*.mar")) == [f"digits-{v}.mar" for v in versions]


def test_a_failed_run_keeps_the_previous_archive(project: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    before = build_archive("1.0", store, project).read_bytes()
    (project / "scripted_model.pt").unlink()
    with pytest.raises(ServingError, match="torch-model-archiver failed"):
        build_archive("1.0", store, project)
    assert sorted(path.name for path in store.iterdir()) == ["digits-1.0.mar", "digits-1.0.mar.sha256"]
    assert not is_changed(store / "digits-1.0.mar")
    assert (store / "digits-1.0.mar").read_bytes() == before


def corrupt_data(content: bytes) -> bytes:
    start = content.index(b"handler/smoke/0.png") + 60
    return content[:start] + b"\xff" * 10 + content[start + 10 :]


CORRUPTIONS: dict[str, Callable[[bytes], bytes]] = {
    "bytes of the data": corrupt_data,
    "half of it": lambda content: content[: len(content) // 2],
    "text": lambda _: b"text",
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_an_unreadable_archive_is_an_error_that_names_it(corruption: str, tmp_path: Path) -> None:
    path = provide_archive("1.0", tmp_path)
    path.write_bytes(CORRUPTIONS[corruption](path.read_bytes()))
    (tmp_path / "digits-1.0.mar.sha256").write_text(f"{compute_sha256(path)}  digits-1.0.mar\n")
    with pytest.raises(ServingError, match=r"digits-1.0.mar: not a digits archive"):
        check_archive(tmp_path, "digits-1.0.mar")
    with pytest.raises(ServingError, match=r"digits-1.0.mar: its smoke images cannot be read"):
        read_smoke(path)


def test_an_archive_is_outdated_if_its_sources_changed_and_not_if_only_their_dates_did(
    project: Path, tmp_path: Path
) -> None:
    archive = build_archive("1.0", tmp_path / "store", project)
    for path in project.rglob("*.*"):
        path.touch()
    assert find_bundled_model(archive, project) == "default"
    assert find_bundled_model(build_archive("2.0", tmp_path / "store", project, "large"), project) == "large"
    (project / "handler" / "new.py").touch()
    assert find_bundled_model(archive, project) is None
    (project / "handler" / "new.py").unlink()
    (project / "scripted_model.pt").write_bytes(b"another model")
    assert find_bundled_model(archive, project) is None
    assert find_bundled_model(tmp_path / "missing.mar", project) is None


def test_versions_are_sorted_by_their_numbers() -> None:
    assert sorted(["1.10", "1.9", "1.9-rc", "a", "2"], key=make_sort_key) == ["1.9", "1.9-rc", "1.10", "2", "a"]


def test_archive_is_built_again_only_if_model_or_sources_changed(tmp_path: Path) -> None:
    def archive(*options: str) -> str:
        command = [sys.executable, "-m", "serving", "archive", "--version", "1.1", *options]
        environment = os.environ | {"DIGITS_HOME": str(tmp_path)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout

    path = tmp_path / "model_store" / "digits-1.1.mar"
    for options, is_current in ((), False), ((), True), (("--model", "large"), False), (("--model", "large"), True):
        assert archive(*options).startswith(f"{path}: is up to date" if is_current else f"{path} (")
    path.write_bytes(path.read_bytes() + b"x")
    assert archive("--model", "large").startswith(f"{path} (")


def test_make_serve_takes_no_model() -> None:
    run = subprocess.run(["make", "--dry-run", "serve", "MODEL=large"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert "MODEL is for make archive, with a VERSION; then make serve VERSION=…" in run.stderr
