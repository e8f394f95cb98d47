"""The models of this project and the folders, relative to the checkout, of their files."""

from pathlib import Path
from typing import Final

MODEL_FOLDERS: Final = {"default": Path(), "large": Path("large")}  # folder of scripted_model.pt and model/
RECORD: Final = Path("model/model.json")
ONNX: Final = Path("model/model.onnx")
