"""training/predict.py and the command line of training."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from common.command_line import run_command
from common.models import ONNX, RECORD
from serving.config import ROOT
from tests.datasets import write_folder, write_mnist
from tests.test_command_line import list_imports
from training.__main__ import make_parser
from training.export import MODEL, PARAMETERS, SCRIPTED
from training.predict import MakePrediction

mpl.use("Agg")
SMOKE = ROOT / "handler" / "smoke"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torchmetrics plots


def run_training(*argv: object) -> int:
    return run_command(make_parser(), list(map(str, argv)))


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_make_prediction_keeps_its_interface() -> None:
    prediction = MakePrediction(str(SMOKE / "4.png"))
    assert prediction.show_prediction().item() == 4
    assert re.fullmatch(r"4 \(\d+\.\d%\)", prediction.plot_img().axes[0].get_title())


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_rejection_and_warnings_are_printed_and_plotted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    components = np.zeros((60, 60), np.uint8)
    components[10:20, 30:34] = components[40:50, 8:12] = components[20:24, 5:9] = 255
    images = {"components.png": components, "dark.png": 255 - components}
    for name, gray in images.items():
        Image.fromarray(gray).save(tmp_path / name)
    paths = [SMOKE / "4.png", *(tmp_path / name for name in images)]
    assert run_training("predict", *paths) == 0
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
    assert not list_imports("training", "predict", str(SMOKE / "7.png")) & heavy


def test_predict_continues_after_errors_and_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_text("seven")
    assert run_training("predict", SMOKE / "1.png", tmp_path / "none.png", tmp_path / "text.png", SMOKE / "2.png") == 1
    output = capsys.readouterr()
    assert [line.split("\t")[1] for line in output.out.splitlines()] == ["1", "2"]
    assert "none.png: No such file" in output.err
    assert "text.png: 5 bytes" in output.err


def test_evaluate_prints_and_plots_the_confusion_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_mnist(tmp_path / "data")
    assert run_training("evaluate", "--data", root, "--part", "all", "--plot", tmp_path / "matrix.png") == 0
    output = capsys.readouterr().out
    assert "mnist, all: 100 images" in output
    accuracy = re.search(r"^accuracy (\d+\.\d\d)%, loss", output, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy.group(1)) >= 99
    rows = [line.split() for line in output.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in rows] == [str(digit) for digit in range(10)]
    assert all(sum(map(int, row[2:])) == 10 for row in rows)
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_takes_another_model_and_own_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--data", write_folder(tmp_path / "own"), "--model", ROOT / SCRIPTED, "--plot", tmp_path / "matrix.png")
    assert run_training("evaluate", *options) == 0
    assert "own, all: 30 images" in capsys.readouterr().out
    assert run_training("evaluate", *options[:2], "--model", "large", *options[4:]) == 0
    assert f"{ROOT / 'large' / PARAMETERS} on own, all" in capsys.readouterr().out


def test_training_on_own_images_writes_all_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = write_folder(tmp_path / "own")
    (own / "3" / "notes.txt").write_text("three")
    epochs = ("--epochs", 1, "--augmentation-passes", 1)
    options = ("--data", own, *epochs, "--threads", 1, "--out", tmp_path)
    assert run_training("train", *options) == 1
    assert "notes.txt" in capsys.readouterr().err
    assert run_training("train", *options, "--skip-unreadable") == 0
    assert "skipped 1 unreadable images" in capsys.readouterr().err
    written = {path.name for path in (tmp_path / "model").iterdir()}
    assert written == {MODEL.name, PARAMETERS.name, ONNX.name, RECORD.name, "curves.png"}
    assert (tmp_path / SCRIPTED).is_file()


def test_unwritable_folder_is_named_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert run_training("train", "--data", "mnist5k", "--epochs", 1, "--out", tmp_path / "file") == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert "Epoch" not in output.out
