"""Commands of `python -m training`; tune and predict have modules of their own."""

import json
import sys
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import numpy as np

from handler.calibration import read_calibration
from training import export, model_metrics, plots
from training.calibrate import calibrate
from training.data import DataError, DataSet, LabeledImages, load_data
from training.drift_baseline import compute_drift_baseline as make_reference
from training.fine_tuning import load_start, mix_in_mnist
from training.model import CLASSES, load_model
from training.predict import RELEASED
from training.recipe import FINE_TUNING, Config, ConfigError, configure
from training.runs import RUNS, release_run
from training.torchvision_import import torchmetrics
from training.train import ResumeError, fit, make_run_id, teacher_checkpoint

FEW = 100  # training images of a digit: with fewer, fine-tuning is better than training from the beginning


def train(given: Namespace) -> int:
    config = configure_recipe(given)
    for check in (export.read_smoke_images, export.read_versions):  # needed at the end
        check()
    export.check_folder(given.out)
    start = load_start(given.start, given.out) if given.start else None
    data = load_pictures(given)
    if start and "folder" in data.sha256:
        data = mix_in_mnist(data)
    elif not start:
        _warn_of_few(data)
    run_id = make_run_id(config, data, start)
    folder = given.out / RUNS / run_id
    checkpoint = folder / export.CHECKPOINT
    _check_stopped_runs(checkpoint, given.resume)
    export.check_folder(folder)
    trainer = fit(config, data, checkpoint, given.resume, start=start)
    model, validated = trainer.best, trainer.held_out == "validation"
    parts = {trainer.held_out: trainer.held} | ({"test": data.test} if data.test else {})
    parts |= {f"validation_{name}": images for name, images in data.validation_parts.items() if validated}
    measured = {part: model_metrics.evaluate(model, pictures) for part, pictures in parts.items()}
    calibration = calibrate(measured["validation"]) if validated else None
    baseline = make_reference(trainer.held, measured["validation"], calibration) if calibration else None
    plots.curves(trainer.history, trainer.held_out, folder / export.CURVES)
    export.export(model, export.record(trainer, data, measured, calibration, baseline, start), folder)
    for part, result in measured.items():
        print(f"{part}: accuracy {result.accuracy:.2%} of {len(result.labels)} pictures")
    for path in (export.PARAMETERS, export.MODEL, export.SCRIPTED, export.RECORD):
        print(given.out / path)
    release_run(run_id, given.out)
    checkpoint.unlink()
    teacher_checkpoint(checkpoint).unlink(missing_ok=True)
    return 0


def _check_stopped_runs(checkpoint: Path, resume: bool) -> None:
    """Print what becomes of a stopped run; raise ResumeError if only runs of other options or data were stopped."""
    existing = [path for path in (checkpoint, teacher_checkpoint(checkpoint)) if path.exists()]
    if existing and not resume:
        print(f"{existing[0]} of a stopped run is replaced; --resume would go on from it", file=sys.stderr)
    if resume and not existing:
        runs, run_id = checkpoint.parents[2], checkpoint.parents[1].name
        if others := sorted(runs.glob(f"*/{export.CHECKPOINT.with_suffix('')}*")):
            raise ResumeError(
                f"{others[0]}: belongs to another run than this one, {run_id}: its options, its data or the version of "
                "training differ; repeat those of the run that was stopped, or leave out --resume"
            )
        print(f"{checkpoint}: nothing to resume, starting from the first epoch", file=sys.stderr)


def _warn_of_few(data: DataSet) -> None:
    counts = np.bincount(data.all_training.labels, minlength=CLASSES)
    if counts.min() < FEW:
        listed = ", ".join(f"{digit}: {count}" for digit, count in enumerate(counts))
        print(
            f"warning: {data.name} has {counts.sum()} images ({listed}); expected at least {FEW} of a digit; "
            "with fewer, rather fine-tune the released model: make train FROM=released DATA=…",
            file=sys.stderr,
        )


def evaluate(given: Namespace) -> int:
    path = given.model or RELEASED
    model = load_model(path)
    data = load_pictures(given)
    part, pictures = _choose_part(data, given.part)
    result = model_metrics.evaluate(model, pictures)
    print(f"{path} on {data.name}, {part}: {len(pictures)} pictures")
    _print_measures(result)
    plots.confusion_matrix(result, f"{data.name}, {part}: accuracy {result.accuracy:.2%}", given.plot)
    print(given.plot)
    return 0


def reference(given: Namespace) -> int:
    record_path = given.out / export.RECORD
    record = json.loads(record_path.read_text())
    model, calibration = load_model(given.out / export.PARAMETERS), read_calibration(record_path)
    part, pictures = _choose_part(load_pictures(given), given.part)
    record["reference"] = make_reference(pictures, model_metrics.evaluate(model, pictures), calibration)
    export.write_record(record, given.out)
    print(f"{record_path}: {len(pictures)} pictures, {part}")
    return 0


def configure_recipe(given: Namespace) -> Config:
    """Return the Config of --recipe with the options that were given."""
    names = [field.name for field in fields(Config) if field.name != "recipe"]
    start = getattr(given, "start", None)
    recipe = given.recipe or (FINE_TUNING.recipe if start else "default")
    config = configure(recipe, **{name: getattr(given, name) for name in names})
    if start and config.normalise:
        raise ConfigError(f"--from {start}: its batch norms are folded; add --no-normalise to --recipe {recipe}")
    if config.recipe == FINE_TUNING.recipe and not start:
        raise ConfigError(f"--recipe {recipe}: needs weights to go on from, such as --from released")
    return config


def load_pictures(given: Namespace) -> DataSet:
    """Load --data and list what --skip-unreadable skipped."""
    data = load_data(given.data, given.skip_unreadable)
    for line in data.skipped:
        print(f"skipped {line}", file=sys.stderr)
    if data.skipped:
        print(f"skipped {len(data.skipped)} unreadable pictures", file=sys.stderr)
    return data


def _choose_part(data: DataSet, part: str | None) -> tuple[str, LabeledImages]:
    if part == "test" and data.test is None:
        raise DataError(f"{data.name} has no test pictures; leave out --part test")
    if part == "validation":
        return part, data.validation
    if part == "all" or data.test is None:
        return "all", data.all_training
    return "test", data.test


def _print_measures(result: model_metrics.Evaluation) -> None:
    print(f"accuracy {result.accuracy:.2%}, loss {result.loss:.4f}")
    metrics = torchmetrics.functional.classification
    recall = metrics.multiclass_recall(result.logits, result.labels, CLASSES, average="none")
    matrix = metrics.multiclass_confusion_matrix(result.logits, result.labels, CLASSES)
    print("digit  recall   read as" + "".join(f"{digit:6}" for digit in range(CLASSES)))
    for digit in range(CLASSES):
        print(f"{digit:5} {recall[digit]:7.2%}          " + "".join(f"{count:6}" for count in matrix[digit].tolist()))
