"""Commands of `python -m training`; tune and predict have modules of their own."""

import json
import sys
from argparse import Namespace
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from common.atomic import write_atomic
from common.models import MODEL_FOLDERS, ONNX, RECORD
from handler.calibration import read_calibration
from training import export, model_metrics, plots
from training.calibrate import fit_calibration
from training.data import DataError, DataSet, LabeledImages, load_data
from training.drift_baseline import compute_drift_baseline
from training.fine_tuning import load_initial_model, mix_in_mnist
from training.model import CLASSES, load_model
from training.predict import find_model
from training.recipe import FINE_TUNING, NO_TEACHER, Config, ConfigError, make_config
from training.runs import RUNS, read_record, release_run
from training.torchvision_import import torchmetrics
from training.train import ResumeError, fit, make_run_id

MIN_PER_DIGIT = 100  # training images of a digit; with fewer, fine-tuning is better than training from scratch


def run_train(args: Namespace) -> int:
    """Run the command `train`."""
    config = parse_config(args)
    for check in (export.read_smoke_images, export.read_versions):  # fail now, not at the end
        check()
    out = args.out or MODEL_FOLDERS[config.model]
    export.check_folder(out)
    start = load_initial_model(args.start, out, config.model) if args.start else None
    data = load_images(args)
    if start and "folder" in data.sha256:
        data = mix_in_mnist(data)
    elif not start:
        _warn_if_few(data)
    run_id = make_run_id(config, data, start)
    folder = out / RUNS / run_id
    checkpoint = folder / export.CHECKPOINT
    _check_stopped_runs(checkpoint, args.resume)
    export.check_folder(folder)
    trainer = fit(config, data, checkpoint, args.resume, start=start)
    model, has_validation = trainer.trained_model, trainer.held_out_part == "validation"
    parts = {trainer.held_out_part: trainer.held_out_images} | ({"test": data.test} if data.test else {})
    parts |= {f"validation_{name}": images for name, images in data.validation_parts.items() if has_validation}
    evaluations = {part: model_metrics.evaluate_model(model, images) for part, images in parts.items()}
    calibration = fit_calibration(evaluations["validation"]) if has_validation else None
    baseline = None
    if calibration:
        baseline = compute_drift_baseline(trainer.held_out_images, evaluations["validation"], calibration)
    title, caption = f"Training on {data.name}, run {run_id}", f"python -m training train --data {args.data}"
    plots.plot_curves(trainer.history, trainer.held_out_part, title, folder / export.CURVES, caption)
    export.export_model(model, export.make_record(trainer, data, evaluations, calibration, baseline, start), folder)
    for part, evaluation in evaluations.items():
        print(f"{part}: accuracy {evaluation.accuracy:.2%} of {len(evaluation.labels)} images")
    for path in (export.PARAMETERS, export.MODEL, export.SCRIPTED, ONNX, RECORD):
        print(out / path)
    release_run(run_id, out, config.model)
    checkpoint.unlink()
    return 0


def _check_stopped_runs(checkpoint: Path, resume: bool) -> None:
    """Print whether a stopped run is replaced; raise ResumeError if --resume finds only different runs."""
    exists = checkpoint.exists()
    if exists and not resume:
        print(f"{checkpoint} of a stopped run is replaced; --resume would continue it", file=sys.stderr)
    if resume and not exists:
        runs, run_id = checkpoint.parents[2], checkpoint.parents[1].name
        if others := sorted(runs.glob(f"*/{export.CHECKPOINT}")):
            raise ResumeError(
                f"{others[0]}: belongs to another run, not to {run_id}: options, data, teacher or version differ; "
                "repeat the options and data of the stopped run, or omit --resume"
            )
        print(f"{checkpoint}: nothing to resume, training from the first epoch", file=sys.stderr)


def _warn_if_few(data: DataSet) -> None:
    counts = np.bincount(data.all_training.labels, minlength=CLASSES)
    if counts.min() < MIN_PER_DIGIT:
        listed = ", ".join(f"{digit}: {count}" for digit, count in enumerate(counts))
        print(
            f"warning: {data.name} has {counts.sum()} images ({listed}); expected at least {MIN_PER_DIGIT} of a digit; "
            "better fine-tune the shipped model: make train FROM=released DATA=…",
            file=sys.stderr,
        )


def run_evaluate(args: Namespace) -> int:
    """Run the command `evaluate`."""
    path = find_model(args.model)
    model = load_model(path)
    data = load_images(args)
    part, images = _choose_part(data, args.part)
    evaluation = model_metrics.evaluate_model(model, images)
    print(f"{path} on {data.name}, {part}: {len(images)} images")
    _print_metrics(evaluation)
    title = f"{data.name}, {part}: accuracy {evaluation.accuracy:.2%} of {len(images)} images"
    run_id = (read_record(path.parent) or read_record(path.parent.parent)).get("run_id", "unknown")
    caption = f"{path.name}, run {run_id}; python -m training evaluate --data {args.data} --part {part}"
    plots.plot_confusion_matrix(evaluation, title, args.plot, caption)
    print(args.plot)
    return 0


def run_export_onnx(args: Namespace) -> int:
    """Run the command `export-onnx`."""
    out = args.out or MODEL_FOLDERS[args.model]
    write_atomic(out / ONNX, export.convert_to_onnx(load_model(out / export.PARAMETERS)))
    print(out / ONNX)
    return 0


def run_drift_baseline(args: Namespace) -> int:
    """Run the command `drift-baseline`, or `calibrate`, which fits the calibration before."""
    out = args.out or MODEL_FOLDERS[args.model]
    record_path = out / RECORD
    record = json.loads(record_path.read_text())
    model = load_model(out / export.PARAMETERS)
    part, images = _choose_part(load_images(args), args.part)
    evaluation = model_metrics.evaluate_model(model, images)
    calibration = fit_calibration(evaluation) if args.is_calibrated else read_calibration(record_path)
    if args.is_calibrated:
        record["calibration"] = asdict(calibration)
        record["smoke"] = export.compute_smoke_probabilities(model, calibration)
    record["reference"] = compute_drift_baseline(images, evaluation, calibration)
    export.write_record(record, out)
    print(f"{record_path}: {len(images)} images, {part}")
    return 0


def parse_config(args: Namespace) -> Config:
    """Return the Config of --recipe, changed by the other options."""
    names = [field.name for field in fields(Config) if field.name != "recipe"]
    start = getattr(args, "start", None)
    recipe = args.recipe or (FINE_TUNING.recipe if start else args.model or "default")
    config = make_config(recipe, **{name: getattr(args, name) for name in names})
    if start and config.batch_norm and config.model == "default":
        raise ConfigError(f"--from {start}: its batch norms are folded; add --no-batch-norm to --recipe {recipe}")
    if start and config.teacher != NO_TEACHER:
        raise ConfigError(f"--from {start}: the initial model is the teacher; add --teacher {NO_TEACHER}")
    if config.recipe == FINE_TUNING.recipe and not start:
        raise ConfigError(f"--recipe {recipe}: needs initial weights, such as --from released")
    return config


def load_images(args: Namespace) -> DataSet:
    """Load --data and list the images that --skip-unreadable skipped."""
    data = load_data(args.data, args.skip_unreadable)
    for line in data.skipped:
        print(f"skipped {line}", file=sys.stderr)
    if data.skipped:
        print(f"skipped {len(data.skipped)} unreadable images", file=sys.stderr)
    return data


def _choose_part(data: DataSet, part: str | None) -> tuple[str, LabeledImages]:
    if part == "test" and data.test is None:
        raise DataError(f"{data.name} has no test images; omit --part test")
    if part == "validation":
        return part, data.validation
    if part == "all" or data.test is None:
        return "all", data.all_training
    return "test", data.test


def _print_metrics(evaluation: model_metrics.Evaluation) -> None:
    print(f"accuracy {evaluation.accuracy:.2%}, loss {evaluation.loss:.4f}")
    metrics = torchmetrics.functional.classification
    recall = metrics.multiclass_recall(evaluation.logits, evaluation.labels, CLASSES, average="none")
    matrix = metrics.multiclass_confusion_matrix(evaluation.logits, evaluation.labels, CLASSES)
    print("digit  recall predicted" + "".join(f"{digit:6}" for digit in range(CLASSES)))
    for digit in range(CLASSES):
        print(f"{digit:5} {recall[digit]:7.2%}          " + "".join(f"{count:6}" for count in matrix[digit].tolist()))
