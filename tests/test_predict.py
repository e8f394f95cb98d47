"""training/predict.py and the command line of training."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

from handler.preprocessing import ImageError
from serving.config import ROOT
from tests.test_data import write_folder
from training.predict import MakePrediction
from training.recipe import ConfigError, configure

mpl.use("Agg")
SMOKE = ROOT / "handler" / "smoke"


def training(*words: object, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "training", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_make_prediction_is_the_originals() -> None:
    prediction = MakePrediction(str(SMOKE / "4.png"))
    assert prediction.show_prediction().item() == 4
    assert prediction.plot_img().axes[0].get_title().startswith("4 (")


def test_make_prediction_of_what_is_no_picture_raises(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("seven")
    with pytest.raises(ImageError, match="5 bytes that are no picture"):
        MakePrediction(tmp_path / "a.png")


def test_predict_reads_the_good_and_names_the_bad(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("seven")
    run = training("predict", SMOKE / "1.png", tmp_path / "none.png", tmp_path / "text.png", SMOKE / "2.png")
    assert run.returncode == 1
    assert [line.split("\t")[1] for line in run.stdout.splitlines()] == ["1", "2"]
    assert "none.png: No such file" in run.stderr
    assert "text.png: 5 bytes that are no picture" in run.stderr
    assert "Traceback" not in run.stderr


def test_evaluate_prints_accuracy_recall_and_matrix_and_draws_it(tmp_path: Path) -> None:
    run = training("evaluate", "--data", "mnist5k", "--plot", tmp_path / "matrix.png")
    assert run.returncode == 0, run.stderr
    assert "mnist5k, all: 5000 pictures" in run.stdout
    accuracy = re.search(r"^accuracy (\d+\.\d\d)%, loss", run.stdout, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy.group(1)) >= 99
    rows = [line.split() for line in run.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == [str(digit) for digit in range(10)]
    assert all(sum(map(int, row[2:])) == 500 for row in rows)
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["DigitRecognitionModel.pt", "DigitRecognitionModelParameter.pt", "../scripted_model.pt"]
)
def test_evaluate_takes_any_saved_model_and_ones_own_pictures(name: str, tmp_path: Path) -> None:
    own = write_folder(tmp_path / "own")
    model = ROOT / "model" / name
    run = training("evaluate", "--data", own, "--model", model, "--plot", tmp_path / "matrix.png")
    assert run.returncode == 0, run.stderr
    assert "own, all: 30 pictures" in run.stdout


def test_train_on_ones_own_pictures_writes_everything(tmp_path: Path) -> None:
    own = write_folder(tmp_path / "own")
    (own / "3" / "notes.txt").write_text("three")
    refused = training("train", "--data", own, "--epochs", 1, "--out", tmp_path)
    assert refused.returncode == 1
    assert "notes.txt" in refused.stderr
    run = training("train", "--data", own, "--epochs", 1, "--skip-unreadable", "--out", tmp_path)
    assert run.returncode == 0, run.stderr
    assert "skipped 1 unreadable pictures" in run.stderr
    written = {path.name for path in (tmp_path / "model").iterdir()} | {"scripted_model.pt"}
    assert written == {
        "DigitRecognitionModel.pt",
        "DigitRecognitionModelParameter.pt",
        "model.json",
        "curves.png",
        "scripted_model.pt",
    }
    assert (tmp_path / "scripted_model.pt").is_file()


@pytest.mark.parametrize(
    "words", [["train", "--data", "nowhere"], ["evaluate", "--data", "mnist5k", "--model", "none.pt"]]
)
def test_errors_are_one_line_without_a_traceback(words: list[str]) -> None:
    run = training(*words)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 0), ("batch", 0), ("lr", -1), ("dropout", 2), ("average", 1.5), ("seed", 10**23), ("threads", 0)],
)
def test_an_option_out_of_its_range_is_named(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{option} .*expected"):
        configure("default", **{option: value})


def test_a_folder_that_cannot_be_written_is_named_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = training("train", "--data", "mnist5k", "--epochs", 1, "--out", tmp_path / "file")
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "Epoch" not in run.stdout
