"""The digit on one picture, by the released model and the preprocessing that serving uses."""

import sys
from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from handler.calibration import Calibration, read_calibration
from handler.preprocessing import ImageError, frame_with_warnings, to_input
from training.export import PARAMETERS, RECORD
from training.model import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RELEASED = ROOT / PARAMETERS


class MakePrediction:
    """Reads one picture; `show_prediction().item()` is its digit, `accepted` whether it is surely one.

    `frame` is what the model saw, uint8 [64,64], `warnings` are serving's. Raises OSError if the file cannot be opened,
    ImageError if it is no picture or shows nothing, ModelError if the model cannot be loaded.
    """

    def __init__(self, path: str | Path, model: str | Path = RELEASED) -> None:
        self.path = Path(path)
        self.frame, self.warnings = frame_with_warnings(self.path.read_bytes())
        network, calibration = _model(Path(model)), _calibration(Path(model))
        with torch.inference_mode():
            logits = network(to_input([self.frame]))
        self.probabilities: Tensor = calibration.compute_probabilities(logits)[0]  # float64 [10], index = digit
        self.accepted = bool(calibration.accept(logits)[0])

    def show_prediction(self) -> Tensor:
        """The digit, int64 []."""
        return self.probabilities.argmax()

    @property
    def confidence(self) -> float:
        """Probability of the digit, 0..1."""
        return float(self.probabilities.max())

    def plot_img(self) -> "Figure":
        """Plot the image as the model sees it below digit, confidence, rejection and warnings.

        The plot is shown where there is a screen.
        """
        import matplotlib.pyplot as plt  # here, as it takes longer than a prediction

        figure, axes = plt.subplots(figsize=(3, 3))
        axes.imshow(self.frame, cmap="gray")
        title = f"{self.show_prediction().item()} ({self.confidence:.1%}){'' if self.accepted else ', rejected'}"
        axes.set_title("\n".join([title, *self.warnings]), fontsize="medium")
        axes.axis("off")
        plt.show()
        return figure


def run_predict(given: Namespace) -> int:
    """Run the command `predict`; return 1 if any picture cannot be read."""
    failed = 0
    for image in given.images:
        try:
            prediction = MakePrediction(image, given.model or RELEASED)
            digit, verdict = prediction.show_prediction().item(), "accepted" if prediction.accepted else "rejected"
            print(image, digit, f"{prediction.confidence:.4f}", verdict, " ".join(prediction.warnings), sep="\t")
        except (OSError, ImageError) as error:
            failed += 1
            reason = error.message if isinstance(error, ImageError) else error.strerror
            print(f"error: {image}: {reason}", file=sys.stderr)
    return 1 if failed else 0


@cache
def _model(path: Path) -> nn.Module:
    return load_model(path)


@cache
def _calibration(model: Path) -> Calibration:
    """Of the record that training wrote with this model; the neutral one for a model without."""
    records = (model.parent / RECORD.name, model.parent / RECORD)
    return next((read_calibration(record) for record in records if record.exists()), Calibration())
