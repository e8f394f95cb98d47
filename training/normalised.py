"""DigitCNN as it is trained: batch normalisation after each convolution, folded into the convolutions at the end.

Ioffe and Szegedy (ICML 2015). It lets the optimiser take larger steps; what is exported has none of it, since a
normalisation with fixed statistics is one more factor and shift of a convolution's own.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.model import DigitCNN
from training.pooling import laid_out, maximum, to_the_first_maximum, windows, windows_with_ink

MOMENTUM = 0.01  # share of a batch's statistics in the running ones
EPSILON = 1e-5
PLACES = 1  # of the four in a pooling window that statistics are taken from, which is plenty and a quarter of the work


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
        shape = len(grey), 30, 30  # of the pooled first maps
        maps, seen = windows_with_ink(grey, net.conv1.weight.sum(1, keepdim=True))
        values, blank = first(maps, net.conv1.bias, math.prod(shape) - len(seen))
        x = laid_out(values, seen, blank, shape)  # [n,40,15,15]
        of_second = windows(x, net.conv2.weight)  # [n,13,13,4,10]
        x, _ = second(of_second.flatten(0, 2), net.conv2.bias)
        x = net.dropout(x.view(*of_second.shape[:3], -1).permute(0, 3, 1, 2))  # [n,10,13,13]
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
    """Normalises the windows' maps [m,4,c] over batch and pixels, pools them and cuts off what is negative.

    The shift is the convolution's bias. `blank` windows more are 0 and not among the maps; what becomes of one, [c], is
    given as well.
    """

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

    def forward(self, maps: Tensor, bias: Tensor, blank: int = 0) -> tuple[Tensor, Tensor]:
        result: Tensor
        of_blank: Tensor
        result, of_blank, mean, variance = _NormalisedPool.apply(maps, self.scale, bias, blank)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.mean.lerp_(mean, MOMENTUM)
            self.variance.lerp_(variance, MOMENTUM)
        return result, of_blank


class _NormalisedPool(torch.autograd.Function):
    """ReLU of each window's normalised maximum [m,c], that of a blank window [c], batch's mean and variance [c].

    `blank` is how many windows are 0 and not among the maps [m,4,c]. One function, since step by step torch would
    fill a gradient of all maps for each of the steps; the statistics are for the running ones alone.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, scale: Tensor, bias: Tensor, blank: int) -> tuple[Tensor, ...]:
        pooled = maximum(maps)
        ctx.count = (len(maps) + blank) * PLACES
        mean, variance = _statistics(maps[:, :PLACES], ctx.count)
        precision = torch.rsqrt(variance + EPSILON)
        factor = scale.abs() * precision
        shift = bias - mean * factor
        result = torch.addcmul(shift, pooled, factor).relu_()
        of_blank = shift.relu()
        ctx.save_for_backward(maps, pooled, result, of_blank, scale, mean, precision)
        ctx.mark_non_differentiable(mean, variance)
        return result, of_blank, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, pooled, result, of_blank, scale, mean, precision = ctx.saved_tensors
        gradient = _behind_relu(gradients[0].contiguous(), result)
        of_bias = gradient.sum(0) + _behind_relu(gradients[1], of_blank)
        of_factor = torch.linalg.vecdot(gradient, pooled, dim=0) - mean * of_bias
        factor = scale.abs() * precision
        of_variance = -0.5 * precision * precision * factor * of_factor
        of_mean = -factor * of_bias - 2 * mean * of_variance  # variance is the mean square less the squared mean
        of_statistics = torch.addcmul(of_mean / ctx.count, maps[:, :PLACES], 2 * of_variance / ctx.count)
        of_maps = to_the_first_maximum(gradient.mul_(factor), maps, pooled)
        of_maps[:, :PLACES] += of_statistics
        return of_maps, scale.sign() * precision * of_factor, of_bias, None


def _statistics(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [c] of maps [m,places,c] and zeros, together `count` a channel."""
    mean = maps.sum((0, 1)) / count
    return mean, torch.linalg.vecdot(maps, maps, dim=0).sum(0) / count - mean * mean


def _behind_relu(gradient: Tensor, result: Tensor) -> Tensor:
    passed: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0)
    return passed
