"""The two networks, DigitCNN with 20,180 parameters and LargeDigitCNN with 338,002, and the loading of saved models."""

import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from common.errors import UserError
from handler.preprocessing import CHANNELS

CLASSES = 10
LARGE_WIDTH = 24  # channels of LargeDigitCNN's first convolution
ARCHITECTURES: Final = {  # by the name of the model
    "default": "Conv2d(3,10,5) MaxPool2d(2) ReLU Conv2d(10,10,5) Dropout2d MaxPool2d(2) ReLU flatten Linear(1690,10)",
    "large": "AvgPool2d(2) Block(1,24) MaxPool2d(2) Block(24,48) Block(48,48) MaxPool2d(2) Block(48,96) Block(96,96) "
    "MaxPool2d(2) Block(96,96) Block(96,96) Dropout flatten Linear(1536,10); Block: Conv2d(3) BatchNorm2d ReLU",
}


class ModelError(UserError):
    """A model file that cannot be used; the message names it and what was expected."""


class DigitCNN(nn.Module):
    """Map images float32 [N,3,64,64] in 0..1 to logits float32 [N,10]."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 10, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(10, 10, 5)
        self.dropout = nn.Dropout2d(dropout)
        self.pool2 = nn.MaxPool2d(2)
        self.linear = nn.Linear(1690, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.pool1(self.conv1(images)))  # [N,10,30,30]
        x = F.relu(self.pool2(self.dropout(self.conv2(x))))  # [N,10,13,13]
        logits: Tensor = self.linear(x.flatten(1))
        return logits


class BatchNormDigitCNN(DigitCNN):
    """DigitCNN while training, with batch norms (Ioffe and Szegedy, ICML 2015); reads one of the three equal channels.

    The norms follow the poolings, where they cost a quarter; `fold_batch_norms` makes a DigitCNN with the same logits.
    """

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__(dropout)
        self.norm1, self.norm2 = nn.BatchNorm2d(10), nn.BatchNorm2d(10)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)  # a positive scale swaps places with max pooling; the next layer scales
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub; faster

    def forward(self, images: Tensor) -> Tensor:
        kernel = self.conv1.weight.sum(1, keepdim=True)
        x = F.relu(self.norm1(self.pool1(F.conv2d(images[:, :1], kernel, self.conv1.bias))))
        x = F.relu(self.norm2(self.pool2(self.dropout(self.conv2(x)))))
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode; of a BatchNormDigitCNN, a DigitCNN with the same logits."""
    trained = deepcopy(model).eval()
    if not isinstance(trained, BatchNormDigitCNN):
        return trained
    folded = DigitCNN(trained.dropout.p).to(trained.linear.weight.device).eval()
    folded.conv1.load_state_dict(fuse_conv_bn_eval(trained.conv1, trained.norm1).state_dict())
    folded.conv2.load_state_dict(fuse_conv_bn_eval(trained.conv2, trained.norm2).state_dict())
    folded.linear = trained.linear
    return folded


class LargeDigitCNN(nn.Module):
    """Map images float32 [N,3,64,64] in 0..1 to logits float32 [N,classes], at half the resolution."""

    def __init__(self, dropout: float = 0.3, width: int = LARGE_WIDTH, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_make_block(1, width),
            nn.MaxPool2d(2),
            *_make_block(width, 2 * width),
            *_make_block(2 * width, 2 * width),
            nn.MaxPool2d(2),
            *_make_block(2 * width, 4 * width),
            *_make_block(4 * width, 4 * width),
            nn.MaxPool2d(2),
            *_make_block(4 * width, 4 * width),
            *_make_block(4 * width, 4 * width),
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(4 * width * 4 * 4, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub; 25% faster

    def forward(self, images: Tensor) -> Tensor:
        gray = F.avg_pool2d(images[:, :1], 2)  # [N,1,32,32]; the channels are equal
        logits: Tensor = self.linear(self.dropout(self.features(gray).flatten(1)))
        return logits


def _make_block(channels: int, filters: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]


def make_network(name: str, dropout: float, batch_norm: bool) -> nn.Module:
    """Create the network of this model, with initial weights; the large one always has batch norms."""
    if name == "large":
        return LargeDigitCNN(dropout)
    return BatchNormDigitCNN(dropout) if batch_norm else DigitCNN(dropout)


# The only classes that a whole model's pickle may contain; torch.load rejects others before anything runs.
_ALLOWED: list[Any] = [
    *(DigitCNN, LargeDigitCNN, nn.Sequential, nn.Linear, nn.Conv2d),
    *(nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.ReLU),
]


def load_model(path: str | Path) -> nn.Module:
    """Load a whole, scripted or state-dict model for evaluation, without running pickled code; or raise ModelError."""
    try:
        return _load_file(Path(path)).eval()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file; `make train` writes the models") from error
    except Exception as error:  # torch raises many types for a damaged or malicious file
        reason = str(error).split("\n")[0]
        raise ModelError(f"{path}: not a whole model, state dict or scripted model of digits: {reason}") from error


def _load_file(path: Path) -> nn.Module:
    if _is_scripted(path):
        scripted: nn.Module = torch.jit.load(str(path), map_location="cpu")
        return scripted
    with torch.serialization.safe_globals(_ALLOWED):
        saved = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(saved, (DigitCNN, LargeDigitCNN)):
        return saved
    model = LargeDigitCNN() if "features.0.weight" in saved else DigitCNN()
    model.load_state_dict(saved)
    return model


def _is_scripted(path: Path) -> bool:
    """Return whether a file is a scripted model: only those of torch's archives have constants.pkl."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
