"""Models that training learns from: a teacher, or the initial model of fine-tuning on own images mixed with MNIST's.

Against forgetting, the initial model of fine-tuning is its teacher (Li, Hoiem: Learning without forgetting, 2016).
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from torch import nn

from common.models import MODEL_FOLDERS
from training.data import DataSet, LabeledImages, load_data
from training.export import PARAMETERS
from training.model import load_model
from training.predict import ROOT
from training.recipe import NO_TEACHER
from training.runs import find_run, read_record

MIXED_IN = "mnist5k"  # no download needed


@dataclass(frozen=True)
class LoadedModel:
    """An initial model or teacher, the SHA-256 of its weights and its run id, if known."""

    model: nn.Module
    sha256: str
    run_id: str | None


def load_initial_model(name: str, out: Path, model: str = "default") -> LoadedModel:
    """Load the weights of a run (as `find_run` finds it) or of a model file; raise RunError if `name` is neither."""
    path = Path(name)
    return _load_weights(path, None) if path.is_file() else _load_run(find_run(name, out, model))


@cache
def load_teacher(name: str) -> LoadedModel | None:
    """Load the current model of this name; None for NO_TEACHER."""
    return None if name == NO_TEACHER else _load_run(ROOT / MODEL_FOLDERS[name])


def _load_run(folder: Path) -> LoadedModel:
    return _load_weights(folder / PARAMETERS, read_record(folder).get("run_id"))


def _load_weights(path: Path, run_id: str | None) -> LoadedModel:
    model = load_model(path)
    digest = hashlib.sha256(b"".join(weights.numpy().tobytes() for weights in model.state_dict().values()))
    return LoadedModel(model, digest.hexdigest(), run_id)


def mix_in_mnist(own: DataSet) -> DataSet:
    """Mix mnist5k into own images; repeat the smaller of the two training parts until both have equal size."""
    mnist = load_data(MIXED_IN)
    trains, validations = (own.train, mnist.train), {"own": own.validation, MIXED_IN: mnist.validation}
    size = max(map(len, trains))
    parts = [train.select(np.resize(np.arange(len(train)), size)) for train in trains] + list(validations.values())
    columns = zip(*((part.frames, part.labels, part.inverted, part.sizes) for part in parts), strict=True)
    images = LabeledImages(*map(np.concatenate, columns))
    sha256 = own.sha256 | mnist.sha256
    return DataSet(f"{own.name}+{MIXED_IN}", images, own.test, sha256, own.skipped, validations)
