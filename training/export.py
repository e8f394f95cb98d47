"""Build model.json and write the files of a training run atomically."""

import json
import platform
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.atomic import ReservedFile, write_atomic
from common.errors import UserError
from common.models import ONNX, RECORD
from handler import __version__
from handler.calibration import Calibration
from handler.preprocessing import CHANNELS, ImageError, frame, to_input
from training.model import ARCHITECTURES, CLASSES, DigitCNN

if TYPE_CHECKING:
    from training.data import DataSet
    from training.fine_tuning import LoadedModel
    from training.model_metrics import Evaluation
    from training.train import Trainer

MODEL = Path("model/DigitRecognitionModel.pt")  # whole model
PARAMETERS = Path("model/DigitRecognitionModelParameter.pt")  # state dict
SCRIPTED = Path("scripted_model.pt")  # bundled by `make archive`
CURVES = Path("model/curves.png")
CHECKPOINT = Path("model/checkpoint.pt")
SMOKE_FOLDER = Path(__file__).resolve().parents[1] / "handler" / "smoke"  # <digit>.png
LIBRARIES = ("torch", "torchvision", "torchmetrics", "numpy", "pillow", "opencv-python-headless")
ONNX_OPSET = 20
RESERVED_BYTES = 1_000_000  # bytes; more than the files of a run need


class ExportError(UserError):
    """Something that a run needs at its end is missing; the message names it and says what to do."""


def read_smoke_images() -> dict[str, NDArray[np.uint8]]:
    """Return the frames [64,64] of the ten smoke images by digit; raise ExportError if one is unreadable."""
    try:
        return {str(digit): frame((SMOKE_FOLDER / f"{digit}.png").read_bytes()) for digit in range(CLASSES)}
    except (ImageError, OSError) as error:
        reason = error.message if isinstance(error, ImageError) else error
        raise ExportError(f"{SMOKE_FOLDER}: {reason}; `git checkout handler/smoke` restores the ten images") from error


def read_versions() -> dict[str, str]:
    """Return the libraries' versions; raise ExportError if one is not installed."""
    try:
        return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
    except PackageNotFoundError as error:
        raise ExportError(f"{error.name} is not installed; expected all of requirements.txt") from error


def check_folder(folder: Path) -> None:
    """Raise ExportError if the files of a run cannot be written to `folder`."""
    try:
        for name, size in ((SCRIPTED, 0), (RECORD, RESERVED_BYTES)):
            with ReservedFile(folder / name, size):
                pass
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written ({error.strerror}); choose another with --out") from error


def to_bytes(write: Callable[[IO[bytes]], object]) -> bytes:
    """Return the bytes that `write` writes to a file."""
    buffer = BytesIO()
    write(buffer)
    return buffer.getvalue()


class _GrayNetwork(nn.Module):
    """A network that reads the first of the three equal channels, and so an image of one channel as well."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network)
        if isinstance(self.network, DigitCNN):
            self.network.conv1.weight.data = self.network.conv1.weight.data.sum(1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images[:, :1])
        return logits


def convert_to_onnx(model: nn.Module) -> bytes:
    """Return an ONNX model: float32 [N,3,64,64] in 0..1, or one channel of it, -> logits float32 [N,classes]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own
        program = torch.onnx.export(
            _GrayNetwork(model).eval(),
            (torch.zeros(2, CHANNELS, 64, 64),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 1: "channels"},),
            opset_version=ONNX_OPSET,
            verbose=False,
        )
    assert program is not None
    model_proto = program.model_proto
    for part in (model_proto.graph, *model_proto.graph.node, *model_proto.graph.value_info):
        part.ClearField("metadata_props")  # stack traces, with this machine's paths
    return bytes(model_proto.SerializeToString())


def export_model(model: nn.Module, record: dict[str, Any], folder: Path) -> None:
    """Write whole model, state dict, scripted model, ONNX model and model.json to `folder`."""
    model = model.cpu().eval().requires_grad_(True)
    scripted = torch.jit.script(model)
    write_atomic(folder / MODEL, to_bytes(lambda file: torch.save(model, file)))
    write_atomic(folder / PARAMETERS, to_bytes(lambda file: torch.save(model.state_dict(), file)))
    write_atomic(folder / ONNX, convert_to_onnx(model))
    write_record(record, folder)
    write_atomic(folder / SCRIPTED, to_bytes(lambda file: torch.jit.save(scripted, file)))  # last: marks a complete run


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Write model.json to `folder`."""
    write_atomic(folder / RECORD, f"{json.dumps(record, indent=2)}\n".encode())


def make_record(
    trainer: "Trainer",
    data: "DataSet",
    evaluations: dict[str, "Evaluation"],
    calibration: Calibration | None,
    drift_baseline: dict[str, Any] | None = None,
    start: "LoadedModel | None" = None,
) -> dict[str, Any]:
    """Return model.json: everything that determines the run, and its metrics; no date, so a repeated run is equal."""
    source, model = ("fine_tuned_from", start) if start else ("teacher", trainer.teacher)
    return {  # `reference` is the drift baseline, and pictures are images: the format of model.json keeps these keys
        "version": __version__,
        "run_id": trainer.run_id,
        "architecture": ARCHITECTURES[trainer.config.model],
        "parameters": sum(parameter.numel() for parameter in trainer.trained_model.parameters()),
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "training_pictures": len(trainer.train),
            "skipped_pictures": len(data.skipped),
        },
        "recipe": asdict(trainer.config),
        **({source: {"run_id": model.run_id, "sha256": model.sha256}} if model else {}),
        "seed": trainer.config.seed,
        "epochs": len(trainer.history),
        "libraries": read_versions(),
        "device": trainer.device.type,
        **({"calibration": asdict(calibration)} if calibration else {}),
        **({"reference": drift_baseline} if drift_baseline else {}),
        "smoke": compute_smoke_probabilities(trainer.trained_model, calibration or Calibration()),
        "metrics": {
            part: {"pictures": len(evaluation.labels), "accuracy": evaluation.accuracy, "loss": evaluation.loss}
            for part, evaluation in evaluations.items()
        },
    }


def compute_smoke_probabilities(model: nn.Module, calibration: Calibration) -> dict[str, list[float]]:
    """Return the probabilities [10] of the ten smoke images by digit; a server checks that it computes the same."""
    frames = read_smoke_images()
    with torch.inference_mode():
        logits = model.cpu().eval()(to_input(list(frames.values())))
    return dict(zip(frames, calibration.compute_probabilities(logits).tolist(), strict=True))
