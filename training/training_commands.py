"""Commands of `python -m training`; tune and predict have modules of their own."""

import json
import sys
from argparse import Namespace
from dataclasses import fields

from handler.confidence import read_calibration
from training import export, measures, plots
from training.calibration import calibrate
from training.data import DataError, DataSet, Pictures, load_data
from training.model import CLASSES, load_model
from training.predict import RELEASED
from training.recipe import Config, configure
from training.reference import reference as make_reference
from training.torchvision_import import torchmetrics
from training.train import fit, teacher_checkpoint


def train(given: Namespace) -> int:
    config = configure_recipe(given)
    checkpoint = given.out / export.CHECKPOINT
    existing = [path for path in (checkpoint, teacher_checkpoint(checkpoint)) if path.exists()]
    if existing and not given.resume:
        print(f"{existing[0]} of a stopped run is replaced; --resume would go on from it", file=sys.stderr)
    if given.resume and not existing:
        print(f"{checkpoint}: nothing to resume, starting from the first epoch", file=sys.stderr)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the first epoch
    data = load_pictures(given)
    trainer = fit(config, data, checkpoint, given.resume)
    model, validated = trainer.best, trainer.held_out == "validation"
    parts = {trainer.held_out: trainer.held} | ({"test": data.test} if data.test else {})
    measured = {part: measures.evaluate(model, pictures) for part, pictures in parts.items()}
    calibration = calibrate(measured["validation"]) if validated else None
    baseline = make_reference(trainer.held, measured["validation"], calibration) if calibration else None
    export.export(model, export.record(trainer, data, measured, calibration, baseline), given.out)
    plots.curves(trainer.history, trainer.held_out, given.out / "model" / "curves.png")
    checkpoint.unlink()
    teacher_checkpoint(checkpoint).unlink(missing_ok=True)
    for part, result in measured.items():
        print(f"{part}: accuracy {result.accuracy:.2%} of {len(result.labels)} pictures")
    for path in (export.PARAMETERS, export.MODEL, export.SCRIPTED, export.RECORD):
        print(given.out / path)
    return 0


def evaluate(given: Namespace) -> int:
    path = given.model or RELEASED
    model = load_model(path)
    data = load_pictures(given)
    part, pictures = _choose_part(data, given.part)
    result = measures.evaluate(model, pictures)
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
    record["reference"] = make_reference(pictures, measures.evaluate(model, pictures), calibration)
    export.write_record(record, given.out)
    print(f"{record_path}: {len(pictures)} pictures, {part}")
    return 0


def configure_recipe(given: Namespace) -> Config:
    """Return the Config of --recipe with the options that were given."""
    names = [field.name for field in fields(Config) if field.name != "recipe"]
    return configure(given.recipe, **{name: getattr(given, name) for name in names})


def load_pictures(given: Namespace) -> DataSet:
    """Load --data and list what --skip-unreadable skipped."""
    data = load_data(given.data, given.skip_unreadable)
    for line in data.skipped:
        print(f"skipped {line}", file=sys.stderr)
    if data.skipped:
        print(f"skipped {len(data.skipped)} unreadable pictures", file=sys.stderr)
    return data


def _choose_part(data: DataSet, part: str | None) -> tuple[str, Pictures]:
    if part == "test" and data.test is None:
        raise DataError(f"{data.name} has no test pictures; leave out --part test")
    if part == "validation":
        return part, data.validation
    if part == "all" or data.test is None:
        return "all", data.all_training
    return "test", data.test


def _print_measures(result: measures.Measures) -> None:
    print(f"accuracy {result.accuracy:.2%}, loss {result.loss:.4f}")
    metrics = torchmetrics.functional.classification
    recall = metrics.multiclass_recall(result.logits, result.labels, CLASSES, average="none")
    matrix = metrics.multiclass_confusion_matrix(result.logits, result.labels, CLASSES)
    print("digit  recall   read as" + "".join(f"{digit:6}" for digit in range(CLASSES)))
    for digit in range(CLASSES):
        print(f"{digit:5} {recall[digit]:7.2%}          " + "".join(f"{count:6}" for count in matrix[digit].tolist()))
