"""What travels in the archive: the preprocessing, the TorchServe handler and the smoke pictures."""

from typing import Final

__version__: Final = "0.1.0"  # of the whole project
