"""training/predict.py and the command line of training."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from common.command_line import run_command
from serving.config import ROOT
from tests.datasets import write_folder, write_mnist
from tests.test_command_line import imported
from training.__main__ import make_parser
from training.export import MODEL, PARAMETERS, RECORD, SCRIPTED
from training.predict import MakePrediction
from training.recipe import ConfigError, make_config

mpl.use("Agg")
SMOKE = ROOT / "handler" / "smoke"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torchmetrics plots


def training(*words: object) -> int:
    return run_command(make_parser(), list(map(str, words)))


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_make_prediction_is_the_originals() -> None:
    prediction = MakePrediction(str(SMOKE / "4.png"))
    assert prediction.show_prediction().item() == 4
    assert re.fullmatch(r"4 \(\d+\.\d%\)", prediction.plot_img().axes[0].get_title())


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_a_rejected_image_and_its_warnings_are_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = np.zeros((60, 60), np.uint8)
    marks[10:20, 30:34] = marks[40:50, 8:12] = marks[20:24, 5:9] = 255
    images = {"marks.png": marks, "dark.png": 255 - marks}
    for name, gray in images.items():
        Image.fromarray(gray).save(tmp_path / name)
    paths = [SMOKE / "4.png", *(tmp_path / name for name in images)]
    assert training("predict", *paths) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == list(map(str, paths))
    assert rows[0][1:2] + rows[0][3:] == ["4", "accepted", ""]
    for path, row in zip(paths, rows, strict=True):
        prediction = MakePrediction(path)
        assert row[3:] == ["accepted" if prediction.accepted else "rejected", " ".join(prediction.warnings)]
        title, *warnings = prediction.plot_img().axes[0].get_title().split("\n")
        assert title.endswith(", rejected") != prediction.accepted
        assert tuple(warnings) == prediction.warnings
    assert [row[3:] for row in rows[1:]] == [["rejected", "several_marks"], ["rejected", "inverted several_marks"]]


def test_predict_imports_only_what_it_needs() -> None:
    heavy = {"matplotlib", "torchvision", "torchmetrics", "scipy", "sklearn", "mlxtend", "joblib"}
    assert not imported("training", "predict", str(SMOKE / "7.png")) & heavy


def test_predict_reads_the_good_and_names_the_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("seven")
    assert training("predict", SMOKE / "1.png", tmp_path / "none.png", tmp_path / "text.png", SMOKE / "2.png") == 1
    shown = capsys.readouterr()
    assert [line.split("\t")[1] for line in shown.out.splitlines()] == ["1", "2"]
    assert "none.png: No such file" in shown.err
    assert "text.png: 5 bytes that are no picture" in shown.err


def test_evaluate_prints_accuracy_recall_and_matrix_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_mnist(tmp_path / "data")
    assert training("evaluate", "--data", root, "--part", "all", "--plot", tmp_path / "matrix.png") == 0
    output = capsys.readouterr().out
    assert "mnist, all: 100 pictures" in output
    accuracy = re.search(r"^accuracy (\d+\.\d\d)%, loss", output, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy.group(1)) >= 99
    rows = [line.split() for line in output.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == [str(digit) for digit in range(10)]
    assert all(sum(map(int, row[2:])) == 10 for row in rows)
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_takes_another_model_and_ones_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--data", write_folder(tmp_path / "own"), "--model", ROOT / SCRIPTED, "--plot", tmp_path / "matrix.png")
    assert training("evaluate", *words) == 0
    assert "own, all: 30 pictures" in capsys.readouterr().out


def test_train_on_ones_own_pictures_writes_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_folder(tmp_path / "own")
    (own / "3" / "notes.txt").write_text("three")
    epochs = ("--epochs", 1, "--teacher-epochs", 1, "--augmentation-passes", 1)
    options = ("--data", own, *epochs, "--threads", 1, "--out", tmp_path)
    assert training("train", *options) == 1
    assert "notes.txt" in capsys.readouterr().err
    assert training("train", *options, "--skip-unreadable") == 0
    assert "skipped 1 unreadable pictures" in capsys.readouterr().err
    written = {path.name for path in (tmp_path / "model").iterdir()}
    assert written == {MODEL.name, PARAMETERS.name, RECORD.name, "curves.png"}
    assert (tmp_path / SCRIPTED).is_file()


@pytest.mark.parametrize(
    ("option", "value"),
    [("epochs", 0), ("lr", -1), ("seed", 10**23)],
)
def test_an_option_out_of_its_range_is_named(option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"--{option} .*expected"):
        make_config("default", **{option: value})


def test_a_folder_that_cannot_be_written_is_named_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert training("train", "--data", "mnist5k", "--epochs", 1, "--out", tmp_path / "file") == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert "Epoch" not in output.out
