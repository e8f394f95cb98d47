"""DigitCNN as it is trained: batch normalisation after each convolution, folded into the convolutions at the end.

Ioffe and Szegedy (ICML 2015). It lets the optimiser take larger steps; what is exported has none of it, since a
normalisation with fixed statistics is one more factor and shift of a convolution's own.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn

from training.model import DigitCNN
from training.pooling import pool

MOMENTUM = 0.01  # share of a batch's statistics in the running ones
EPSILON = 1e-5
LINES = 4  # statistics are taken from every fourth line of a map, which is plenty and a quarter of the work


class NormalisedDigitCNN(nn.Module):
    """A DigitCNN whose convolutions' outputs are normalised in training; `folded()` is the plain network."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = DigitCNN(dropout)
        self.norms = nn.ModuleList(_Normalisation(conv) for conv in (self.network.conv1, self.network.conv2))

    def forward_grey(self, grey: Tensor) -> Tensor:
        """Grey pictures [n,1,64,64] -> logits [n,10], normalised over the batch."""
        net = self.network
        first, second = self.norms
        x = F.conv2d(grey, net.conv1.weight.sum(1, keepdim=True))
        x = F.relu(first(x, net.conv1.bias))  # [n,10,30,30]
        x = F.conv2d(x, net.conv2.weight)
        x = F.relu(net.dropout(second(x, net.conv2.bias)))  # [n,10,13,13]
        logits: Tensor = net.linear(x.flatten(1))
        return logits

    def folded(self) -> DigitCNN:
        """The network with the running statistics in its weights, in evaluation mode, on the CPU."""
        plain = DigitCNN(self.network.dropout.p)
        plain.load_state_dict(self.network.state_dict())
        with torch.no_grad():
            for norm, conv in zip(self._normalisations(), (plain.conv1, plain.conv2), strict=True):
                assert conv.bias is not None
                factor = norm.factor(norm.variance).cpu()
                conv.weight *= factor[:, None, None, None]
                conv.bias -= norm.mean.cpu() * factor
        return plain.eval()

    def _normalisations(self) -> "Iterable[_Normalisation]":
        return (norm for norm in self.norms if isinstance(norm, _Normalisation))


class _Normalisation(nn.Module):
    """Normalises maps [n,c,h,w] over batch and pixels and pools them; the shift is the convolution's bias."""

    mean: Tensor
    variance: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(conv.out_channels))
        self.register_buffer("mean", torch.zeros(conv.out_channels))
        self.register_buffer("variance", torch.ones(conv.out_channels))

    def factor(self, variance: Tensor) -> Tensor:
        """What each channel is multiplied by; never negative, so that pooling may come first."""
        return self.scale.abs() / torch.sqrt(variance + EPSILON)

    def forward(self, maps: Tensor, bias: Tensor) -> Tensor:
        n, channels, height, width = maps.shape
        # A line's pixels lie side by side in memory with all their channels: long rows are fast to sum.
        lines = maps.permute(0, 2, 3, 1).reshape(n * height, width * channels)[::LINES]
        mean, square = (line.mean(0).view(width, channels).mean(0) for line in (lines, lines * lines))
        variance = square - mean * mean
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.variance.lerp_(variance, MOMENTUM)
        factor = self.factor(variance)
        return pool(maps) * factor[:, None, None] + (bias - mean * factor)[:, None, None]
