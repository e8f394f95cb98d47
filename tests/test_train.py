"""training/train.py: one real small run, and a training that is stopped anywhere ends the same."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from sklearn.metrics import accuracy_score

from common.command_line import run_command
from serving.config import ROOT
from tests.datasets import mnist5k, write_mnist
from training.__main__ import parser
from training.data import DataSet, load_data
from training.export import CHECKPOINT
from training.measures import accuracy, evaluate
from training.model import DigitCNN
from training.recipe import RECIPES, Config, configure
from training.teacher import Teacher
from training.train import ResumeError, Trainer, fit

LINE = r"Epoch : \d+ \| Train_loss : \d\.\d{3} \| Train_acc : \d+% \| Val_loss : \d\.\d{3} \| Val_acc : \d+%"
SMALL = configure("default", epochs=3, rounds=2, teacher=0, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """A hundred training pictures: for what takes many trainings."""
    return load_data(str(write_mnist(tmp_path_factory.mktemp("mnist"))))


@pytest.fixture(scope="module")
def trained(small: DataSet) -> Trainer:
    return fit(SMALL, small, report=silent)


def silent(_: str) -> None:
    """Reports nothing."""


def fit_until(line: str, config: Config, data: DataSet, checkpoint: Path) -> None:
    """Resume the training and stop it as Ctrl-C does when it reports a line that starts so."""

    def report(reported: str) -> None:
        if reported.startswith(line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, data, checkpoint, resume=True, report=report)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [*trainer.model.state_dict().values(), *trainer.average.state_dict().values()]


def same(first: Trainer, second: Trainer) -> bool:
    return all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))


def test_two_epochs_of_half_of_mnist5k_reach_90_percent() -> None:
    lines: list[str] = []
    data = replace(mnist5k(), all_training=mnist5k().all_training.at(np.arange(0, 5000, 2)))
    trainer = fit(configure("default", epochs=2, rounds=1, teacher=0, threads=1), data, report=lines.append)
    assert trainer.history[-1].held_acc >= 0.9
    assert len(lines) == 2
    assert all(re.fullmatch(LINE, line) for line in lines)


def test_the_original_recipe_is_the_notebooks() -> None:
    original = RECIPES["original"]
    assert (original.epochs, original.batch, original.lr, original.dropout) == (30, 50, 0.01, 0.5)
    assert (original.schedule, original.average, original.held_out) == ("constant", 0.0, "test")
    assert (original.augment, original.normalise, original.outliers, original.teacher) == (False, False, 0, 0)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small: DataSet, trained: Trainer) -> None:
    again, other = (fit(replace(SMALL, seed=seed), small, report=silent) for seed in (SMALL.seed, SMALL.seed + 1))
    assert same(trained, again)
    assert not same(trained, other)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_training_ends_in_the_same_bits(recipe: str, small: DataSet, tmp_path: Path) -> None:
    config = configure(recipe, epochs=3, rounds=2, teacher=0, threads=1)
    whole = fit(config, small, report=silent)
    fit_until("Epoch : 2", config, small, tmp_path / "checkpoint.pt")
    resumed = fit(config, small, tmp_path / "checkpoint.pt", resume=True, report=silent)
    assert same(whole, resumed)
    assert whole.history == resumed.history


def test_a_training_with_a_teacher_that_is_stopped_in_either_ends_in_the_same_bits(
    small: DataSet, tmp_path: Path, trained: Trainer
) -> None:
    config = replace(SMALL, teacher=2)
    whole = fit(config, small, report=silent)
    assert not same(whole, trained)  # the teacher changes what is learnt
    for line in ("Teacher, Epoch : 1", "Epoch : 1"):
        fit_until(line, config, small, tmp_path / "checkpoint.pt")
    lines: list[str] = []
    resumed = fit(config, small, tmp_path / "checkpoint.pt", resume=True, report=lines.append)
    assert same(whole, resumed)
    assert [line.startswith("Teacher") for line in lines] == [True, True, False, False, False]


def test_distillation_has_the_gradient_of_the_divergence_from_the_softened_teacher(trained: Trainer) -> None:
    torch.manual_seed(0)
    logits, taught = torch.randn(50, 10, requires_grad=True), torch.randn(50, 10)
    temperature = trained.config.softness
    mine, its = (F.log_softmax(each / temperature, 1) for each in (logits, taught))
    divergence = F.kl_div(mine, its, reduction="batchmean", log_target=True) * temperature**2
    losses = divergence, trained.distillation_loss(logits, taught)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in losses))


def test_the_average_is_exponential_over_weights_and_buffers_after_a_warm_up(small: DataSet) -> None:
    """The oracle is one number at a time."""
    trainer = Trainer(replace(SMALL, average=0.9), small, network=Teacher)
    expected = {name: value.double() for name, value in trainer.average.module.state_dict().items()}
    for step in range(40):
        for value in trainer.model.state_dict().values():
            value += step if value.is_floating_point() else 1
        trainer.average.update_parameters(trainer.model)
        decay = min(0.9, step / (9 + step))
        for name, value in trainer.model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in trainer.average.module.state_dict().items():
        if value.is_floating_point():  # counters of batches are averaged by whole numbers, and used for nothing
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_resume_says_whether_there_is_something_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_mnist(tmp_path / "data")
    options = ["train", "--data", str(data), "--out", str(tmp_path), "--epochs", "1", "--rounds", "1"]
    options += ["--teacher", "2", "--threads", "1"]
    config = replace(SMALL, epochs=1, rounds=1, teacher=2)
    stop = partial(fit_until, "Teacher, Epoch : 1", config, load_data(str(data)), tmp_path / CHECKPOINT)
    for more, said in ((["--resume"], ""), ([], "--resume would go on from it"), (["--resume"], "nothing to resume")):
        if "nothing" not in said:
            stop()
        assert run_command(parser(), [*options, *more]) == 0
        errors = capsys.readouterr().err
        assert said in errors
        assert ("resume" in errors) == bool(said)


def test_a_checkpoint_of_another_training_is_refused(small: DataSet, tmp_path: Path, trained: Trainer) -> None:
    trained.save(tmp_path / "checkpoint.pt")
    with pytest.raises(ResumeError, match="its options, its data or the version of training differ"):
        fit(replace(SMALL, seed=1), small, tmp_path / "checkpoint.pt", resume=True, report=silent)


def test_a_checkpoint_of_another_training_version_is_refused(
    small: DataSet, tmp_path: Path, trained: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save(tmp_path / "checkpoint.pt")
    monkeypatch.setattr("training.train.TRAINING_VERSION", 3)
    with pytest.raises(ResumeError, match="the version of training differ"):
        fit(SMALL, small, tmp_path / "checkpoint.pt", resume=True, report=silent)


def test_a_damaged_checkpoint_is_refused(small: DataSet, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ResumeError, match="no checkpoint of ours"):
        fit(SMALL, small, tmp_path / "checkpoint.pt", resume=True, report=silent)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_files(tmp_path: Path) -> None:
    """Real processes: one runs through, one is killed with SIGKILL after its second epoch and resumed."""
    data = write_mnist(tmp_path / "data")
    command = [sys.executable, "-m", "training", "train", "--data", str(data), "--threads", "1"]
    command += ["--epochs", "30", "--rounds", "2", "--teacher", "2"]

    def start(out: str, *more: str) -> "subprocess.Popen[str]":
        words = [*command, "--out", str(tmp_path / out), *more]
        environment = os.environ | {"PYTHONHASHSEED": "0"}  # torch writes a scripted layer's constants in a set's order
        return subprocess.Popen(
            words, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    with start("whole") as whole, start("killed") as killed:
        assert killed.stdout is not None
        while not (line := killed.stdout.readline()).startswith("Epoch : 2 "):
            assert line, killed.stderr and killed.stderr.read()
        os.kill(killed.pid, signal.SIGKILL)
        whole.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "scripted_model.pt").exists()
    with start("killed", "--resume") as resumed:
        output, errors = resumed.communicate()
    assert (resumed.returncode, whole.returncode) == (0, 0), errors
    assert (output.count("Teacher, Epoch :"), output.count("\nEpoch :")) == (2, 30)
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*")]
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_a_stopped_training_says_how_to_go_on_and_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C reaches the processes that augment pictures, too; all are in its group."""
    data = write_mnist(tmp_path / "data")
    command = [sys.executable, "-m", "training", "train", "--data", str(data), "--out", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--teacher", "10000"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("Teacher, Epoch : 0 ")
        children = psutil.Process(run.pid).children(recursive=True)
        assert children
        os.killpg(run.pid, signal.SIGINT)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "stopped; --resume with the same options goes on" in errors
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_the_original_recipe_prints_test_figures(small: DataSet) -> None:
    lines: list[str] = []
    trainer = fit(configure("original", epochs=1, threads=1), small, report=lines.append)
    assert "| Test_loss : " in lines[0]
    assert (len(trainer.train), len(trainer.held)) == (100, 20)


def test_the_original_recipe_without_test_pictures_says_it_measured_validation() -> None:
    trainer = Trainer(configure("original"), mnist5k())
    assert (trainer.held_out, len(trainer.held)) == ("validation", 420)


def test_accuracy_is_scikit_learns() -> None:
    torch.manual_seed(0)
    logits, labels = torch.rand(200, 10), torch.randint(0, 10, (200,))
    assert accuracy(logits, labels) == pytest.approx(accuracy_score(labels, logits.argmax(1)))


def test_evaluation_leaves_the_models_mode(small: DataSet) -> None:
    model = DigitCNN().train()
    evaluate(model, small.validation)
    assert model.training
