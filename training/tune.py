"""Search for a better recipe: Optuna proposes, the validation split judges, poor trials are pruned.

The study lives in an SQLite file; a search that was stopped goes on from there.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from matplotlib.figure import Figure
from optuna.trial import TrialState

from training.data import DataSet
from training.export import write_whole
from training.recipe import Config
from training.rounds import Rounds
from training.train import ResumeError, Run, make_rounds, parts, run_id

STUDY, RECIPE, PICTURE = "study.db", "recipe.json", "study.png"
MOST_OUTLIERS = 0.2  # share of a batch's digits
UNPRUNED = 5  # trials that run to their end before others are compared with them


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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    most = replace(config, outliers=max(MOST_OUTLIERS, config.outliers))
    rounds = make_rounds(most, parts(config, data)[0], device)
    while (done := len(_done(study))) < trials:
        report(f"trial {done + 1} of {trials}")
        study.optimize(lambda trial: _loss(trial, config, data, rounds, device, report), n_trials=1)
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
    start = study.user_attrs.get("start", run_id(config, data))
    if start != run_id(config, data):
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
    trial: optuna.Trial,
    config: Config,
    data: DataSet,
    rounds: Rounds,
    device: torch.device,
    report: Callable[[str], None],
) -> float:
    """The validation pictures' cross-entropy at the trial's end."""
    run = Run(propose(trial, config), data, device, rounds)
    while len(run.history) < config.epochs:
        epoch = run.epoch()
        trial.report(epoch.held_loss, epoch.number)
        if trial.should_prune():
            report(f"pruned after epoch {epoch.number}: loss {epoch.held_loss:.4f}, {trial.params}")
            raise optuna.TrialPruned
    report(f"loss {run.history[-1].held_loss:.4f}, accuracy {run.history[-1].held_acc:.2%}, {trial.params}")
    return run.history[-1].held_loss


def _write(study: optuna.Study, config: Config, folder: Path) -> None:
    best: dict[str, Any] = asdict(replace(config, recipe="tuned", **study.best_params))
    text = json.dumps(best, indent=2) + "\n"
    write_whole(folder / RECIPE, lambda file: file.write(text.encode()))
    draw(study, folder / PICTURE)


def draw(study: optuna.Study, path: Path) -> None:
    """Every trial's loss over its epochs, and the final loss over each searched option; pruned trials are grey."""
    names = sorted({name for trial in _done(study) for name in trial.params})
    figure = Figure(figsize=(3 * (len(names) + 1), 3), layout="constrained")
    first, *others = figure.subplots(1, len(names) + 1)
    for trial in _done(study):
        colour = "C0" if trial.state is TrialState.COMPLETE else "lightgrey"
        losses = trial.intermediate_values
        first.plot(list(losses), list(losses.values()), color=colour, linewidth=1)
        for axes, name in zip(others, names, strict=True):
            axes.scatter(str(trial.params[name]) if name in ("batch", "average") else trial.params[name],
                         losses[max(losses)], color=colour, s=12)  # fmt: skip
    first.set(xlabel="epoch", ylabel="validation loss", yscale="log")
    for axes, name in zip(others, names, strict=True):
        axes.set(xlabel=name, yscale="log")
        if name == "lr":
            axes.set_xscale("log")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))
