"""Writes what a training run leaves behind, each file whole or not at all: the models and their record."""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import nn

from common.atomic import write_atomic
from handler import __version__
from handler.confidence import Calibration
from handler.preprocessing import frame, to_input
from training.model import ARCHITECTURE

if TYPE_CHECKING:
    from training.data import DataSet
    from training.measures import Measures
    from training.train import Trainer

MODEL = Path("model/DigitRecognitionModel.pt")  # whole model
PARAMETERS = Path("model/DigitRecognitionModelParameter.pt")  # state dict
SCRIPTED = Path("scripted_model.pt")  # what `make archive` bundles
RECORD = Path("model/model.json")
CHECKPOINT = Path("model/checkpoint.pt")
SMOKE = Path(__file__).resolve().parents[1] / "handler" / "smoke"  # <digit>.png
LIBRARIES = ("torch", "torchvision", "torchmetrics", "numpy", "pillow", "opencv-python-headless")


def to_bytes(write: Callable[[IO[bytes]], object]) -> bytes:
    """Return what `write` writes to a file."""
    buffer = BytesIO()
    write(buffer)
    return buffer.getvalue()


def export(model: nn.Module, record: dict[str, Any], folder: Path) -> None:
    """Write whole model, state dict, scripted model and model.json below `folder`."""
    model = model.cpu().eval().requires_grad_(True)
    scripted = torch.jit.script(model)
    write_atomic(folder / MODEL, to_bytes(lambda file: torch.save(model, file)))
    write_atomic(folder / PARAMETERS, to_bytes(lambda file: torch.save(model.state_dict(), file)))
    write_atomic(folder / SCRIPTED, to_bytes(lambda file: torch.jit.save(scripted, file)))
    write_record(record, folder)


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Write model.json below `folder`."""
    write_atomic(folder / RECORD, f"{json.dumps(record, indent=2)}\n".encode())


def record(
    trainer: "Trainer",
    data: "DataSet",
    measures: dict[str, "Measures"],
    calibration: Calibration | None,
    seen: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """model.json: what determines the run, and what it measured. No date: a repeated run writes the same.

    `seen` is what `training.reference` gives; without it a server tells no drift of the version.
    """
    return {
        "version": __version__,
        "run_id": trainer.run_id,
        "architecture": ARCHITECTURE,
        "parameters": sum(parameter.numel() for parameter in trainer.best.parameters()),
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "training_pictures": len(trainer.train),
            "skipped_pictures": len(data.skipped),
        },
        "recipe": asdict(trainer.config),
        "seed": trainer.config.seed,
        "epochs": len(trainer.history),
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "device": trainer.device.type,
        **({"calibration": asdict(calibration)} if calibration else {}),
        **({"reference": seen} if seen else {}),
        "smoke": smoke(trainer.best, calibration or Calibration()),
        "metrics": {
            part: {"pictures": len(each.labels), "accuracy": each.accuracy, "loss": each.loss}
            for part, each in measures.items()
        },
    }


def smoke(model: nn.Module, calibration: Calibration) -> dict[str, list[float]]:
    """What the served model must answer: smoke picture's digit -> its ten probabilities."""
    pictures = {path.stem: frame(path.read_bytes()) for path in sorted(SMOKE.glob("*.png"))}
    with torch.inference_mode():
        logits = model.cpu().eval()(to_input(list(pictures.values())))
    return dict(zip(pictures, calibration.probabilities(logits).tolist(), strict=True))
