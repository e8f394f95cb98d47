"""Train the segment model, by which number reading knows a digit or a pair of touching ones from other segments."""

import json
from argparse import Namespace
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from common.atomic import write_atomic
from common.command_line import show_progress
from common.models import RECORD
from handler.classifier import Classifier
from handler.networks import load_network
from handler.number_reader import (
    SEGMENT_CLASSES,
    SEGMENT_MODEL,
    SEGMENT_ONNX,
    SEGMENT_RECORD,
    NumberCalibration,
    NumberReader,
)
from handler.preprocessing import to_input
from training import export
from training.data import load_data
from training.model import LargeDigitCNN
from training.number_calibration import fit_number_calibration
from training.number_segments import make_segments

WIDTH, DROPOUT = 16, 0.1  # of LargeDigitCNN
BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 256, 0.006, 0.01


def run_segment_model(args: Namespace) -> int:
    """Run the command `segment-model`: train, then calibrate numbers that are read with the current default model."""
    torch.manual_seed(args.seed)
    data = load_data(args.data)
    segments = make_segments(data.train.frames, data.train.labels, args.numbers, args.seed, torch.get_num_threads())
    frames, classes = map(torch.from_numpy, segments)
    model = LargeDigitCNN(DROPOUT, WIDTH, SEGMENT_CLASSES)
    _fit(model, frames, classes, args.epochs)
    scripted = torch.jit.script(model.eval())
    write_atomic(args.out / SEGMENT_MODEL, export.to_bytes(lambda file: torch.jit.save(scripted, file)))
    write_atomic(args.out / SEGMENT_ONNX, export.convert_to_onnx(model))
    classifier = Classifier(export.SCRIPTED, RECORD, "")
    reader = NumberReader(classifier, load_network(args.out / SEGMENT_MODEL), NumberCalibration())
    record: dict[str, Any] = {
        "seed": args.seed,
        "numbers": args.numbers,
        "epochs": args.epochs,
        "segments": len(frames),
        "data": {"name": data.name, "sha256": data.sha256},
        "libraries": export.read_versions(),
        "calibration": asdict(fit_number_calibration(reader, data.validation, args.seed)),
    }
    write_atomic(args.out / SEGMENT_RECORD, f"{json.dumps(record, indent=2)}\n".encode())
    print(f"{args.out / SEGMENT_RECORD}: {record['calibration']}")
    return 0


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
