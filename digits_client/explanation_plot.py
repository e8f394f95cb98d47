"""Plot an explanation: the image, its frame, and the pixels that are evidence for or against a digit."""

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from digits_client.types import Explanation

MAX_SIDE = 512  # pixels of the longer side
SMOOTHING = 1.5  # pixels; standard deviation: max pooling selects single pixels, but strokes are wider


def draw_explanation(image: bytes, explanation: Explanation) -> bytes:
    """Return image, frame and evidence side by side, as PNG."""
    attribution, frame = np.array(explanation.attribution), np.array(explanation.framed)
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    sent, framed, overlay = figure.subplots(1, 3)
    sent.set_facecolor("0.75")  # visible where the image is transparent
    sent.imshow(_load_for_display(image), cmap="gray")
    sent.set_title("image")
    framed.imshow(frame, cmap="gray", vmin=0, vmax=255)
    framed.set_title(f"as the model saw it: {explanation.digit}")
    overlay.imshow(frame, cmap="gray_r", vmin=0, vmax=765)
    smooth = gaussian_filter(attribution, SMOOTHING)
    strength = np.abs(smooth)
    full = max(float(strength.max()), 1e-9)
    colors = overlay.imshow(smooth, cmap="coolwarm", vmin=-full, vmax=full, alpha=strength / full)
    overlay.set_title(f"for a {explanation.target} (red), against it (blue)")
    figure.colorbar(colors, ax=overlay, label="nats per pixel", shrink=0.8)
    for axes in (sent, framed, overlay):
        axes.set_xticks([])
        axes.set_yticks([])
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _load_for_display(content: bytes) -> NDArray[Any]:
    """Return the image upright and reduced, in color if it has any."""
    with Image.open(BytesIO(content)) as image:
        image.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=None)  # the faster way does not support 16-bit gray
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return np.asarray(upright)  # shown by its own range
    return np.asarray(upright.getchannel("L") if upright.mode == "LAB" else upright.convert("RGBA"))
