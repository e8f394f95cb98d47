"""python -m training train | release | tune | evaluate | reference | predict

python -m training train --data mnist5k      no download needed
python -m training evaluate --data mnist     accuracy of the released model on MNIST's test pictures
python -m training predict handler/smoke/7.png
"""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path
from typing import get_type_hints

from common.command_line import add_command, positive_int, run_command
from training.recipe import RECIPES, Config

_DATA = "mnist (found in data/ or downloaded there), mnist5k (needs no download), or a folder"
_DEFAULT = "(default: %(default)s)"
_OUT = "folder that gets model/ and scripted_model.pt, and keeps every run in runs/"
_PARTS = ("test", "validation", "all")
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
    data, model = argparse.ArgumentParser(add_help=False), argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", default="mnist", help=f"{_DATA} {_DEFAULT}")
    data.add_argument("--skip-unreadable", action="store_true", help="list unreadable pictures and go on")
    model.add_argument("--model", type=Path, help="whole model, state dict or scripted model (default: the released)")
    recipe = _recipe_parser()

    top = argparse.ArgumentParser("python -m training", description="Train, evaluate and try the digit model.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    text = "Train DigitCNN; write state dict, whole model, scripted model, model.json and curves."
    command = add_command(commands, "train", "training.training_commands:train", text, [data, recipe])
    command.add_argument("--resume", action="store_true", help="go on from the last finished epoch")
    text = "go on from weights: released, a run below runs/ or a model file; mnist5k is mixed into a folder's images"
    command.add_argument("--from", dest="start", metavar="RUN", help=text)
    command.add_argument("--out", type=Path, default=Path(), help=_OUT)
    command.set_defaults(hint_if_stopped="stopped; --resume with the same options goes on from the last finished epoch")

    text = "Make a kept run the current one: copy it to model/ and scripted_model.pt."
    command = add_command(commands, "release", "training.runs:run_release", text)
    command.add_argument("run", metavar="RUN", help="its id, or released for the one that git has")
    command.add_argument("--out", type=Path, default=Path(), help=_OUT)

    text = "Search for a better recipe on the validation split; write recipe.json, which train takes, and study.png."
    command = add_command(commands, "tune", "training.tune:run_tune", text, [data, recipe])
    command.add_argument("--trials", type=positive_int, default=30, help=f"in the study, earlier ones too {_DEFAULT}")
    command.add_argument("--out", type=Path, default=Path("study"), help=f"folder of the study {_DEFAULT}")
    command.set_defaults(hint_if_stopped="stopped; the same command goes on with the trial that was stopped")

    text = "Print accuracy, recall of each digit and the confusion matrix of a saved model; draw the matrix."
    command = add_command(commands, "evaluate", "training.training_commands:evaluate", text, [data, model])
    command.add_argument("--part", choices=_PARTS, help="(default: test, else all)")
    command.add_argument("--plot", type=Path, default=Path("confusion_matrix.png"), help=_DEFAULT)

    text = "Write the distribution of the model's predictions on pictures to its model.json: the baseline of drift."
    command = add_command(commands, "reference", "training.training_commands:reference", text, [data])
    command.add_argument("--part", choices=_PARTS, default="validation", help=_DEFAULT)
    command.add_argument("--out", type=Path, default=Path(), help="folder that has model/model.json")

    text = "Print path, digit, confidence, accepted or rejected, and warnings of each picture, separated by tabs."
    command = add_command(commands, "predict", "training.predict:run_predict", text, [model])
    command.add_argument("images", nargs="+", metavar="IMAGE")
    return top


def _recipe_parser() -> argparse.ArgumentParser:
    """Return the options of a recipe, one per field of Config."""
    recipe = argparse.ArgumentParser(add_help=False)
    text = "default, original or a file that tune wrote: what the options below default to; fine-tuning with --from"
    recipe.add_argument("--recipe", help=text)
    types = get_type_hints(Config)
    for field in dataclasses.fields(Config)[1:]:
        defaults = ", ".join(f"{name}: {getattr(config, field.name)}" for name, config in RECIPES.items())
        kind = types[field.name]
        how = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        recipe.add_argument(
            "--" + field.name.replace("_", "-"),
            **how,
            choices=_CHOICES.get(field.name),
            help=f"{_HELP[field.name]} ({defaults})",
        )
    return recipe


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, with the processes that augment pictures
    return run_command(parser())


if __name__ == "__main__":
    sys.exit(main())
