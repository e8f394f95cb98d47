"""DigitCNN, the network of the contract: 20,180 parameters, and how a saved one is loaded back."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn

from common.errors import UserError
from handler.preprocessing import CHANNELS
from training.pooling import laid_out, pool, windows, windows_with_ink

CLASSES = 10
ARCHITECTURE = "Conv2d(3,10,5) MaxPool2d(2) ReLU Conv2d(10,10,5) Dropout2d MaxPool2d(2) ReLU flatten Linear(1690,10)"


class ModelError(UserError):
    """A model file that cannot be used; the message names it and says what was expected."""


class DigitCNN(nn.Module):
    """Pictures float32 [N,3,64,64] in 0..1 -> logits float32 [N,10]."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 10, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(10, 10, 5)
        self.dropout = nn.Dropout2d(dropout)
        self.pool2 = nn.MaxPool2d(2)
        self.linear = nn.Linear(1690, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.relu(self.pool1(self.conv1(pictures)))  # [N,10,30,30]
        x = F.relu(self.pool2(self.dropout(self.conv2(x))))  # [N,10,13,13]
        logits: Tensor = self.linear(x.flatten(1))
        return logits

    @torch.jit.unused
    def forward_grey(self, grey: Tensor) -> Tensor:
        """The same for grey [N,1,64,64], faster: three equal channels are one, convolved with the summed weights."""
        weight = self.conv1.weight.sum(1, keepdim=True)
        assert self.conv1.bias is not None
        assert self.conv2.bias is not None
        maps, seen = windows_with_ink(grey, weight)
        values = F.relu(pool(maps) + self.conv1.bias)  # added behind the pooling, where there are fewer values
        x = laid_out(values, seen, F.relu(self.conv1.bias), (len(grey), 30, 30))  # [N,40,15,15]
        x = pool(windows(x, self.conv2.weight)) + self.conv2.bias  # [N,13,13,10]
        x = F.relu(self.dropout(x.permute(0, 3, 1, 2)))  # [N,10,13,13]
        logits: Tensor = self.linear(x.flatten(1))
        return logits


# All that a whole model's pickle may name; anything else in it is refused before it runs.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    DigitCNN,
    nn.Conv2d,
    nn.MaxPool2d,
    nn.Dropout2d,
    nn.Linear,
]


def load_model(path: str | Path) -> nn.Module:
    """The saved model in evaluation mode: whole model, state dict or scripted. Runs no pickled code.

    Raises ModelError if the file is missing, is none of these or holds anything else.
    """
    try:
        return _load(Path(path)).eval()
    except ModelError:
        raise
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; `make train` writes the models") from error
    except Exception as error:  # torch reports a damaged or hostile file by whatever type its reader has
        reason = str(error).split("\n")[0]
        raise ModelError(f"{path}: not a whole model, state dict or scripted model of DigitCNN: {reason}") from error


def _load(path: Path) -> nn.Module:
    if _is_scripted(path):
        scripted: nn.Module = torch.jit.load(str(path), map_location="cpu")
        return scripted
    with torch.serialization.safe_globals(_ALLOWED):
        saved = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(saved, DigitCNN):
        return saved
    model = DigitCNN()
    model.load_state_dict(saved)
    return model


def _is_scripted(path: Path) -> bool:
    """Of torch's archives only a scripted model's holds a table of constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
