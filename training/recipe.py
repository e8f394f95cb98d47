"""Recipes: all that a training run is told, by name, by file or by option."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

from common.errors import UserError


class ConfigError(UserError):
    """An option out of its range; the message names option, value and range."""


@dataclass(frozen=True)
class Config:
    """One training run; the defaults are the best recipe found on the validation split."""

    recipe: str = "default"
    epochs: int = 40
    batch: int = 50
    lr: float = 0.01  # Adam's; the peak where the schedule is onecycle
    dropout: float = 0.0  # Dropout2d after the second convolution
    schedule: str = "onecycle"  # or constant
    average: float = 0.999  # decay of the weights' moving average (EMA), 0 for none
    normalise: bool = True  # batch normalisation while training, folded into the weights afterwards
    augment: bool = True  # changed pictures, framed anew
    rounds: int = 12  # versions of every picture that epochs take turns with
    outliers: float = 0.1  # pictures of no digit, as a share of a batch's digits
    teacher: int = 12  # epochs of a larger network that is trained first, 0 for none
    distillation: float = 0.9  # share of the teacher's probabilities in the loss, the labels have the rest
    softness: float = 4.0  # temperature of both networks' probabilities in it
    held_out: str = "validation"  # or test: what each epoch is measured on
    seed: int = 0
    threads: int = 2  # of the CPU; part of what makes a run repeatable

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1, 100_000), "batch": (1, 60_000), "lr": (1e-9, 10), "dropout": (0, 0.99),
            "average": (0, 0.999999), "rounds": (1, 1000), "outliers": (0, 1), "teacher": (0, 100_000),
            "distillation": (0, 1), "softness": (0.1, 100), "seed": (0, 2**32), "threads": (1, 1024),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"--{name} {getattr(self, name)}; expected {low} to {high}")


RECIPES: Final = {
    "default": Config(),
    "original": Config(
        "original",
        epochs=30,
        lr=0.01,
        dropout=0.5,
        schedule="constant",
        average=0.0,
        normalise=False,
        augment=False,
        rounds=1,
        outliers=0.0,
        teacher=0,
        distillation=0.0,
        held_out="test",
    ),
}

FINE_TUNING: Final = Config(
    "fine-tuning", epochs=20, lr=0.004, average=0.99, normalise=False, rounds=10, teacher=0, distillation=0.5
)  # goes on from weights whose batch norms are folded

# What a teacher's training has of its own; the rest is its pupil's.
TEACHER: Final[dict[str, Any]] = {"batch": 100, "lr": 0.004, "average": 0.998, "normalise": False, "outliers": 0.0}


def configure(recipe: str, **changes: Any) -> Config:
    """The Config of a named recipe or of a recipe file, with the given fields changed; None leaves the recipe's own.

    Raises ConfigError if there is no such recipe, or the file holds anything else.
    """
    start = (RECIPES | {FINE_TUNING.recipe: FINE_TUNING}).get(recipe) or _read_recipe(Path(recipe))
    return replace(start, **{name: value for name, value in changes.items() if value is not None})


def _read_recipe(path: Path) -> Config:
    try:
        fields = json.loads(path.read_text())
        types = get_type_hints(Config)
        wrong = [name for name, value in fields.items() if name not in types or type(value) is not types[name]]
    except FileNotFoundError as error:
        raise ConfigError(f"--recipe {path}: expected {', '.join(RECIPES)} or a file that tune wrote") from error
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"--recipe {path}: not a recipe file: {error}") from error
    if wrong:
        raise ConfigError(f"--recipe {path}: {', '.join(wrong)}: no such option, or not of its type")
    return Config(**fields)
