"""Command line of training.

python -m training train | release | tune | evaluate | calibrate | drift-baseline | predict
                   export-onnx | segment-model
python -m training train --data mnist5k      no download needed
python -m training evaluate --data mnist     accuracy of the current model on MNIST's test images: 99.48%
python -m training predict handler/smoke/7.png
"""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from typing import get_type_hints

from common.command_line import add_command, positive_int, run_command
from common.models import MODEL_FOLDERS
from training.recipe import NO_TEACHER, RECIPES, Config

_DATA = "mnist (found in data/ or downloaded there), mnist5k (no download needed), or a folder"
_DEFAULT = "(default: %(default)s)"
_OUT = "folder for model/ and scripted_model.pt; every run is kept in its runs/ (default: this folder; large: large/)"
_PARTS = ("test", "validation", "all")
_HELP = {
    "model": "model to train; it decides the default of --recipe",
    "epochs": "passes over the training images",
    "batch_size": "images per optimizer step",
    "lr": "Adam's learning rate; the peak of a onecycle schedule",
    "dropout": "dropout probability: of channels in the default model, of the large model's last features",
    "schedule": "learning-rate schedule",
    "ema_decay": "decay of the exponential moving average of the weights, 0 for none",
    "batch_norm": "batch normalization of the default model while training, folded into the weights afterwards",
    "augment": "train on augmented images: distortion, stroke width, blur, noise, resolution, gaps, lines",
    "augmentation_passes": "augmented copies of the training set; epochs cycle through them",
    "synthetic_ratio": "share of the augmented images that are replaced by synthetic digits",
    "mild_ratio": "share of the augmented images that are only distorted, and mildly",
    "outlier_ratio": "outlier images per digit image in a training batch",
    "outlier_weight": "weight of the outlier images in the loss",
    "teacher": "model whose probabilities are learned, too",
    "distillation_weight": "weight of the teacher's probabilities in the loss; the labels have the rest",
    "distillation_temperature": "temperature of teacher and student probabilities in the distillation loss",
    "held_out": "part that is evaluated after every epoch",
    "seed": "seed of initial weights, shuffling, dropout and augmentation",
    "threads": "CPU threads; another number gives slightly different weights",
}
_MODELS = tuple(MODEL_FOLDERS)
_CHOICES = {
    "model": _MODELS,
    "schedule": ("onecycle", "constant"),
    "teacher": (*_MODELS, NO_TEACHER),
    "held_out": ("validation", "test"),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `python -m training`."""
    data, model, folder = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    data.add_argument("--data", default="mnist", help=f"{_DATA} {_DEFAULT}")
    data.add_argument("--skip-unreadable", action="store_true", help="list unreadable images and skip them")
    text = f"{', '.join(_MODELS)}, or the path of a whole model, state dict or scripted model {_DEFAULT}"
    model.add_argument("--model", default="default", help=text)
    folder.add_argument("--model", choices=_MODELS, default="default", help=_DEFAULT)
    folder.add_argument("--out", type=Path, help=_OUT)
    recipe = _make_recipe_parser()

    top = argparse.ArgumentParser("python -m training", description="Train, evaluate and try the digit model.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    text = "Train a model; write state dict, whole, scripted and ONNX model, model.json and learning curves."
    command = add_command(commands, "train", "training.training_commands:run_train", text, [data, recipe])
    command.add_argument("--resume", action="store_true", help="resume after the last finished epoch")
    text = "initial weights to fine-tune: released, a run id or a model file; a folder's images are mixed with mnist5k"
    command.add_argument("--from", dest="start", metavar="RUN", help=text)
    command.add_argument("--out", type=Path, help=_OUT)
    command.set_defaults(
        hint_if_stopped="stopped; the same options with --resume continue after the last finished epoch"
    )

    text = "Make a kept run the current one: copy it to model/ and scripted_model.pt."
    command = add_command(commands, "release", "training.runs:run_release", text, [folder])
    command.add_argument("run", metavar="RUN", help="run id, or released for the shipped model")

    text = "Search for a better recipe on the validation split; write recipe.json, for train --recipe, and study.png."
    command = add_command(commands, "tune", "training.tune:run_tune", text, [data, recipe])
    command.add_argument("--trials", type=positive_int, default=30, help=f"trials of the whole study {_DEFAULT}")
    command.add_argument("--out", type=Path, default=Path("study"), help=f"folder of the study {_DEFAULT}")
    command.set_defaults(hint_if_stopped="stopped; the same command resumes the study and repeats the stopped trial")

    text = "Print accuracy, recall per digit and the confusion matrix of a saved model; plot the matrix."
    command = add_command(commands, "evaluate", "training.training_commands:run_evaluate", text, [data, model])
    command.add_argument("--part", choices=_PARTS, help="(default: test, or all where there is no test part)")
    command.add_argument("--plot", type=Path, default=Path("confusion_matrix.png"), help=_DEFAULT)

    function = "training.training_commands:run_drift_baseline"
    texts = {
        "calibrate": "Fit temperature, acceptance threshold and drift baseline to validation images; write model.json.",
        "drift-baseline": "Write the drift baseline, the distribution of the model's predictions, to its model.json.",
    }
    for name, text in texts.items():
        command = add_command(commands, name, function, text, [data, folder])
        command.set_defaults(is_calibrated=name == "calibrate")
        command.add_argument("--part", choices=_PARTS, default="validation", help=_DEFAULT)

    text = "Write the ONNX model of a current model that was trained before there was one, for bulk prediction."
    add_command(commands, "export-onnx", "training.training_commands:run_export_onnx", text, [folder])

    text = "Train the segment model, which reading numbers needs, and calibrate it with the current default model."
    command = add_command(commands, "segment-model", "training.segment_model:run_segment_model", text, [data])
    command.add_argument("--numbers", type=positive_int, default=70_000, help=f"numbers to compose {_DEFAULT}")
    command.add_argument("--epochs", type=positive_int, default=5, help=_DEFAULT)
    command.add_argument("--seed", type=int, default=0, help=_DEFAULT)
    command.add_argument("--out", type=Path, default=Path("handler"), help=f"folder of the three files {_DEFAULT}")

    text = "Print path, digit, confidence, accepted or rejected, and warnings of images, separated by tabs."
    command = add_command(commands, "predict", "training.predict:run_predict", text, [model])
    command.add_argument("images", nargs="+", metavar="IMAGE")
    return top


def _make_recipe_parser() -> argparse.ArgumentParser:
    """Return the options of a recipe, one per field of Config."""
    recipe = argparse.ArgumentParser(add_help=False)
    text = "default, large, original or a file written by tune (default: the model's, or fine-tuning with --from)"
    recipe.add_argument("--recipe", help=f"recipe that sets the defaults of the options below: {text}")
    types = get_type_hints(Config)
    for field in dataclasses.fields(Config)[1:]:
        kind = types[field.name]
        keywords = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        defaults = ", ".join(f"{name}: {getattr(config, field.name)}" for name, config in RECIPES.items())
        text, choices = f"{_HELP[field.name]} ({defaults})", _CHOICES.get(field.name)
        recipe.add_argument("--" + field.name.replace("_", "-"), **keywords, choices=choices, help=text)
    return recipe


def main() -> int:
    """Run the command line; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, also in the augmentation processes
    return run_command(make_parser())


if __name__ == "__main__":
    sys.exit(main())
