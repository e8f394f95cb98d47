"""The TorchServe handler, its preprocessing and its smoke images: what an archive contains."""

from typing import Final

__version__: Final = "1.0.0"  # of the whole project
