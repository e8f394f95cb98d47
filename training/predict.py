"""Predict the digit in an image with the current model and the preprocessing that serving uses."""

import sys
from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.models import MODEL_FOLDERS, RECORD
from handler.calibration import Calibration, read_calibration
from handler.preprocessing import ImageError, frame_with_warnings, to_input
from training.export import PARAMETERS
from training.model import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
CURRENT_MODEL = ROOT / PARAMETERS


class MakePrediction:
    """Predicts one image: `show_prediction().item()` is the digit, `accepted` compares its score with the threshold.

    `frame` uint8 [64,64] is the model's input, `warnings` are those of a response. Raises OSError if the file is not
    readable, ImageError if it is not an image or is blank, ModelError if the model cannot be loaded.
    Class, `show_prediction` and `plot_img` keep the names of the notebook project that this one descends from.
    """

    def __init__(self, path: str | Path, model: str | Path = CURRENT_MODEL) -> None:
        self.path = Path(path)
        self.frame, self.warnings = frame_with_warnings(self.path.read_bytes())
        network, calibration = _get_model(Path(model)), _get_calibration(Path(model))
        with torch.inference_mode():
            logits = network(to_input([self.frame]))
        probabilities = calibration.compute_probabilities(logits)
        self.probabilities = torch.from_numpy(probabilities[0])  # float64 [10], index = digit
        self.accepted = bool(calibration.accept(logits, [self.warnings])[0])

    def show_prediction(self) -> Tensor:
        """Return the digit, int64 []."""
        return self.probabilities.argmax()

    @property
    def confidence(self) -> float:
        """Probability of the digit, 0..1."""
        return float(self.probabilities.max())

    def plot_img(self) -> "Figure":
        """Plot the frame, titled with digit, confidence, rejection and warnings; show it where there is a display."""
        import matplotlib.pyplot as plt  # slow to import

        figure, axes = plt.subplots(figsize=(3, 3))
        axes.imshow(self.frame, cmap="gray")
        title = f"{self.show_prediction().item()} ({self.confidence:.1%}){'' if self.accepted else ', rejected'}"
        axes.set_title("\n".join([title, *self.warnings]), fontsize="medium")
        axes.axis("off")
        plt.show()
        return figure


def run_predict(args: Namespace) -> int:
    """Run the command `predict`; return 1 if any image is unreadable."""
    errors = 0
    for image in args.images:
        try:
            prediction = MakePrediction(image, find_model(args.model))
            digit, verdict = prediction.show_prediction().item(), "accepted" if prediction.accepted else "rejected"
            print(image, digit, f"{prediction.confidence:.4f}", verdict, " ".join(prediction.warnings), sep="\t")
        except (OSError, ImageError) as error:
            errors += 1
            reason = error.message if isinstance(error, ImageError) else error.strerror
            print(f"error: {image}: {reason}", file=sys.stderr)
    return 1 if errors else 0


def find_model(name: str) -> Path:
    """Return the weights of the current model of this name, or the path that `name` is."""
    return ROOT / MODEL_FOLDERS[name] / PARAMETERS if name in MODEL_FOLDERS else Path(name)


_get_model = cache(load_model)


@cache
def _get_calibration(model: Path) -> Calibration:
    """Return the calibration from the model.json next to a model; the neutral one if there is none."""
    records = (model.parent / RECORD.name, model.parent / RECORD)
    return next((read_calibration(record) for record in records if record.exists()), Calibration())
