"""An explanation as a picture: what was sent, what the model saw of it, and what of that spoke for the digit."""

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from serving.results import Explanation

SHOWN = 512  # pixels of the longer side
SMOOTH = 1.5  # pixels, of a Gaussian over the attribution: max pooling picks single pixels, strokes are wider


def drawn(picture: bytes, explanation: Explanation) -> bytes:
    """The three side by side, as PNG."""
    figure = Figure(figsize=(10.5, 3.6), layout="constrained")
    sent, framed, overlay = figure.subplots(1, 3)
    sent.set_facecolor("0.75")  # seen where the picture is transparent
    sent.imshow(_shown(picture), cmap="gray")
    sent.set_title("picture")
    framed.imshow(explanation.framed, cmap="gray", vmin=0, vmax=255)
    framed.set_title(f"as the model saw it: {explanation.digit}")
    overlay.imshow(explanation.framed, cmap="gray_r", vmin=0, vmax=765)
    smooth = gaussian_filter(explanation.attribution, SMOOTH)
    strength = np.abs(smooth)
    full = max(float(strength.max()), 1e-9)
    colours = overlay.imshow(smooth, cmap="coolwarm", vmin=-full, vmax=full, alpha=strength / full)
    overlay.set_title(f"for a {explanation.target} (red), against it (blue)")
    figure.colorbar(colours, ax=overlay, label="nats a pixel", shrink=0.8)
    for axes in (sent, framed, overlay):
        axes.set_xticks([])
        axes.set_yticks([])
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _shown(picture: bytes) -> NDArray[Any]:
    """Upright, small, in colours where Pillow knows them; for display alone."""
    with Image.open(BytesIO(picture)) as image:
        image.thumbnail((SHOWN, SHOWN), reducing_gap=None)  # the quicker way knows no 16-bit grey
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return np.asarray(upright)  # drawn by its own range
    return np.asarray(upright.getchannel("L") if upright.mode == "LAB" else upright.convert("RGBA"))
