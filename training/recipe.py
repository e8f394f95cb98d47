"""Recipes: the hyperparameters of a training run, from a named recipe, a file or options."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_type_hints

from common.errors import UserError

NO_TEACHER: Final = "none"


class ConfigError(UserError):
    """An option out of its range; the message names option, value and range."""


@dataclass(frozen=True)
class Config:
    """Hyperparameters of a training run; the defaults are those of `make train`."""

    recipe: str = "default"
    model: str = "default"  # or large
    epochs: int = 50
    batch_size: int = 100
    lr: float = 0.014  # Adam's; the peak of a onecycle schedule
    dropout: float = 0.0  # Dropout2d after the default model's second convolution, Dropout before large's last layer
    schedule: str = "onecycle"  # or constant
    ema_decay: float = 0.999  # exponential moving average of the weights, 0 for none
    batch_norm: bool = True  # folded into the weights after training; the large model always has batch norms
    augment: bool = True
    augmentation_passes: int = 50  # augmented copies of the training set; epochs cycle through them
    synthetic_ratio: float = 0.1  # share of the augmented digits that are synthetic
    mild_ratio: float = 0.4  # share of the augmented digits that are only distorted, and mildly
    outlier_ratio: float = 0.1  # outliers per digit in a batch
    outlier_weight: float = 0.012  # of the outliers in the loss; a higher one rejects more letters and misreads more
    teacher: str = "large"  # model whose probabilities are learned, too; or none
    distillation_weight: float = 0.9  # of the teacher's probabilities in the loss; the labels have the rest
    distillation_temperature: float = 1.5
    held_out: str = "validation"  # or test: evaluated after every epoch
    seed: int = 0
    threads: int = 2  # CPU threads; another number gives slightly different weights

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1, 100_000), "batch_size": (1, 60_000), "lr": (1e-9, 10), "dropout": (0, 0.99),
            "ema_decay": (0, 0.999999), "augmentation_passes": (1, 1000), "synthetic_ratio": (0, 1),
            "mild_ratio": (0, 1), "outlier_ratio": (0, 1), "outlier_weight": (0, 1),
            "distillation_weight": (0, 1), "distillation_temperature": (0.1, 100), "seed": (0, 2**32),
            "threads": (1, 1024),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}; expected {low} to {high}")


RECIPES: Final = {
    "default": Config(),
    "original": Config(
        "original", epochs=30, batch_size=50, lr=0.01, dropout=0.5, schedule="constant", ema_decay=0.0,
        batch_norm=False, augment=False, augmentation_passes=1, synthetic_ratio=0.0, mild_ratio=0.0,
        outlier_ratio=0.0, teacher=NO_TEACHER, distillation_weight=0.0, held_out="test",
    ),
    "large": Config(
        "large", "large", epochs=36, lr=0.004, dropout=0.3, ema_decay=0.998, batch_norm=False,
        augmentation_passes=36, synthetic_ratio=0.2, mild_ratio=0.0, outlier_weight=0.06, teacher=NO_TEACHER,
    ),
}  # fmt: skip

FINE_TUNING: Final = Config(
    "fine-tuning", epochs=20, batch_size=50, lr=0.004, ema_decay=0.99, batch_norm=False, augmentation_passes=10,
    synthetic_ratio=0.2, mild_ratio=0.0, outlier_weight=0.06, teacher=NO_TEACHER, distillation_weight=0.5,
    distillation_temperature=4.0,
)  # fmt: skip  # no batch norm: it is already folded into the initial weights


def make_config(recipe: str, **changes: Any) -> Config:
    """Return the Config of a named recipe or file, with the changes that are not None; raise ConfigError if invalid."""
    base = (RECIPES | {FINE_TUNING.recipe: FINE_TUNING}).get(recipe) or _read_recipe(Path(recipe))
    return replace(base, **{name: value for name, value in changes.items() if value is not None})


def _read_recipe(path: Path) -> Config:
    try:
        fields = dict(json.loads(path.read_text()))
        types = get_type_hints(Config)
        wrong = [name for name, value in fields.items() if name not in types or type(value) is not types[name]]
    except FileNotFoundError as error:
        raise ConfigError(f"--recipe {path}: expected {', '.join(RECIPES)} or a recipe file from tune") from error
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"--recipe {path}: not a recipe file: {error}") from error
    if wrong:
        raise ConfigError(f"--recipe {path}: {', '.join(wrong)}: unknown option, or a value of the wrong type")
    return Config(**fields)
