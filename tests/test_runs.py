"""training/runs.py and the checks before training: no run is lost, none fails at its end."""

import errno
import json
import os
import subprocess
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, NoReturn

import pytest

from common.command_line import run_command
from common.models import MODEL_FOLDERS, RECORD
from serving.config import ROOT
from tests.datasets import write_folder
from training import export
from training.__main__ import make_parser
from training.data import load_data
from training.model import DigitCNN
from training.recipe import make_config
from training.runs import FILES, RUNS, SHIPPED_RUNS, RunError, find_run, release_run
from training.train import Trainer, make_run_id

SHIPPED_RUN = SHIPPED_RUNS["default"]
QUICK = ("--epochs", "1", "--teacher", "none", "--no-augment", "--outlier-ratio", "0", "--threads", "1")
CONFIG = make_config("default", epochs=1, teacher="none", augment=False, outlier_ratio=0.0, threads=1)


def run_training(*argv: object) -> int:
    return run_command(make_parser(), list(map(str, argv)))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "own")


def write_run(folder: Path, **record: Any) -> dict[Path, bytes]:
    """Write a run's files; return them."""
    export.export_model(DigitCNN(), record, folder)
    (folder / export.CURVES).write_bytes(json.dumps(record).encode())
    return read_run(folder)


def read_run(folder: Path) -> dict[Path, bytes]:
    return {path: (folder / path).read_bytes() for path in FILES}


@pytest.mark.parametrize("model", MODEL_FOLDERS)
def test_shipped_run_is_the_one_in_git(model: str) -> None:
    show = ["git", "show", f"HEAD:{MODEL_FOLDERS[model] / RECORD}"]
    assert json.loads(subprocess.check_output(show, cwd=ROOT))["run_id"] == SHIPPED_RUNS[model]


def test_training_keeps_the_replaced_run_and_release_restores_it(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, content in read_run(ROOT).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert run_training("train", "--data", own, "--out", tmp_path, *QUICK) == 0
    output = capsys.readouterr()
    assert "warning: own has 30 images (0: 3, 1: 3," in output.err
    assert "expected at least 100 of a digit" in output.err
    assert "make train FROM=released DATA=…\n" in output.err
    assert f"replaced run {SHIPPED_RUN} (mnist, validation 99." in output.out
    assert f'to go back: make release RUN={SHIPPED_RUN} ARGS="--out {tmp_path}"\n' in output.out
    run_id = make_run_id(CONFIG, load_data(str(own)))
    trained = read_run(tmp_path)
    assert read_run(tmp_path / RUNS / run_id) == trained
    assert json.loads(trained[RECORD])["run_id"] == run_id
    assert read_run(tmp_path / RUNS / SHIPPED_RUN) == read_run(ROOT)

    assert run_training("release", "released", "--out", tmp_path) == 0
    assert f"current run: {SHIPPED_RUN} (mnist, " in capsys.readouterr().out
    assert read_run(tmp_path) == read_run(ROOT)
    assert run_training("release", run_id, "--out", tmp_path) == 0
    assert read_run(tmp_path) == trained

    capsys.readouterr()
    assert run_training("train", "--data", own, "--out", tmp_path, *QUICK) == 0
    assert "replaced" not in capsys.readouterr().out
    assert read_run(tmp_path) == read_run(tmp_path / RUNS / run_id) == trained
    assert {path.name for path in (tmp_path / RUNS).iterdir()} == {run_id, SHIPPED_RUN}


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [(Path, "replace", KeyboardInterrupt), (Path, "replace", OSError), (os, "fsync", OSError)],
)
def test_interrupted_release_changes_nothing(
    owner: Any, name: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupt the first, second, … rename or all later syncs, until a release is no longer interrupted."""
    before, after = write_run(tmp_path, run_id="one"), write_run(tmp_path / RUNS / "two", run_id="two")
    true, count, last = getattr(owner, name), 0, 0

    def interrupt(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == last or (count > last and owner is os):
            raise error
        return true(*arguments)

    monkeypatch.setattr(owner, name, interrupt)
    while read_run(tmp_path) == before:
        count, last = 0, last + 1
        try:
            release_run("two", tmp_path)
        except error:
            assert read_run(tmp_path) == before
        assert read_run(tmp_path / RUNS / "two") == after
        assert not list(tmp_path.rglob(".*.tmp"))
    assert read_run(tmp_path) == after
    assert last > len(FILES)


def test_run_of_the_large_model_is_released_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, run_id="one")
    two = write_run(tmp_path / RUNS / "two", run_id="two")
    assert run_training("release", "two", "--model", "large", "--out", tmp_path) == 0
    assert f'make release RUN=one MODEL=large ARGS="--out {tmp_path}"\n' in capsys.readouterr().out
    assert read_run(tmp_path) == two
    assert find_run("released", tmp_path, "large").is_relative_to(ROOT / MODEL_FOLDERS["large"])


def test_unknown_run_lists_the_existing_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / RUNS / "one", run_id="one", data={"name": "own"}, metrics={"test": {"accuracy": 0.975}})
    write_run(tmp_path / RUNS / "two", run_id="two")
    (tmp_path / RUNS / "stopped" / "model").mkdir(parents=True)
    for name in ("three", "stopped", "../runs/one", "", "."):
        with pytest.raises(
            RunError, match=r"expected one of: released, one \(own, test 97.50%\), two \(unknown data\)$"
        ):
            release_run(name, tmp_path)
    monkeypatch.setattr("training.runs.ROOT", tmp_path)
    with pytest.raises(RunError, match="git checkout model scripted_model"):
        find_run("released", tmp_path)


@pytest.mark.parametrize("record", [{"run_id": "one", "reference": "other"}, {}, {"run_id": "../../one"}])
def test_current_files_without_a_run_are_kept(
    record: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed drift baseline, a model without run id, a run id that is a path."""
    kept, current = write_run(tmp_path / RUNS / "one", run_id="one"), write_run(tmp_path, **record)
    write_run(tmp_path / RUNS / "two", run_id="two")
    release_run("two", tmp_path)
    name = capsys.readouterr().out.split("RUN=")[1].split()[0]
    assert read_run(tmp_path / RUNS / name) == current
    assert read_run(tmp_path / RUNS / "one") == kept
    release_run(name, tmp_path)
    assert read_run(tmp_path) == current


def test_stopped_run_with_other_options_is_neither_resumed_nor_removed(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, other = load_data(str(own)), replace(CONFIG, epochs=2)
    checkpoint = tmp_path / RUNS / make_run_id(other, data) / export.CHECKPOINT
    Trainer(other, data).save_checkpoint(checkpoint)
    content = checkpoint.read_bytes()
    options = ("train", "--data", own, "--out", tmp_path, *QUICK)
    assert run_training(*options, "--resume") == 1
    assert f"{checkpoint}: belongs to another run" in capsys.readouterr().err
    assert run_training(*options) == 0
    assert checkpoint.read_bytes() == content
    assert run_training(*options, "--epochs", 2, "--resume") == 0
    assert not checkpoint.exists()


def break_smoke(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None) -> None:
    for path in export.SMOKE_FOLDER.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    monkeypatch.setattr(export, "SMOKE_FOLDER", folder)


def raise_not_installed(name: str) -> NoReturn:
    raise PackageNotFoundError(name)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no smoke image", "3.png"),
        ("damaged smoke image", "`git checkout handler/smoke` restores the ten images"),
        ("no library", "torch is not installed; expected all of requirements.txt"),
        ("out is a file", "cannot be written (File exists); choose another with --out"),
        ("runs is a file", "cannot be written (Not a directory); choose another with --out"),
        ("read-only", "cannot be written (Read-only file system); choose another with --out"),
        ("full", "cannot be written (No space left on device); choose another with --out"),
    ],
)
def test_errors_of_the_last_step_come_before_the_first_epoch(
    case: str,
    message: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    match case:
        case "no smoke image":
            break_smoke(tmp_path, monkeypatch, "3.png", None)
        case "damaged smoke image":
            break_smoke(tmp_path, monkeypatch, "7.png", b"seven")
        case "no library":
            monkeypatch.setattr(export, "version", raise_not_installed)
        case "out is a file":
            out = tmp_path / "file"
            out.write_text("")
        case "runs is a file":
            (out / RUNS).write_text("")
        case _:
            number = {"read-only": errno.EROFS, "full": errno.ENOSPC}[case]

            def fail(*_: object) -> NoReturn:
                raise OSError(number, os.strerror(number))

            monkeypatch.setattr(os, "open" if case == "read-only" else "fsync", fail)
    assert run_training("train", "--data", own, "--out", out, *QUICK) == 1
    output = capsys.readouterr()
    assert output.out == ""
    *_, error = output.err.splitlines()
    assert error.startswith("error: ")
    assert message in error
