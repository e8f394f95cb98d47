"""training/train.py: one real small run, and a run that is stopped anywhere ends the same."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from sklearn.metrics import accuracy_score

from serving.config import ROOT
from tests.test_data import write_mnist
from training.__main__ import parser
from training.data import DataSet, load_data
from training.export import CHECKPOINT
from training.measures import accuracy, evaluate
from training.model import DigitCNN
from training.recipe import RECIPES, configure
from training.teacher import Teacher
from training.train import ResumeError, Run, fit

LINE = r"Epoch : \d+ \| Train_loss : \d\.\d{3} \| Train_acc : \d+% \| Val_loss : \d\.\d{3} \| Val_acc : \d+%"
SMALL = configure("default", epochs=3, rounds=2, teacher=0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """A hundred training pictures: for what takes many runs."""
    return load_data(str(write_mnist(tmp_path_factory.mktemp("mnist"))))


def silent(_: str) -> None:
    """Reports nothing."""


def weights(run: Run) -> list[torch.Tensor]:
    return [*run.model.state_dict().values(), *run.average.state_dict().values()]


def same(first: Run, second: Run) -> bool:
    return all(torch.equal(*pair) for pair in zip(weights(first), weights(second), strict=True))


def test_two_epochs_of_mnist5k_reach_90_percent() -> None:
    lines: list[str] = []
    run = fit(configure("default", epochs=2, teacher=0), load_data("mnist5k"), report=lines.append)
    assert run.history[-1].held_acc >= 0.9
    assert len(lines) == 2
    assert all(re.fullmatch(LINE, line) for line in lines)


def test_the_original_recipe_is_the_notebooks() -> None:
    original = RECIPES["original"]
    assert (original.epochs, original.batch, original.lr, original.dropout) == (30, 50, 0.01, 0.5)
    assert (original.schedule, original.average, original.held_out) == ("constant", 0.0, "test")
    assert (original.augment, original.normalise, original.outliers, original.teacher) == (False, False, 0, 0)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small: DataSet) -> None:
    runs = [fit(replace(SMALL, seed=seed), small, report=silent) for seed in (5, 5, 6)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_ends_in_the_same_bits(recipe: str, small: DataSet, tmp_path: Path) -> None:
    config = configure(recipe, epochs=4, teacher=0)
    whole = fit(config, small, report=silent)
    checkpoint = tmp_path / "checkpoint.pt"

    def stop_in_the_third(line: str) -> None:
        if line.startswith("Epoch : 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(config, small, checkpoint, report=stop_in_the_third)
    resumed = fit(config, small, checkpoint, resume=True, report=silent)
    assert same(whole, resumed)
    assert whole.history == resumed.history


def test_a_run_with_a_teacher_that_is_stopped_in_either_ends_in_the_same_bits(small: DataSet, tmp_path: Path) -> None:
    config = replace(SMALL, teacher=2)
    whole = fit(config, small, report=silent)
    checkpoint = tmp_path / "checkpoint.pt"
    for last in ("Teacher, Epoch : 1", "Epoch : 1"):

        def stop(line: str, last: str = last) -> None:
            if line.startswith(last):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(config, small, checkpoint, resume=True, report=stop)
    lines: list[str] = []
    resumed = fit(config, small, checkpoint, resume=True, report=lines.append)
    assert same(whole, resumed)
    assert [line.startswith("Teacher") for line in lines] == [True, True, False, False, False]


def test_a_teacher_changes_what_is_learnt(small: DataSet) -> None:
    assert not same(fit(SMALL, small, report=silent), fit(replace(SMALL, teacher=1), small, report=silent))


def test_what_a_teacher_teaches_has_the_gradient_of_the_divergence_from_its_softened_probabilities(
    small: DataSet,
) -> None:
    run = Run(SMALL, small, torch.device("cpu"))
    torch.manual_seed(0)
    logits, taught = torch.randn(50, 10, requires_grad=True), torch.randn(50, 10)
    mine, its = (F.log_softmax(each / run.config.softness, 1) for each in (logits, taught))
    divergence = F.kl_div(mine, its, reduction="batchmean", log_target=True) * run.config.softness**2
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (divergence, run._distillation(logits, taught))]
    torch.testing.assert_close(*gradients)


def test_the_average_is_the_moving_one_of_all_weights_and_buffers(small: DataSet) -> None:
    """The oracle is one number at a time; the teacher has counters among its buffers."""
    run = Run(replace(SMALL, average=0.9), small, torch.device("cpu"), network=lambda _: Teacher())
    average = run.average.module.state_dict()
    expected = {name: value.double() for name, value in average.items()}
    for step in range(40):
        for value in run.model.state_dict().values():
            value += step if value.is_floating_point() else 1
        run.average.update()
        share = 1.0 if step == 0 else max(1 - 0.9, 9 / (9 + step))
        for name, value in run.model.state_dict().items():
            counts = not value.is_floating_point()
            expected[name] = value.double() if counts else expected[name] + share * (value - expected[name])
    for name, value in run.average.module.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_resume_says_whether_there_is_something_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_mnist(tmp_path / "data")
    options = ["train", "--data", str(data), "--out", str(tmp_path), "--epochs", "1", "--rounds", "1", "--teacher", "2"]
    config = replace(SMALL, epochs=1, rounds=1, teacher=2)

    def stop(line: str) -> None:
        if line.startswith("Teacher, Epoch : 1"):
            raise KeyboardInterrupt

    for more, said in ((["--resume"], ""), ([], "--resume would go on from it"), (["--resume"], "nothing to resume")):
        if "nothing" not in said:
            (tmp_path / "model").mkdir(exist_ok=True)
            with pytest.raises(KeyboardInterrupt):
                fit(config, load_data(str(data)), tmp_path / CHECKPOINT, report=stop)
        given = parser().parse_args([*options, *more])
        assert given.run(given) == 0
        errors = capsys.readouterr().err
        assert said in errors
        assert ("resume" in errors) == bool(said)


def test_resume_without_a_checkpoint_starts(small: DataSet, tmp_path: Path) -> None:
    assert len(fit(SMALL, small, tmp_path / "none.pt", resume=True, report=silent).history) == 3


def test_a_checkpoint_of_another_run_is_refused(small: DataSet, tmp_path: Path) -> None:
    fit(SMALL, small, tmp_path / "checkpoint.pt", report=silent)
    with pytest.raises(ResumeError, match="its options, its data or the version of training differ"):
        fit(replace(SMALL, seed=1), small, tmp_path / "checkpoint.pt", resume=True, report=silent)


def test_a_damaged_checkpoint_is_refused(small: DataSet, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ResumeError, match="no checkpoint of ours"):
        fit(SMALL, small, tmp_path / "checkpoint.pt", resume=True, report=silent)


def test_a_killed_training_goes_on_to_the_same_files(tmp_path: Path) -> None:
    """Real processes: one runs through, one is killed with SIGKILL after its second epoch and resumed."""
    data = write_mnist(tmp_path / "data")
    command = [sys.executable, "-m", "training", "train", "--data", str(data), "--epochs", "60", "--teacher", "2"]

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
    assert (output.count("Teacher, Epoch :"), output.count("\nEpoch :")) == (2, 60)
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.*")]
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_a_stopped_training_says_how_to_go_on_and_leaves_no_process(tmp_path: Path) -> None:
    """Ctrl-C reaches the processes that make pictures, too; all are in its group."""
    command = [sys.executable, "-m", "training", "train", "--data", "mnist5k", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
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
    run = fit(configure("original", epochs=1), small, report=lines.append)
    assert "| Test_loss : " in lines[0]
    assert (len(run.train), len(run.held)) == (100, 20)


def test_the_original_recipe_without_test_pictures_says_it_measured_validation() -> None:
    run = Run(configure("original"), load_data("mnist5k"), torch.device("cpu"))
    assert (run.held_out, len(run.held)) == ("validation", 420)


def test_accuracy_is_scikit_learns() -> None:
    torch.manual_seed(0)
    logits, labels = torch.rand(200, 10), torch.randint(0, 10, (200,))
    assert accuracy(logits, labels) == pytest.approx(accuracy_score(labels, logits.argmax(1)))


def test_evaluation_leaves_the_models_mode(small: DataSet) -> None:
    model = DigitCNN().train()
    evaluate(model, small.validation)
    assert model.training
