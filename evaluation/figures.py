"""Figures of the report, as PNG, each with a caption that says how it was made."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from evaluation.ood_scores import BINS, compute_risk_coverage
from evaluation.results import Result
from handler.background import crop_to_page, estimate_background, extract_foreground, reduce_image
from handler.decoding import decode_image
from handler.geometry import crop_components, deslant, place_in_frame
from handler.lines import remove_lines
from handler.preprocessing import frame
from handler.segmentation import FOREGROUND_THRESHOLD, find_components
from training.plots import write_figure
from training.synthetic_digits import STYLES, draw_digit

MAX_MISTAKES = 30  # images in the figure of mistakes
MIN_COVERAGE = 0.5  # left end of the risk-coverage curves
RISK_TICKS = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


def plot_reliability(results: Sequence[Result], caption: str, path: Path) -> None:
    """Plot accuracy over confidence with 95% intervals, and the number of images per bin."""
    figure = Figure(figsize=(5 * len(results), 6), layout="constrained")
    figure.suptitle("Reliability diagram: is the confidence the probability of being correct?")
    grid = figure.subplots(2, len(results), squeeze=False, sharex=True, height_ratios=(3, 1))
    for (upper, lower), result in zip(grid.T, results, strict=True):
        confidence = result.predictions.confidence
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        filled = np.flatnonzero(counts)
        correct = np.bincount(bins, result.correct, BINS)[filled]
        mean_confidence = np.bincount(bins, confidence, BINS)[filled] / counts[filled]
        accuracy = correct / counts[filled]
        pairs = zip(correct.astype(int).tolist(), counts[filled].tolist(), strict=True)
        low, high = zip(*(binomtest(*pair).proportion_ci(method="wilson") for pair in pairs), strict=True)
        upper.plot((0, 1), (0, 1), color="gray", linestyle="--", label="perfect calibration")
        error_bars = np.clip((accuracy - low, high - accuracy), 0, None)
        label = f"bin, 95% Wilson interval; ECE {result.calibration_error:.2%}"
        upper.errorbar(mean_confidence, accuracy, error_bars, fmt="o", markersize=5, capsize=3, label=label)
        upper.set_title(f"{result.name}, {result.count:,} images")
        upper.set(ylabel="accuracy", ylim=(-0.03, 1.27), yticks=np.arange(6) / 5)
        upper.legend(loc="upper left", fontsize=9)
        bars = lower.bar((np.arange(BINS) + 0.5) / BINS, counts, 0.9 / BINS)
        lower.bar_label(bars, [f"{count:,}" if count else "" for count in counts], fontsize=7, padding=2, rotation=90)
        lower.set(xlabel=f"confidence, {BINS} bins", ylabel="images", yscale="log", ylim=(0.5, 50 * counts.max()))
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
    write_figure(path, figure, caption)


def plot_risk_coverage(results: Sequence[Result], caption: str, path: Path) -> None:
    """Plot the error rate of accepted images over the ratio of accepted images, with a dot at the shipped threshold."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    styles = ("-", "--", ":", "-.")
    for row, result in enumerate(results):
        coverage, risk = compute_risk_coverage(result.predictions.scores, result.correct)
        shown = coverage >= MIN_COVERAGE
        label = f"{result.name}, {result.count:,} images"
        [line] = axes.plot(coverage[shown], risk[shown], styles[row % len(styles)], label=label)
        axes.plot(result.coverage, 1 - result.accepted_accuracy, "o", color=line.get_color(), markeredgecolor="black")
    axes.set_title("Risk-coverage curve as the acceptance threshold varies; dots: the shipped threshold")
    axes.set_yscale("symlog", linthresh=RISK_TICKS[1])
    axes.set_yticks(RISK_TICKS, [f"{tick:.1%}" for tick in RISK_TICKS])
    axes.set(xlabel="coverage: accepted images / all images")
    axes.set(ylabel="risk: error rate of accepted images (log scale from 0.1%)", ylim=(0, None))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    write_figure(path, figure, caption)


def plot_mistakes(result: Result, caption: str, path: Path) -> None:
    """Show images with a wrong digit beside their frames, the most confident first, at most MAX_MISTAKES."""
    digits, confidence = result.predictions.digits, result.predictions.confidence
    wrong = np.flatnonzero(~result.correct & ~result.predictions.blank)
    rows = wrong[np.argsort(-confidence[wrong], kind="stable")[:MAX_MISTAKES]]
    figure = Figure(figsize=(12, 1 + 1.45 * -(-max(len(rows), 1) // 6)), layout="constrained")
    figure.suptitle(
        f"{result.name}: {len(wrong):,} of {result.count:,} images get a wrong digit; the {len(rows)} most confident, "
        "beside their frames"
    )
    for position, row in enumerate(rows, 1):
        axes = figure.add_subplot(-(-len(rows) // 6), 6, position)
        image = result.image_set.images[row]
        axes.imshow(np.hstack((_fit_into_square(image), cv2.resize(frame(image), (128, 128)))), cmap="gray")
        axes.set_title(f"label {result.labels[row]}, predicted {digits[row]} ({confidence[row]:.0%})", fontsize=9)
        axes.axis("off")
    write_figure(path, figure, caption)


def _fit_into_square(content: bytes, side: int = 128) -> NDArray[np.uint8]:
    """Return the image in the middle of a gray square, enlarged by a whole factor if it is smaller."""
    with Image.open(BytesIO(content)) as image:
        gray = image.convert("L")
    gray.thumbnail((side, side))
    if max(gray.size) < side:
        factor = side // max(gray.size)
        gray = gray.resize((gray.width * factor, gray.height * factor), Image.Resampling.NEAREST)
    square = Image.new("L", (side, side), 128)
    square.paste(gray, ((side - gray.width) // 2, (side - gray.height) // 2))
    return np.asarray(square)


def plot_synthetic_digits(seed: int, caption: str, path: Path) -> None:
    """Show three synthetic digits of every handwriting style, one digit per row."""
    random = np.random.default_rng(seed)
    figure = Figure(figsize=(12, 9), layout="constrained")
    for axes, (digit, styles) in zip(figure.subplots(len(STYLES)), STYLES.items(), strict=True):
        axes.imshow(np.hstack([draw_digit(digit, random, style) for style in styles for _ in range(3)]), cmap="gray")
        axes.set_title(f"{digit}: {', '.join(styles)}", loc="left", fontsize=9)
        axes.set_anchor("W")
        axes.axis("off")
    write_figure(path, figure, caption)


def plot_framing_steps(images: Sequence[tuple[str, bytes]], caption: str, path: Path) -> None:
    """Show the steps of framing, one named image per row."""
    figure = Figure(figsize=(12, 2 * len(images)), layout="constrained")
    figure.suptitle("Framing step by step, with sizes in pixels")
    grid = figure.subplots(len(images), 7, squeeze=False)
    for axes, (name, content) in zip(grid, images, strict=True):
        _plot_steps(axes, name, content)
    write_figure(path, figure, caption)


def _plot_steps(row: Sequence[Axes], name: str, content: bytes) -> None:
    with Image.open(BytesIO(content)) as image:
        row[0].imshow(image.convert("RGB"))
    gray = crop_to_page(reduce_image(decode_image(content))).gray
    background = estimate_background(gray)
    foreground = extract_foreground(gray, background)
    foreground = remove_lines(foreground) or foreground
    components = find_components(foreground)
    weakest = FOREGROUND_THRESHOLD * components.contrast
    mask = foreground.intensity >= weakest if components.mask is None else components.mask > 0
    upright = deslant(cropped := crop_components(foreground, components))
    level = np.broadcast_to(np.asarray(background.level, np.uint8), gray.shape)
    steps = {"background": level, "foreground": foreground.intensity, "components": mask * 255, "crop": cropped}
    steps |= {"deslanted": upright, "frame": place_in_frame(upright)}
    row[0].set_title(f"{name}, {image.width}x{image.height}", fontsize=9)
    for axes, (step, pixels) in zip(row[1:], steps.items(), strict=True):
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{step}, {pixels.shape[1]}x{pixels.shape[0]}", fontsize=9)
    for axes in row:
        axes.axis("off")
