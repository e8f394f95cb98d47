"""training/export.py: what a run writes, whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch

from training.data import load_data
from training.export import MODEL, PARAMETERS, RECORD, SCRIPTED, export, record, write_whole
from training.model import DigitCNN, load_model
from training.train import Run, configure


def test_the_three_models_are_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export(DigitCNN(), {}, tmp_path)
    pictures = torch.rand(5, 3, 64, 64)
    logits = [load_model(tmp_path / name)(pictures) for name in (MODEL, PARAMETERS, SCRIPTED)]
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[0], logits[2])


def test_record_names_all_that_determines_the_run() -> None:
    data = load_data("mnist5k")
    run = Run(configure("default", seed=7), data, torch.device("cpu"))
    written = json.loads(json.dumps(record(run, data, {})))
    assert written["run_id"] == run.identity
    assert (written["parameters"], written["seed"], written["recipe"]["lr"]) == (20_180, 7, run.config.lr)
    assert written["data"]["sha256"] == data.sha256
    assert written["libraries"]["torch"] == torch.__version__
    assert {"version", "architecture", "epochs", "metrics"} <= set(written)


@pytest.mark.parametrize("path", [MODEL, PARAMETERS, SCRIPTED, RECORD])
def test_no_file_is_left_half_written(path: Path, tmp_path: Path) -> None:
    target = tmp_path / path
    write_whole(target, lambda file: file.write(b"before"))

    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError("no space left on device")

    failing: Callable[[IO[bytes]], None] = fail
    with pytest.raises(OSError, match="no space"):
        write_whole(target, failing)
    assert target.read_bytes() == b"before"
    assert [file.name for file in target.parent.iterdir()] == [target.name]
