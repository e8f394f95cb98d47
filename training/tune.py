"""Hyperparameter search with Optuna; the study is an SQLite file, from which a stopped search resumes."""

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from common.atomic import write_atomic
from training.augmented_data import MAX_KEPT_PASSES, AugmentedData
from training.data import DataSet
from training.plots import write_figure
from training.recipe import NO_TEACHER, Config, ConfigError
from training.train import ResumeError, Trainer, choose_images, make_augmented_data, make_run_id
from training.training_commands import load_images, parse_config

STUDY, RECIPE, PLOT = "study.db", "recipe.json", "study.png"
SEARCHED = ("batch_size", "lr", "dropout", "ema_decay", "outlier_ratio")
MAX_OUTLIER_RATIO = 0.2  # outliers per digit in a batch
STARTUP_TRIALS = 5  # complete trials before pruning starts


def run_tune(args: Namespace) -> int:
    """Run the command `tune`."""
    config = parse_config(args)
    if config.held_out != "validation":
        raise ConfigError(f"--held-out {config.held_out}; tune minimizes the loss on the validation split")
    study = run_study(config, load_images(args), args.trials, args.out)
    print(f"best: trial {study.best_trial.number}, validation loss {study.best_value:.4f}, {study.best_params}")
    for name in (RECIPE, PLOT, STUDY):
        print(args.out / name)
    return 0


def propose_config(trial: optuna.Trial, config: Config) -> Config:
    """Return the trial's recipe; search ranges include config's values, and there is no teacher."""
    initial = _get_searched_options(config)

    def suggest_float(name: str, low: float, high: float, log: bool = False) -> float:
        return trial.suggest_float(name, min(low, initial[name]), max(high, initial[name]), log=log)

    return replace(
        config,
        recipe="tuned",
        teacher=NO_TEACHER,
        batch_size=trial.suggest_categorical("batch_size", sorted({25, 50, 100, config.batch_size})),
        lr=suggest_float("lr", 1e-3, 3e-2, log=True),
        dropout=suggest_float("dropout", 0.0, 0.2),
        ema_decay=trial.suggest_categorical("ema_decay", sorted({0.99, 0.999, 0.9995, config.ema_decay})),
        outlier_ratio=suggest_float("outlier_ratio", 0.0, MAX_OUTLIER_RATIO),
    )


def _get_searched_options(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SEARCHED}


def run_study(
    config: Config, data: DataSet, trials: int, folder: Path, report: Callable[[str], None] = print
) -> optuna.Study:
    """Run trials until the study in `folder` has `trials`; raise ResumeError if its data or initial recipe differ."""
    study = _open_study(config, data, folder)
    largest = replace(
        config,
        outlier_ratio=max(MAX_OUTLIER_RATIO, config.outlier_ratio),
        augmentation_passes=min(MAX_KEPT_PASSES, config.augmentation_passes),
        epochs=MAX_KEPT_PASSES + 1,  # more than there are passes: they stay in memory, for all trials
    )
    augmented = make_augmented_data(largest, choose_images(config, data)[0])
    finished = (TrialState.COMPLETE, TrialState.PRUNED)
    while (done := len(study.get_trials(deepcopy=False, states=finished))) < trials:
        report(f"trial {done + 1} of {trials}")
        study.optimize(lambda trial: _run_trial(trial, config, data, augmented, report), n_trials=1)
        if study.best_trials:
            _write_results(study, config, folder)
    return study


def _open_study(config: Config, data: DataSet, folder: Path) -> optuna.Study:
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / STUDY}",
        study_name="digits",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
    )
    start = study.user_attrs.get("start", make_run_id(config, data))
    if start != make_run_id(config, data):
        raise ResumeError(f"{folder / STUDY}: a study of other data or options; choose another --out or remove it")
    study.set_user_attr("start", start)
    seed = config.seed + len(study.trials)  # with a constant seed a restart would repeat trials
    study.sampler = optuna.samplers.TPESampler(seed=seed)
    if not study.trials:
        study.enqueue_trial(_get_searched_options(config))
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # repeat those that were stopped
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _run_trial(
    trial: optuna.Trial, config: Config, data: DataSet, augmented: AugmentedData, report: Callable[[str], None]
) -> float:
    """Train the trial's recipe; return its final cross-entropy on the validation images."""
    trainer = Trainer(propose_config(trial, config), data, augmented)
    while len(trainer.history) < config.epochs:
        epoch = trainer.run_epoch()
        trial.report(epoch.held_loss, epoch.number)
        if trial.should_prune():
            report(f"pruned after epoch {epoch.number}: loss {epoch.held_loss:.4f}, {trial.params}")
            raise optuna.TrialPruned
    report(f"loss {trainer.history[-1].held_loss:.4f}, accuracy {trainer.history[-1].held_acc:.2%}, {trial.params}")
    return trainer.history[-1].held_loss


def _write_results(study: optuna.Study, config: Config, folder: Path) -> None:
    best: dict[str, Any] = asdict(replace(config, recipe="tuned", **study.best_params))
    write_atomic(folder / RECIPE, f"{json.dumps(best, indent=2)}\n".encode())
    plot_study(study, folder / PLOT)


def plot_study(study: optuna.Study, path: Path) -> None:
    """Plot final validation loss over every searched option; a dot is a complete trial."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    losses, numbers = [trial.value for trial in trials], [trial.number for trial in trials]
    figure = Figure(figsize=(14, 4), layout="constrained")
    panels = figure.subplots(1, len(SEARCHED), sharey=True)
    for axes, name in zip(panels, SEARCHED, strict=True):
        values, best = [trial.params[name] for trial in trials], study.best_params[name]
        if isinstance(trials[0].distributions[name], CategoricalDistribution):
            choices = sorted({*values})
            axes.set_xticks(range(len(choices)), map(str, choices))
            axes.set_xlim(-0.5, len(choices) - 0.5)
            values, best = [choices.index(value) for value in values], choices.index(best)
        dots = axes.scatter(values, losses, c=numbers, edgecolors="black", linewidths=0.4)
        axes.plot(best, study.best_value, "o", markersize=13, fillstyle="none", color="red")
        axes.set_xlabel(f"--{name.replace('_', '-')}")
        axes.grid(alpha=0.3)
    log_scale = panels[SEARCHED.index("lr")]
    log_scale.set_xscale("log")
    log_scale.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    log_scale.xaxis.set_major_formatter("{x:g}")
    log_scale.xaxis.set_minor_locator(NullLocator())
    panels[0].set_ylabel("validation loss (cross-entropy, nats)")
    figure.colorbar(dots, ax=panels, label="trial", ticks=MaxNLocator(integer=True))
    best_trial = f"number {study.best_trial.number} with loss {study.best_value:.4f}"
    figure.suptitle(f"{len(trials)} complete trials; best (circle): {best_trial}")
    write_figure(path, figure, f"python -m training tune; initial run {study.user_attrs['start']}")
