"""training/tune.py: a study that is stopped goes on, and its recipe trains."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest

from serving.config import ROOT
from tests.datasets import write_mnist
from training.data import DataSet, load_data
from training.recipe import ConfigError, configure
from training.train import ResumeError
from training.tune import PICTURE, RECIPE, STUDY, tune

SMALL = configure("default", epochs=2, rounds=1, threads=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mnist(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="module")
def small(root: Path) -> DataSet:
    return load_data(str(root))


def silent(_: str) -> None:
    """Reports nothing."""


def test_a_study_goes_on_where_it_ended_and_leaves_a_recipe_that_trains(small: DataSet, tmp_path: Path) -> None:
    assert len(tune(SMALL, small, 2, tmp_path, silent).trials) == 2
    study = tune(SMALL, small, 3, tmp_path, silent)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    recipe = configure(str(tmp_path / RECIPE))
    assert (recipe.recipe, recipe.epochs, recipe.lr) == ("tuned", 2, study.best_params["lr"])
    assert (tmp_path / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_the_options_are_the_first_trial_and_no_trial_is_drawn_twice(small: DataSet, tmp_path: Path) -> None:
    config = replace(SMALL, epochs=1, teacher=0, batch=40, lr=0.05, dropout=0.3, outliers=0.25)
    for trials in (1, 2, 3, 4):
        study = tune(config, small, trials, tmp_path, silent)
    first, *others = (trial.params for trial in study.trials)
    assert first == {name: getattr(config, name) for name in ("batch", "lr", "dropout", "average", "outliers")}
    assert len({trial["lr"] for trial in (first, *others)}) == 4


def test_the_same_seed_proposes_the_same_trials(small: DataSet, tmp_path: Path) -> None:
    first, again = (tune(SMALL, small, 2, tmp_path / name, silent).trials for name in "ab")
    assert [trial.params for trial in first] == [trial.params for trial in again]
    assert [trial.value for trial in first] == [trial.value for trial in again]


def test_a_study_of_other_options_is_refused(small: DataSet, tmp_path: Path) -> None:
    tune(SMALL, small, 1, tmp_path, silent)
    with pytest.raises(ResumeError, match="a study of other data or options"):
        tune(replace(SMALL, epochs=3), small, 2, tmp_path, silent)


def test_a_poor_trial_is_pruned(small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tune.UNPRUNED", 1)
    lines: list[str] = []
    study = tune(SMALL, small, 8, tmp_path, lines.append)
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    assert any(line.startswith("pruned after epoch") for line in lines)


@pytest.mark.slow
def test_a_killed_search_tries_the_stopped_trial_again(root: Path, tmp_path: Path) -> None:
    """Real processes: the first is killed with SIGKILL in its second trial."""
    command = [sys.executable, "-m", "training", "tune", "--data", str(root), "--rounds", "1", "--out", str(tmp_path)]

    def start(trials: int) -> "subprocess.Popen[str]":
        words = [*command, "--threads", "1", "--epochs", "10", "--trials", str(trials)]
        return subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    with start(50) as killed:
        assert killed.stdout is not None
        while not (line := killed.stdout.readline()).startswith("trial 2"):
            assert line, killed.stderr and killed.stderr.read()
        os.kill(killed.pid, signal.SIGKILL)
    with start(3) as again:
        output, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "best: trial" in output
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{tmp_path / STUDY}")
    assert sum(trial.state.is_finished() and trial.state.name != "FAIL" for trial in study.trials) == 3


@pytest.mark.parametrize(
    ("content", "named"), [('{"lr": "fast"}', "lr"), ('{"speed": 1}', "speed"), ("[1]", "not a recipe"), ("{", "not a")]
)
def test_a_wrong_recipe_file_is_refused_by_what_is_wrong(content: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ConfigError, match=named):
        configure(str(tmp_path / "recipe.json"))


def test_a_recipe_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--recipe fastest: expected default, original or a file"):
        configure("fastest")


def test_a_recipe_file_holds_every_option(small: DataSet, tmp_path: Path) -> None:
    tune(SMALL, small, 1, tmp_path, silent)
    written = json.loads((tmp_path / RECIPE).read_text())
    assert written == asdict(configure(str(tmp_path / RECIPE)))
