"""The report's pictures, as PNG."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from evaluation.ood_scores import BINS, Floats, Labels
from handler.background import crop_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import decode_image
from handler.geometry import crop_components, deslant, place_in_frame
from handler.preprocessing import frame
from handler.segmentation import FOREGROUND_THRESHOLD, find_components
from training.plots import write_figure


def reliability(sets: dict[str, tuple[Floats, NDArray[np.bool_]]], path: Path) -> None:
    """Of each set, given as confidence [N] and right [N]: how often answers of a confidence are right."""
    figure = Figure(figsize=(4.2 * len(sets), 4), layout="constrained")
    for axes, (name, (confidence, right)) in zip(np.ravel(figure.subplots(1, len(sets))), sets.items(), strict=True):
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        filled = np.unique(bins)
        axes.plot((0, 1), (0, 1), color="grey", linewidth=1, linestyle="--")
        axes.bar((filled + 0.5) / BINS, [right[bins == each].mean() for each in filled], 0.9 / BINS)
        for each in filled:
            axes.text((each + 0.5) / BINS, 0.02, str((bins == each).sum()), rotation=90, ha="center", fontsize=8)
        axes.set(title=name, xlabel="confidence (number of pictures in the bar)", ylabel="share right", ylim=(0, 1.02))
    write_figure(path, figure)


def mistakes(pictures: Sequence[bytes], labels: Labels, digits: Labels, confidence: Floats, path: Path) -> None:
    """Pictures beside their frames, with label, answer and confidence; at most 30, the most confident first."""
    rows = np.argsort(-confidence, kind="stable")[:30]
    figure = Figure(figsize=(12, 1.45 * -(-max(len(rows), 1) // 6)), layout="constrained")
    for place_, row in enumerate(rows):
        axes = figure.add_subplot(-(-len(rows) // 6), 6, place_ + 1)
        shown = np.hstack((_square(pictures[row]), cv2.resize(frame(pictures[row]), (128, 128))))
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{labels[row]} read as {digits[row]}, {confidence[row]:.2f}", fontsize=8)
        axes.axis("off")
    write_figure(path, figure)


def _square(picture: bytes, side: int = 128) -> NDArray[np.uint8]:
    with Image.open(BytesIO(picture)) as image:
        grey = image.convert("L")
    grey.thumbnail((side, side))
    if max(grey.size) < side:
        factor = side // max(grey.size)
        grey = grey.resize((grey.width * factor, grey.height * factor), Image.Resampling.NEAREST)
    square = Image.new("L", (side, side), 128)
    square.paste(grey, ((side - grey.width) // 2, (side - grey.height) // 2))
    return np.asarray(square)


def stages(pictures: Sequence[tuple[str, bytes]], path: Path) -> None:
    """What framing makes of named pictures, step by step: a row a picture, a column a step."""
    figure = Figure(figsize=(12, 2 * len(pictures)), layout="constrained")
    grid = figure.subplots(len(pictures), 7, squeeze=False)
    for axes, (name, picture) in zip(grid, pictures, strict=True):
        _row(axes, name, picture)
    write_figure(path, figure)


def _row(axes: Sequence[Axes], name: str, picture: bytes) -> None:
    with Image.open(BytesIO(picture)) as image:
        axes[0].imshow(image.convert("RGB"))
    grey = crop_page(reduce_image(decode_image(picture)))
    paper = estimate_background(grey)
    ink = extract_foreground(grey, paper)
    marks = find_components(ink)
    kept = ink.intensity >= FOREGROUND_THRESHOLD * marks.contrast if marks.mask is None else marks.mask > 0
    straight = deslant(cut := crop_components(ink, marks))
    level = np.broadcast_to(np.asarray(paper.level, np.uint8), grey.shape)
    steps = {"paper's level": level, "ink": ink.intensity, "marks": kept * 255, "cut out": cut}
    steps |= {"upright": straight, "frame": place_in_frame(straight)}
    axes[0].set_title(f"{name}, {image.width}x{image.height}", fontsize=9)
    for each, (step, shown) in zip(axes[1:], steps.items(), strict=True):
        each.imshow(shown, cmap="gray", vmin=0, vmax=255)
        each.set_title(f"{step}, {shown.shape[1]}x{shown.shape[0]}", fontsize=9)
    for each in axes:
        each.axis("off")
