"""Fine-tuning: training from a model's weights, on own images mixed with MNIST's.

Against forgetting, the initial model is the teacher on images that it classifies correctly; the others have only
their label (Li, Hoiem: Learning without forgetting, 2016).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from training.data import DataSet, LabeledImages, load_data
from training.export import PARAMETERS
from training.model import load_model
from training.runs import find_run, read_record

MIXED_IN = "mnist5k"  # no download needed


@dataclass(frozen=True)
class InitialModel:
    """The initial model of fine-tuning, the SHA-256 of its weights and its run id, if known."""

    model: nn.Module
    sha256: str
    run_id: str | None


def load_initial_model(name: str, out: Path) -> InitialModel:
    """Load the weights of a run (a name for `find_run`) or of a model file; raise RunError if `name` is neither."""
    path, run_id = Path(name), None
    if not path.is_file():
        folder = find_run(name, out)
        path, run_id = folder / PARAMETERS, read_record(folder).get("run_id")
    model = load_model(path)
    digest = hashlib.sha256(b"".join(weights.numpy().tobytes() for weights in model.state_dict().values()))
    return InitialModel(model, digest.hexdigest(), run_id)


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
