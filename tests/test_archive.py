"""serving/archive.py: the archive holds the source's bytes, works alone, and is written whole or not at all."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import yaml
from PIL import Image

from serving.archive import build_archive, by_number, check_archive, cores, is_changed, read_smoke, sha256
from serving.config import ROOT, ServingError
from tests.pictures import SMOKE, digits

ENTRY_FILES = ("digit_handler.py", "model-config.yaml")  # torch-model-archiver puts these at the root as well


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive("1.0", tmp_path_factory.mktemp("store"))


def expected_members() -> dict[str, Path]:
    """Name in the archive -> file of the checkout it must equal."""
    package = [*(ROOT / "handler").glob("*.py"), *(ROOT / "handler").glob("*.yaml")]
    package += (ROOT / "handler" / "smoke").glob("*.png")
    members = {path.relative_to(ROOT).as_posix(): path for path in package}
    members |= {name: ROOT / "handler" / name for name in ENTRY_FILES}
    return members | {"scripted_model.pt": ROOT / "scripted_model.pt", "model.json": ROOT / "model" / "model.json"}


def test_archive_holds_the_sources_bytes_and_nothing_else(archive: Path) -> None:
    members = expected_members()
    with ZipFile(archive) as mar:
        assert set(mar.namelist()) == {*members, "MAR-INF/MANIFEST.json"}
        for name, source in members.items():
            assert mar.read(name) == source.read_bytes(), name


def test_manifest_says_version_entry_and_configuration(archive: Path) -> None:
    with ZipFile(archive) as mar:
        model = json.loads(mar.read("MAR-INF/MANIFEST.json"))["model"]
    assert model == {
        "modelName": "digits",
        "modelVersion": "1.0",
        "handler": "digit_handler.py",
        "serializedFile": "scripted_model.pt",
        "configFile": "model-config.yaml",
    }


ALONE = """
import json, sys
from ts.context import Context, RequestProcessor
from digit_handler import DigitHandler

context = Context("digits", ".", json.load(open("MAR-INF/MANIFEST.json")), 16, None, "0.12.0")
context.request_processor = [RequestProcessor({})]
handler = DigitHandler()
handler.initialize(context)
answer = json.loads(handler.handle([{"body": open("handler/smoke/7.png", "rb").read()}], context)[0])
files = {module.__file__ for name, module in sys.modules.items() if name.split(".")[0] in ("handler", "digit_handler")}
slow = [name for name in ("torchvision", "captum", "matplotlib", "scipy", "joblib") if name in sys.modules]
print(json.dumps({"digit": answer["digit"], "files": sorted(files), "slow": slow}))
"""


def test_unzipped_archive_answers_without_the_rest_of_the_project(archive: Path, tmp_path: Path) -> None:
    with ZipFile(archive) as mar:
        mar.extractall(tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    answer = json.loads(run.stdout)
    assert answer["digit"] == 7
    assert all(Path(file).is_relative_to(tmp_path) for file in answer["files"])
    assert answer["slow"] == []  # a worker starts without what only training or explanations need


@pytest.mark.parametrize("count", [1, 2])
def test_an_archive_as_shipped_runs_with_a_worker_for_each_core(
    count: int, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those it may use: by affinity, by a container's quota, or by this variable of joblib's."""
    built = build_archive("1.0", tmp_path / "store", project)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", str(count))
    settings = check_archive(built.parent, built.name).settings
    assert (settings["minWorkers"], settings["maxWorkers"]) == (min(count, cores()), min(count, cores()))
    assert cores() <= count


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"minWorkers": 3, "maxWorkers": 5}, (3, 5)),
        ({"batchSize": 1}, (1, 1)),
        ({"minWorkers": 3}, (cores(), cores())),  # fewer at most than at least: TorchServe takes neither
        ({"maxWorkers": 2}, (1, 2)),
        ({"minWorkers": 0, "maxWorkers": 4}, (1, 4)),
        ({"minWorkers": -1, "maxWorkers": 2}, (1, 2)),
    ],
)
def test_an_archive_may_say_how_many_workers_it_has(
    said: dict[str, int], expected: tuple[int, int], project: Path, tmp_path: Path
) -> None:
    """As TorchServe reads it where the version is registered by the API."""
    (project / "handler" / "model-config.yaml").write_text(yaml.safe_dump(said))
    built = build_archive("1.0", tmp_path / "store", project)
    settings = check_archive(built.parent, built.name).settings
    assert (settings["minWorkers"], settings["maxWorkers"], settings["batchSize"]) == (*expected, 1)


@pytest.mark.parametrize("version", ["", "../1.0", "1 0", "1.0/2", ".1"])
def test_a_version_that_is_no_file_name_is_refused(version: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="expected letters, digits"):
        build_archive(version, tmp_path / "store")
    assert not list(tmp_path.rglob("*.mar"))


def test_archives_built_at_once_do_not_mix(tmp_path: Path) -> None:
    versions = [f"1.{minor}" for minor in range(4)]
    with ThreadPoolExecutor() as pool:
        archives = list(pool.map(lambda version: build_archive(version, tmp_path / "store"), versions))
    for version, path in zip(versions, archives, strict=True):
        with ZipFile(path) as mar:
            assert json.loads(mar.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"] == version
            assert mar.read("handler/smoke/7.png") == SMOKE[7]
        assert not is_changed(path)
    assert sorted(path.name for path in (tmp_path / "store").glob("*.mar")) == [f"digits-{v}.mar" for v in versions]


def test_a_failed_run_leaves_the_archive_before_it(project: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    before = build_archive("1.0", store, project).read_bytes()
    (project / "scripted_model.pt").unlink()
    with pytest.raises(ServingError, match="torch-model-archiver failed"):
        build_archive("1.0", store, project)
    assert sorted(path.name for path in store.iterdir()) == ["digits-1.0.mar", "digits-1.0.mar.sha256"]
    assert not is_changed(store / "digits-1.0.mar")
    assert (store / "digits-1.0.mar").read_bytes() == before


@pytest.mark.parametrize("spoilt", ["a byte of the data", "encrypted", "half of it", "nothing", "text"])
def test_an_archive_that_cannot_be_read_is_named(spoilt: str, tmp_path: Path) -> None:
    path = build_archive("1.0", tmp_path)
    content = bytearray(path.read_bytes())
    start = content.index(b"handler/smoke/0.png")
    if spoilt == "a byte of the data":
        content[start + 60 : start + 70] = b"\xff" * 10
    elif spoilt == "encrypted":
        central = content.index(b"PK\x01\x02")
        while central >= 0:  # every member's flag, in the list at the end
            content[central + 8] |= 1
            central = content.find(b"PK\x01\x02", central + 4)
    else:
        content = {"half of it": content[: len(content) // 2], "nothing": bytearray(), "text": bytearray(b"x")}[spoilt]
    path.write_bytes(content)
    (tmp_path / "digits-1.0.mar.sha256").write_text(f"{sha256(path)}  digits-1.0.mar\n")
    with pytest.raises(ServingError, match=r"digits-1.0.mar: is no archive of ours"):
        check_archive(tmp_path, "digits-1.0.mar")
    with pytest.raises(ServingError, match=r"digits-1.0.mar: its smoke pictures cannot be read"):
        read_smoke(path)


def test_a_sum_that_is_no_text_is_another_sum(tmp_path: Path) -> None:
    path = build_archive("1.0", tmp_path)
    (tmp_path / "digits-1.0.mar.sha256").write_bytes(b"\xff\xfe")
    with pytest.raises(ServingError, match=r"its SHA-256 is not the one in digits-1.0.mar.sha256"):
        check_archive(tmp_path, "digits-1.0.mar")
    assert is_changed(path)


def test_versions_are_sorted_by_their_numbers() -> None:
    assert sorted(["1.10", "1.9", "1.9-rc", "a", "2"], key=by_number) == ["1.9", "1.9-rc", "1.10", "2", "a"]


def make(*words: str) -> int:
    question = ["make", "-q", "-o", ".venv/installed", *words, "archive", "VERSION=0.0-test"]
    return subprocess.run(question, cwd=ROOT, capture_output=True).returncode


def test_make_archives_again_only_if_something_bundled_changed() -> None:
    """-W pretends that a file is new, -o that the installation is not."""
    store = ROOT / "model_store"
    build_archive("0.0-test", store)
    try:
        assert make() == 0
        for changed in ("handler/preprocessing.py", "handler/smoke/7.png", "scripted_model.pt", "model/model.json"):
            assert make("-W", changed) == 1, changed
        assert make("-W", "README.md") == 0
    finally:
        for path in store.glob("digits-0.0-test.mar*"):
            path.unlink()


def test_smoke_pictures_are_the_ones_nearest_to_each_digits_mean() -> None:
    greys, labels = digits()
    for digit in range(10):
        own = greys[labels == digit].astype(float)
        nearest = own[np.abs(own - own.mean(0)).sum((1, 2)).argmin()]
        np.testing.assert_array_equal(np.asarray(Image.open(ROOT / "handler" / "smoke" / f"{digit}.png")), nearest)
