"""training/train.py: a small real run, and bit-identical weights after stopping and resuming."""

import itertools
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it

from common.command_line import run_command
from common.models import RECORD
from serving.config import ROOT
from tests.datasets import mnist5k, write_mnist
from training.__main__ import make_parser
from training.data import DataSet, load_data
from training.export import CHECKPOINT, PARAMETERS
from training.recipe import NO_TEACHER, Config, make_config
from training.runs import RUNS
from training.train import ResumeError, Trainer, fit, make_run_id

LINE = (
    r"Epoch : \d+ \| Train_loss : \d\.\d{3} \| Train_acc : \d+% \| Val_loss : \d\.\d{3} \| Val_acc : \d+%"
    r" \| \d+:\d\d:\d\d left"
)
SMALL = make_config("default", epochs=3, augmentation_passes=2, teacher=NO_TEACHER, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """A hundred training images, for tests that train often."""
    return load_data(str(write_mnist(tmp_path_factory.mktemp("mnist"))))


def ignore_report(_: str) -> None:
    """Print nothing."""


def fit_until(line: str, config: Config, data: DataSet, checkpoint: Path) -> None:
    """Resume training; raise KeyboardInterrupt when it reports a line that starts with `line`."""

    def report(reported: str) -> None:
        if reported.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data, checkpoint, resume=True, report=report)


def list_weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.model.state_dict().values(), *trainer.average.state_dict().values()]


def have_equal_weights(first: Trainer, second: Trainer) -> bool:
    return all(torch.equal(*pair) for pair in zip(list_weights(first), list_weights(second), strict=True))


def test_two_epochs_of_half_of_mnist5k_reach_90_percent() -> None:
    lines: list[str] = []
    data = replace(mnist5k(), all_training=mnist5k().all_training.select(np.arange(0, 5000, 2)))
    config = replace(SMALL, epochs=2, augmentation_passes=1)
    trainer = fit(config, data, report=lines.append)
    assert trainer.history[-1].held_acc >= 0.9
    assert lines[0] == "epochs: 2 (--epochs), on 2290 images of mnist5k"
    assert len(lines) == 3
    assert all(re.fullmatch(LINE, line) for line in lines[1:])


@pytest.mark.parametrize("recipe", ["default", "large", "original"])
def test_resumed_training_is_bit_identical(recipe: str, small: DataSet, tmp_path: Path) -> None:
    config = make_config(recipe, epochs=3, augmentation_passes=2, threads=1)
    expected = fit(config, small, report=ignore_report)
    fit_until("Epoch : 1", config, small, tmp_path / "checkpoint.pt")
    lines: list[str] = []
    resumed = fit(config, small, tmp_path / "checkpoint.pt", resume=True, report=lines.append)
    assert have_equal_weights(expected, resumed)
    assert expected.history == resumed.history
    starts = [line.split(" |")[0] for line in lines[1:]]  # earlier epochs are not printed again
    assert starts == ["resumed after 1 of 3 epochs", "Epoch : 1", "Epoch : 2"]


def test_lines_show_the_time_left(small: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch takes a minute of the fake clock."""
    monkeypatch.setattr("training.train.monotonic", itertools.count(step=60).__next__)
    lines: list[str] = []
    fit(replace(SMALL, epochs=4), small, report=lines.append)
    left = [line.split(" | ")[-1] for line in lines[1:]]
    assert left == ["0:03:00 left", "0:02:00 left", "0:01:00 left", "0:00:00 left"]


def test_teacher_changes_the_weights(small: DataSet) -> None:
    configs = [replace(SMALL, epochs=1, teacher=teacher) for teacher in (NO_TEACHER, "large")]
    trainers = [fit(config, small, report=ignore_report) for config in configs]
    assert not have_equal_weights(*trainers)
    assert trainers[0].run_id != trainers[1].run_id


def test_distillation_loss_has_the_gradient_of_the_kl_divergence(small: DataSet) -> None:
    trainer = Trainer(SMALL, small)
    logits, teacher_logits = torch.randn(50, 10, requires_grad=True), torch.randn(50, 10)
    temperature = SMALL.distillation_temperature
    student, teacher = (F.log_softmax(values / temperature, 1) for values in (logits, teacher_logits))
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    losses = divergence, trainer.compute_distillation_loss(logits, teacher_logits)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))


def test_average_is_exponential_over_weights_and_buffers_after_warm_up(small: DataSet) -> None:
    """The oracle updates one tensor at a time."""
    trainer = Trainer(replace(SMALL, model="large", ema_decay=0.9), small)
    expected = {name: value.double() for name, value in trainer.average.module.state_dict().items()}
    for step in range(40):
        for value in trainer.model.state_dict().values():
            value += step if value.is_floating_point() else 1
        trainer.average.update_parameters(trainer.model)
        decay = min(0.9, step / (9 + step))
        for name, value in trainer.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in trainer.average.module.state_dict().items():
        if value.is_floating_point():  # batch counters are integers, and unused
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_resumed_training_writes_identical_files_and_reports_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_mnist(tmp_path / "data")
    options = f"train --data {data} --epochs 3 --augmentation-passes 2 --threads 1".split()
    for out, more, hint in (
        ("whole", ["--resume"], "nothing to resume"),
        ("resumed", ["--resume"], ""),
        ("replaced", [], "--resume would continue it"),
    ):
        folder = tmp_path / out
        if out != "whole":
            config, loaded = replace(SMALL, teacher="large"), load_data(str(data))
            fit_until("Epoch : 1", config, loaded, folder / RUNS / make_run_id(config, loaded) / CHECKPOINT)
        assert run_command(make_parser(), [*options, "--out", str(folder), *more]) == 0
        errors = capsys.readouterr().err
        assert hint in errors
        assert ("resume" in errors) == bool(hint)
        assert not list(folder.rglob("checkpoint*"))
        for name in (PARAMETERS, RECORD):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_damaged_or_different_checkpoint_is_an_error(
    small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(b"half")
    with pytest.raises(ResumeError, match="not a checkpoint"):
        fit(SMALL, small, checkpoint, resume=True, report=ignore_report)
    Trainer(SMALL, small).save_checkpoint(checkpoint)
    with pytest.raises(ResumeError, match="options, data, teacher or version differ"):
        fit(replace(SMALL, seed=1), small, checkpoint, resume=True, report=ignore_report)
    monkeypatch.setattr("training.train.TRAINING_VERSION", 3)
    with pytest.raises(ResumeError, match="version differ"):
        fit(SMALL, small, checkpoint, resume=True, report=ignore_report)


@pytest.mark.slow
def test_stopped_training_says_how_to_resume_and_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C also reaches the augmentation processes, which are in the same group."""
    data = write_mnist(tmp_path / "data")
    command = [sys.executable, "-m", "training", "train", "--data", str(data), "--out", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--epochs", "10000"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores SIGINT
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("epochs: 10000 (--epochs)")
        assert run.stdout.readline().startswith("Epoch : 0 ")
        children = psutil.Process(run.pid).children(recursive=True)
        assert children
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "stopped; the same options with --resume continue" in errors
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_original_recipe_evaluates_test_images_or_else_validation(small: DataSet) -> None:
    lines: list[str] = []
    trainer = fit(make_config("original", epochs=1, threads=1), small, report=lines.append)
    assert "| Test_loss : " in lines[1]
    assert (len(trainer.train), len(trainer.held_out_images)) == (100, 20)
    trainer = Trainer(make_config("original"), mnist5k())
    assert (trainer.held_out_part, len(trainer.held_out_images)) == ("validation", 420)
