"""python -m training train | tune | evaluate | reference | predict

python -m training train --data mnist5k      about a minute, Val_acc 97%
python -m training evaluate --data mnist     accuracy of the released model on MNIST's test pictures
python -m training predict handler/smoke/7.png
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Final, get_type_hints

from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_recall

from handler.confidence import read_calibration
from handler.preprocessing import ImageError
from training import export, plots, tune
from training.calibration import calibrate
from training.data import DataError, DataSet, Pictures, load_data
from training.measures import Measures, evaluate
from training.model import CLASSES, DigitCNN, ModelError, load_model
from training.predict import RELEASED, MakePrediction
from training.recipe import RECIPES, Config, ConfigError, configure
from training.reference import reference
from training.train import ResumeError, checkpoint_of_teacher, fit

_DATA = "mnist (found in data/ or downloaded there), mnist5k (needs no download), or a folder"
_DEFAULT = "(default: %(default)s)"
_HELP = {
    "epochs": "passes over the training pictures",
    "batch": "pictures a step",
    "lr": "Adam's learning rate; the peak of a onecycle schedule",
    "dropout": "of whole channels after the second convolution",
    "schedule": "of the learning rate: onecycle or constant",
    "average": "decay of the weights' moving average, 0 for none",
    "normalise": "batch normalisation while training, folded into the weights afterwards",
    "augment": "train on changed pictures: turned, stretched, bent, thicker, thinner, blurred, noisy, framed anew",
    "rounds": "versions of every picture that epochs take turns with, if pictures are changed",
    "outliers": "pictures of no digit to be unsure of, as a share of a batch's digits",
    "teacher": "epochs of a larger network that is trained first, 0 for none",
    "distillation": "share of the teacher's probabilities in the loss; the labels have the rest",
    "softness": "temperature of the probabilities that are learnt from the teacher",
    "held_out": "what each epoch is measured on: validation or test",
    "seed": "of initial weights, order, dropout and augmentation",
    "threads": "of the CPU; another number gives slightly other weights",
}
_CHOICES = {"schedule": ("onecycle", "constant"), "held_out": ("validation", "test")}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("python -m training", description="Train, evaluate and try the digit model.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _train_options(commands.add_parser("train", help="train and write the models", description=_train.__doc__))
    _tune_options(commands.add_parser("tune", help="search for a better recipe", description=_tune.__doc__))
    command = commands.add_parser("evaluate", help="measure a saved model", description=_evaluate.__doc__)
    _data_options(command)
    command.add_argument("--part", choices=("test", "validation", "all"), help="(default: test, else all)")
    command.add_argument("--model", type=Path, default=RELEASED, help="whole model, state dict or scripted model")
    command.add_argument("--plot", type=Path, default=Path("confusion_matrix.png"), help="(default: %(default)s)")
    command.set_defaults(run=_evaluate)
    command = commands.add_parser("reference", help="what drift is measured from", description=_reference.__doc__)
    _data_options(command)
    command.add_argument("--part", choices=("test", "validation", "all"), default="validation", help=_DEFAULT)
    command.add_argument("--out", type=Path, default=Path(), help="folder that has model/model.json")
    command.set_defaults(run=_reference)
    command = commands.add_parser("predict", help="read pictures", description=_predict.__doc__)
    command.add_argument("images", nargs="+", metavar="IMAGE")
    command.add_argument("--model", type=Path, default=RELEASED, help="whole model, state dict or scripted model")
    command.set_defaults(run=_predict)
    return top


def _train_options(command: argparse.ArgumentParser) -> None:
    _data_options(command)
    _recipe_options(command)
    command.add_argument("--resume", action="store_true", help="go on from the last finished epoch")
    command.add_argument("--out", type=Path, default=Path(), help="folder that gets model/ and scripted_model.pt")
    command.set_defaults(run=_train)


def _tune_options(command: argparse.ArgumentParser) -> None:
    _data_options(command)
    _recipe_options(command)
    command.add_argument(
        "--trials", type=_positive, default=30, help="in the study, earlier ones included (default: %(default)s)"
    )
    command.add_argument("--out", type=Path, default=Path("study"), help="folder of the study (default: %(default)s)")
    command.set_defaults(run=_tune)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected a number from 1")
    return int(text)


def _recipe_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--recipe",
        default="default",
        help="default, original or a file that tune wrote: what the options below default to",
    )
    types = get_type_hints(Config)
    for field in dataclasses.fields(Config):
        if field.name != "recipe":
            defaults = ", ".join(f"{name}: {getattr(config, field.name)}" for name, config in RECIPES.items())
            kind = types[field.name]
            how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
            command.add_argument(
                "--" + field.name.replace("_", "-"),
                **how,
                choices=_CHOICES.get(field.name),
                help=f"{_HELP[field.name]} ({defaults})",
            )


def _data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", default="mnist", help=_DATA + " (default: %(default)s)")
    command.add_argument("--skip-unreadable", action="store_true", help="list unreadable pictures and go on")


def _load(given: argparse.Namespace) -> DataSet:
    data = load_data(given.data, given.skip_unreadable)
    for line in data.skipped:
        print(f"skipped {line}", file=sys.stderr)
    if data.skipped:
        print(f"skipped {len(data.skipped)} unreadable pictures", file=sys.stderr)
    return data


def _train(given: argparse.Namespace) -> int:
    """Train DigitCNN; write state dict, whole model, scripted model, model.json and curves."""
    config = _configured(given)
    checkpoint = given.out / export.CHECKPOINT
    kept = [path for path in (checkpoint, checkpoint_of_teacher(checkpoint)) if path.exists()]
    if kept and not given.resume:
        print(f"{kept[0]} of a stopped run is replaced; --resume would go on from it", file=sys.stderr)
    if given.resume and not kept:
        print(f"{checkpoint}: nothing to resume, starting from the first epoch", file=sys.stderr)
    checkpoint.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the first epoch
    data = _load(given)
    run = fit(config, data, checkpoint, given.resume)
    held = {run.held_out: run.held} | ({"test": data.test} if data.test else {})
    model = run.best
    assert isinstance(model, DigitCNN)
    measures = {part: evaluate(model, pictures) for part, pictures in held.items()}
    calibration = calibrate(measures["validation"]) if run.held_out == "validation" else None
    seen = reference(run.held, measures["validation"], calibration) if calibration else None
    export.export(model, export.record(run, data, measures, calibration, seen), given.out)
    plots.curves(run.history, run.held_out, given.out / "model" / "curves.png")
    checkpoint.unlink()
    checkpoint_of_teacher(checkpoint).unlink(missing_ok=True)
    for part, each in measures.items():
        print(f"{part}: accuracy {each.accuracy:.2%} of {len(each.labels)} pictures")
    for path in (export.PARAMETERS, export.MODEL, export.SCRIPTED, export.RECORD):
        print(given.out / path)
    return 0


def _tune(given: argparse.Namespace) -> int:
    """Search for a better recipe on the validation split; write recipe.json, which train takes, and study.png.

    Trials have no teacher; the recipe keeps it. A search that was stopped goes on with the same command.
    """
    config = _configured(given)
    if config.held_out != "validation":
        raise ConfigError(f"--held-out {config.held_out}; tune judges by the validation split alone")
    study = tune.tune(config, _load(given), given.trials, given.out)
    print(f"best: trial {study.best_trial.number}, validation loss {study.best_value:.4f}, {study.best_params}")
    for name in (tune.RECIPE, tune.PICTURE, tune.STUDY):
        print(given.out / name)
    return 0


def _configured(given: argparse.Namespace) -> Config:
    fields = [field.name for field in dataclasses.fields(Config) if field.name != "recipe"]
    return configure(given.recipe, **{name: getattr(given, name) for name in fields})


def _evaluate(given: argparse.Namespace) -> int:
    """Print accuracy, recall of each digit and the confusion matrix of a saved model; draw the matrix."""
    model = load_model(given.model)
    data = _load(given)
    part, pictures = _part(data, given.part)
    measures = evaluate(model, pictures)
    print(f"{given.model} on {data.name}, {part}: {len(pictures)} pictures")
    _print_measures(measures)
    plots.confusion_matrix(measures, f"{data.name}, {part}: accuracy {measures.accuracy:.2%}", given.plot)
    print(given.plot)
    return 0


def _reference(given: argparse.Namespace) -> int:
    """Write what the released model sees on pictures into its model.json, for drift of traffic to be measured from."""
    record_path = given.out / export.RECORD
    record = json.loads(record_path.read_text())
    model, calibration = load_model(given.out / export.PARAMETERS), read_calibration(record_path)
    part, pictures = _part(_load(given), given.part)
    record["reference"] = reference(pictures, evaluate(model, pictures), calibration)
    export.write_record(record, given.out)
    print(f"{record_path}: {len(pictures)} pictures, {part}")
    return 0


def _part(data: DataSet, part: str | None) -> tuple[str, Pictures]:
    if part == "test" and data.test is None:
        raise DataError(f"{data.name} has no test pictures; leave out --part test")
    if part == "validation":
        return part, data.validation
    if part == "all" or data.test is None:
        return "all", data.all_training
    return "test", data.test


def _print_measures(measures: Measures) -> None:
    print(f"accuracy {measures.accuracy:.2%}, loss {measures.loss:.4f}")
    recall = multiclass_recall(measures.logits, measures.labels, CLASSES, average="none")
    matrix = multiclass_confusion_matrix(measures.logits, measures.labels, CLASSES)
    print("digit  recall   read as" + "".join(f"{digit:6}" for digit in range(CLASSES)))
    for digit in range(CLASSES):
        print(f"{digit:5} {recall[digit]:7.2%}          " + "".join(f"{count:6}" for count in matrix[digit].tolist()))


def _predict(given: argparse.Namespace) -> int:
    """Print a line for each picture: path, digit, confidence. Pictures that cannot be read are reported last."""
    failed = 0
    for image in given.images:
        try:
            prediction = MakePrediction(image, given.model)
            print(f"{image}\t{prediction.show_prediction().item()}\t{prediction.confidence:.4f}")
        except (OSError, ImageError) as error:
            failed += 1
            reason = error.message if isinstance(error, ImageError) else error.strerror
            print(f"error: {image}: {reason}", file=sys.stderr)
    return 1 if failed else 0


_GO_ON: Final = {
    _train: "; --resume with the same options goes on from the last finished epoch",
    _tune: "; the same command goes on with the trial that was stopped",
}


def main() -> int:
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as by Ctrl-C, with the processes that make pictures
    try:
        return int(given.run(given))
    except KeyboardInterrupt:
        hint = _GO_ON.get(given.run, "")
        print(f"\nstopped{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConfigError, DataError, ModelError, ResumeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
