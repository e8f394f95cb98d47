"""Train the segment model, by which number reading knows whether a part of an image is one whole digit."""

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from common.atomic import write_atomic
from common.command_line import show_progress
from handler.classifier import Classifier, load_gray_network
from handler.number_reader import NOT_A_DIGIT, SEGMENT_MODEL, SEGMENT_RECORD, NumberCalibration, NumberReader
from handler.preprocessing import to_input
from training import export
from training.data import DataSet, load_data
from training.model import LargeDigitCNN
from training.number_calibration import fit_number_calibration
from training.number_segments import make_segments

WIDTH, DROPOUT = 12, 0.1  # LargeDigitCNN with half its channels: 89,423 parameters
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 256, 0.006, 0.01
VALIDATION_NUMBERS = 2000


def run_segment_model(args: Namespace) -> int:
    """Run the command `segment-model`."""
    torch.manual_seed(args.seed)
    data = load_data(args.data)
    segments = make_segments(data.train.frames, data.train.labels, args.numbers, args.seed, torch.get_num_threads())
    frames, classes = map(torch.from_numpy, segments)
    model = LargeDigitCNN(DROPOUT, WIDTH, NOT_A_DIGIT + 1)
    _fit(model, frames, classes, args.epochs)
    metrics = _evaluate(model, data, args.seed)
    record: dict[str, Any] = {
        "seed": args.seed,
        "numbers": args.numbers,
        "epochs": args.epochs,
        "segments": len(frames),
    }
    record |= {"data": {"name": data.name, "sha256": data.sha256}, "libraries": export.read_versions()}
    scripted = torch.jit.script(model.eval())
    write_atomic(args.out / SEGMENT_MODEL, export.to_bytes(lambda file: torch.jit.save(scripted, file)))
    calibrate_numbers(args.out, record | {"metrics": metrics}, data, args.seed)
    return 0


def calibrate_numbers(folder: Path, record: dict[str, Any], data: DataSet, seed: int) -> None:
    """Fit the confidence of numbers, read with the current default model, and write it into the record."""
    classifier = Classifier(export.SCRIPTED, export.RECORD, "")
    reader = NumberReader(classifier, load_gray_network(folder / SEGMENT_MODEL), NumberCalibration())
    record["calibration"] = asdict(fit_number_calibration(reader, data.validation, seed))
    write_atomic(folder / SEGMENT_RECORD, f"{json.dumps(record, indent=2)}\n".encode())
    print(f"{folder / SEGMENT_RECORD}: {record['metrics']}, {record['calibration']}")


def _fit(model: nn.Module, frames: Tensor, classes: Tensor, epochs: int) -> None:
    """Train on frames uint8 [N,64,64] and their classes int64 [N]."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = -(-len(frames) // BATCH_SIZE)
    scheduler = OneCycleLR(optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=steps)
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in show_progress(torch.randperm(len(frames)).split(BATCH_SIZE), f"epoch {epoch}"):
            loss = F.cross_entropy(model(to_input(frames[rows])), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += float(loss.detach())
        print(f"epoch {epoch} of {epochs}: loss {total / steps:.4f}", flush=True)


def _evaluate(model: nn.Module, data: DataSet, seed: int) -> dict[str, float]:
    """Return loss and accuracy on segments of validation digits, and the shares of the two kinds of mistakes."""
    digits = data.validation
    segments = make_segments(digits.frames, digits.labels, VALIDATION_NUMBERS, seed + 1, torch.get_num_threads())
    frames, classes = map(torch.from_numpy, segments)
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([model(to_input(part)) for part in frames.split(BATCH_SIZE)])
    rejected = logits.softmax(1)[:, NOT_A_DIGIT] > 0.5
    is_digit = classes != NOT_A_DIGIT
    return {
        "loss": float(F.cross_entropy(logits, classes)),
        "accuracy": float((logits.argmax(1) == classes).float().mean()),
        "digits_rejected": float(rejected[is_digit].float().mean()),
        "others_accepted": float((~rejected[~is_digit]).float().mean()),
    }
