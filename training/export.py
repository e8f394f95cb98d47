"""Writes what a training run leaves behind, each file whole or not at all: the models and their record."""

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import nn

from handler import __version__
from handler.confidence import Calibration
from handler.preprocessing import frame, to_input
from training.model import ARCHITECTURE, DigitCNN

if TYPE_CHECKING:
    from training.data import DataSet
    from training.measures import Measures
    from training.train import Run

MODEL = Path("model/DigitRecognitionModel.pt")  # whole model
PARAMETERS = Path("model/DigitRecognitionModelParameter.pt")  # state dict
SCRIPTED = Path("scripted_model.pt")  # what `make archive` bundles
RECORD = Path("model/model.json")
CHECKPOINT = Path("model/checkpoint.pt")
SMOKE = Path(__file__).resolve().parents[1] / "handler" / "smoke"  # <digit>.png
LIBRARIES = ("torch", "torchvision", "torchmetrics", "numpy", "pillow", "opencv-python-headless")


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Gives `path` what `write` puts into a buffer: by a temporary file and a rename, so never a half of it."""
    buffer = BytesIO()
    write(buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(buffer.getvalue())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def export(model: DigitCNN, record: dict[str, Any], folder: Path) -> None:
    """Writes whole model, state dict, scripted model and model.json below `folder`."""
    model = model.cpu().eval().requires_grad_(True)
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stub lacks it
    scripted = torch.jit.script(model)
    write_whole(folder / MODEL, lambda file: torch.save(model, file))
    write_whole(folder / PARAMETERS, lambda file: torch.save(model.state_dict(), file))
    write_whole(folder / SCRIPTED, lambda file: torch.jit.save(scripted, file))
    write_record(record, folder)


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Writes model.json below `folder`."""
    text = json.dumps(record, indent=2) + "\n"
    write_whole(folder / RECORD, lambda file: file.write(text.encode()))


def record(
    run: "Run",
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
        "run_id": run.identity,
        "architecture": ARCHITECTURE,
        "parameters": sum(parameter.numel() for parameter in run.best.parameters()),
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "training_pictures": len(run.train),
            "skipped_pictures": len(data.skipped),
        },
        "recipe": asdict(run.config),
        "seed": run.config.seed,
        "epochs": len(run.history),
        "libraries": {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES},
        "device": run.device.type,
        **({"calibration": asdict(calibration)} if calibration else {}),
        **({"reference": seen} if seen else {}),
        "smoke": smoke(run.best, calibration or Calibration()),
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
