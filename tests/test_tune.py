"""training/tune.py: a stopped study resumes, and its recipe trains."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import optuna
import pytest
from torch import Tensor

from tests.datasets import write_mnist
from training.augmented_data import MAX_KEPT_PASSES, AugmentedData
from training.data import DataSet, load_data
from training.recipe import make_config
from training.train import ResumeError
from training.tune import PLOT, RECIPE, SEARCHED, STUDY, propose_config, run_study

SMALL = make_config("default", epochs=2, augmentation_passes=1, threads=1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load_data(str(write_mnist(tmp_path_factory.mktemp("mnist"))))


def ignore_report(_: str) -> None:
    """Print nothing."""


def test_study_resumes_and_writes_a_valid_recipe(small: DataSet, tmp_path: Path) -> None:
    """The options are the first trial, no trial is repeated, and equal seeds propose equal trials."""
    config = replace(SMALL, epochs=1, batch_size=40, lr=0.05, dropout=0.3, outlier_ratio=0.25)
    assert len(run_study(config, small, 2, tmp_path, ignore_report).trials) == 2
    study = run_study(config, small, 3, tmp_path, ignore_report)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert study.trials[0].params == {name: getattr(config, name) for name in SEARCHED}
    assert len({trial.params["lr"] for trial in study.trials}) == 3
    recipe = make_config(str(tmp_path / RECIPE))
    assert (recipe.recipe, recipe.epochs, recipe.lr) == ("tuned", 1, study.best_params["lr"])
    assert json.loads((tmp_path / RECIPE).read_text()) == asdict(recipe)
    assert (tmp_path / PLOT).read_bytes().startswith(b"\x89PNG")
    again = run_study(config, small, 2, tmp_path / "again", ignore_report)
    assert [(trial.params, trial.value) for trial in again.trials] == [
        (trial.params, trial.value) for trial in study.trials[:2]
    ]
    with pytest.raises(ResumeError, match="a study of other data or options"):
        run_study(replace(config, epochs=3), small, 4, tmp_path, ignore_report)


@pytest.mark.slow
def test_poor_trial_is_pruned(small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.tune.STARTUP_TRIALS", 1)
    lines: list[str] = []
    study = run_study(SMALL, small, 8, tmp_path, lines.append)
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED}
    assert any(line.startswith("pruned after epoch") for line in lines)


def test_killed_trial_is_repeated(small: DataSet, tmp_path: Path) -> None:
    run_study(SMALL, small, 1, tmp_path, ignore_report)
    killed = optuna.load_study(study_name="digits", storage=f"sqlite:///{tmp_path / STUDY}").ask()
    propose_config(killed, SMALL)
    study = run_study(SMALL, small, 2, tmp_path, ignore_report)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[2].params == killed.params


def test_trials_share_the_augmentation_passes(small: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make_digits = AugmentedData._make_digits

    def note_pass(data: AugmentedData, number: int) -> Tensor:
        made.append(number)
        return make_digits(data, number)

    monkeypatch.setattr(AugmentedData, "_make_digits", note_pass)
    run_study(replace(SMALL, augmentation_passes=MAX_KEPT_PASSES + 1), small, 2, tmp_path, ignore_report)
    assert made == [0, 1]
