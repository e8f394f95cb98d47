"""Search for a better recipe: Optuna proposes, the validation split judges, poor trials are pruned.

The study lives in an SQLite file; a search that was stopped goes on from there.
"""

import json
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
from optuna.trial import TrialState

from common.atomic import write_atomic
from training.augmented_data import AugmentedData
from training.data import DataSet
from training.plots import write_figure
from training.recipe import Config, ConfigError
from training.train import ResumeError, Trainer, choose_pictures, make_rounds, make_run_id
from training.training_commands import configure_recipe, load_pictures

STUDY, RECIPE, PICTURE = "study.db", "recipe.json", "study.png"
MOST_OUTLIERS = 0.2  # share of a batch's digits
UNPRUNED = 5  # trials that run to their end before others are compared with them


def run_tune(given: Namespace) -> int:
    """Run the command `tune`."""
    config = configure_recipe(given)
    if config.held_out != "validation":
        raise ConfigError(f"--held-out {config.held_out}; tune judges by the validation split alone")
    study = tune(config, load_pictures(given), given.trials, given.out)
    print(f"best: trial {study.best_trial.number}, validation loss {study.best_value:.4f}, {study.best_params}")
    for name in (RECIPE, PICTURE, STUDY):
        print(given.out / name)
    return 0


def propose(trial: optuna.Trial, config: Config) -> Config:
    """The trial's recipe: what is searched, config's values in its ranges; all else but a teacher is config's."""
    start = _searched(config)

    def number(name: str, low: float, high: float, log: bool = False) -> float:
        return trial.suggest_float(name, min(low, start[name]), max(high, start[name]), log=log)

    return replace(
        config,
        recipe="tuned",
        teacher=0,
        batch=trial.suggest_categorical("batch", sorted({25, 50, 100, config.batch})),
        lr=number("lr", 1e-3, 3e-2, log=True),
        dropout=number("dropout", 0.0, 0.2),
        average=trial.suggest_categorical("average", sorted({0.99, 0.999, 0.9995, config.average})),
        outliers=number("outliers", 0.0, MOST_OUTLIERS),
    )


def _searched(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("batch", "lr", "dropout", "average", "outliers")}


def tune(
    config: Config, data: DataSet, trials: int, folder: Path, report: Callable[[str], None] = print
) -> optuna.Study:
    """Runs trials until the study in `folder` has `trials` of them; writes its best recipe and a picture after each.

    Raises ResumeError if the study there is of other data or of another starting point.
    """
    study = _study(config, data, folder)
    most = replace(config, outliers=max(MOST_OUTLIERS, config.outliers))
    rounds = make_rounds(most, choose_pictures(config, data)[0])
    while (done := len(_done(study))) < trials:
        report(f"trial {done + 1} of {trials}")
        study.optimize(lambda trial: _loss(trial, config, data, rounds, report), n_trials=1)
        if study.best_trials:
            _write(study, config, folder)
    return study


def _study(config: Config, data: DataSet, folder: Path) -> optuna.Study:
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / STUDY}",
        study_name="digits",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED),
    )
    start = study.user_attrs.get("start", make_run_id(config, data))
    if start != make_run_id(config, data):
        raise ResumeError(f"{folder / STUDY}: a study of other data or options; choose another --out or remove it")
    study.set_user_attr("start", start)
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))  # else a restart repeats trials
    if not study.trials:
        study.enqueue_trial(_searched(config))
    _repeat_stopped(study)
    return study


def _repeat_stopped(study: optuna.Study) -> None:
    """What ran when the search was stopped is tried again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _loss(
    trial: optuna.Trial, config: Config, data: DataSet, rounds: AugmentedData, report: Callable[[str], None]
) -> float:
    """The validation pictures' cross-entropy at the trial's end."""
    trainer = Trainer(propose(trial, config), data, rounds)
    while len(trainer.history) < config.epochs:
        epoch = trainer.run_epoch()
        trial.report(epoch.held_loss, epoch.number)
        if trial.should_prune():
            report(f"pruned after epoch {epoch.number}: loss {epoch.held_loss:.4f}, {trial.params}")
            raise optuna.TrialPruned
    report(f"loss {trainer.history[-1].held_loss:.4f}, accuracy {trainer.history[-1].held_acc:.2%}, {trial.params}")
    return trainer.history[-1].held_loss


def _write(study: optuna.Study, config: Config, folder: Path) -> None:
    best: dict[str, Any] = asdict(replace(config, recipe="tuned", **study.best_params))
    write_atomic(folder / RECIPE, f"{json.dumps(best, indent=2)}\n".encode())
    draw(study, folder / PICTURE)


def draw(study: optuna.Study, path: Path) -> None:
    """Draw the final loss over every searched option, a dot for every trial that was not pruned."""
    with warnings.catch_warnings(action="ignore"):  # an experimental function, and options with a single value
        optuna.visualization.matplotlib.plot_slice(study, target_name="validation loss")
        write_figure(path, plt.gcf())
    plt.close()
