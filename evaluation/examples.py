"""The pictures that the page to draw on offers for a click: one for each thing worth trying."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from evaluation.outlier_sets import letters
from evaluation.photo import photo
from serving.config import ROOT
from training.synthetic_outliers import LETTERS

FOLDER: Final = ROOT / "serving" / "page" / "examples"
SIDE: Final = 480  # pixels, as the page's sheet
PAPER, INK = 255, 17
PEN: Final = 18  # pixels
LETTER: Final = "R"
SEED: Final = 20261126

Grey = NDArray[np.uint8]


def examples() -> dict[str, bytes]:
    """File name -> the picture."""
    smoke = {digit: np.asarray(Image.open(ROOT / "handler" / "smoke" / f"{digit}.png")) for digit in (2, 4, 6, 8, 9)}
    letter = letters(np.random.default_rng(SEED))[sorted(LETTERS).index(LETTER)]
    return {
        "drawn.png": _png(_drawn()),
        "photographed.jpg": photo(smoke[4], np.random.default_rng(SEED)),
        "inverted.png": _png(_enlarged(smoke[8], SIDE)),
        "corner.png": _png(_on_paper(_enlarged(smoke[6], 110), left=355, top=350)),
        "two.png": _png(_on_paper(np.hstack([_enlarged(smoke[2], 200), _enlarged(smoke[9], 200)]), left=40, top=140)),
        "letter.png": _png(_on_paper(np.asarray(Image.fromarray(letter).resize((300, 300))), left=90, top=90)),
    }


def write_examples(folder: Path = FOLDER) -> Iterator[Path]:
    """Writes them and tells which."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in examples().items():
        (folder / name).write_bytes(picture)
        yield folder / name


def _drawn() -> Grey:
    """A 5 in two strokes."""
    image = Image.new("L", (SIDE, SIDE), PAPER)
    pen = ImageDraw.Draw(image)
    pen.line([(175, 95), (160, 235)], INK, PEN)
    pen.arc((120, 195, 345, 410), -140, 150, INK, PEN)
    pen.line([(168, 95), (350, 85)], INK, PEN)
    return np.asarray(image)


def _enlarged(grey: Grey, side: int) -> Grey:
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC))


def _on_paper(ink: Grey, left: int, top: int) -> Grey:
    """Light-on-dark ink, dark on a sheet."""
    sheet = np.full((SIDE, SIDE), PAPER, np.uint8)
    height, width = ink.shape
    sheet[top : top + height, left : left + width] = PAPER - ink * ((PAPER - INK) / 255)
    return sheet


def _png(grey: Grey) -> bytes:
    file = BytesIO()
    Image.fromarray(grey).save(file, "PNG", optimize=True)
    return file.getvalue()
