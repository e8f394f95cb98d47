"""The TorchServe handler, its preprocessing and its images for the smoke test: what an archive contains."""

from typing import Final

__version__: Final = "1.0.0"  # of the whole project
