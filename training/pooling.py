"""A 5x5 convolution with MaxPool2d(2) behind it, differentiable, for training on a CPU.

The four values of a pooling window are four channels here: the 5x5 weights at the four places of a 6x6 kernel make a
convolution of stride 2 that gives all of them. So a window's maximum is the maximum of whole planes, long rows of
memory that are compared without a branch, where torch's own pooling branches on every value.
`python -m benchmarks.training_speed` measures what it gives.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor

KERNEL = 5  # pixels a side of the convolution
WIDE = KERNEL + 1  # pixels a side of what a window sees


def windows(x: Tensor, weight: Tensor) -> Tensor:
    """x [n,i,2h+4,2w+4], weight [o,i,5,5] -> conv2d(x, weight) by place in the window, [n,4,o,h,w].

    The places are top left, top right, bottom left, bottom right.
    """
    maps: Tensor = _of_grey(x, weight) if x.shape[1] == 1 else _Windows.apply(x, weight)  # type: ignore[no-untyped-call]
    return maps


def pool(maps: Tensor) -> Tensor:
    """Maps [n,4,o,h,w] -> each window's maximum [n,o,h,w]; of equal ones the first gets the gradient, as in torch."""
    pooled: Tensor = _Pool.apply(maps)  # type: ignore[no-untyped-call]
    return pooled


def to_the_first_maximum(gradient: Tensor, maps: Tensor, pooled: Tensor) -> Tensor:
    """The gradient [n,o,h,w] of `pool(maps)`, which is `pooled`, as that of maps [n,4,o,h,w]. All three are used up.

    The result takes the maps' place in memory, which the processor has at hand, where that of a new tensor is far.
    """
    for place in range(3):
        taken = maps[:, place].eq_(pooled).mul_(gradient)  # compared into 0 and 1 of floats: torch.where would branch
        gradient -= taken
    maps[:, 3] = gradient
    return maps


def _of_grey(grey: Tensor, weight: Tensor) -> Tensor:
    """`windows` of one channel: so few values a window that a product of matrices is faster than a convolution."""
    patches = grey[:, 0].unfold(1, WIDE, 2).unfold(2, WIDE, 2)  # [n,h,w,6,6]
    n, height, width = patches.shape[:3]
    columns = patches.permute(0, 3, 4, 1, 2).reshape(n, WIDE * WIDE, height * width)
    rows = _at_four_places(weight).reshape(-1, WIDE * WIDE)  # [4o,36]
    return torch.bmm(rows.expand(n, -1, -1), columns).view(n, 4, -1, height, width)


def _at_four_places(weight: Tensor) -> Tensor:
    """Weight [o,i,5,5] -> [4,o,i,6,6], zero around it."""
    return torch.stack([F.pad(weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)])


class _Windows(torch.autograd.Function):
    """Forward the convolution of stride 2, backward the plain one that it equals: there that is the faster one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        kernel = _at_four_places(weight).flatten(0, 1).contiguous()  # [4o,i,6,6]
        maps: Tensor = F.conv2d(x.contiguous(), kernel, stride=2).unflatten(1, (4, -1))
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        # The gradients of both x and weight are computed faster with channels last.
        x, weight = (saved.contiguous(memory_format=torch.channels_last) for saved in ctx.saved_tensors)
        gradient = _pixels(gradients[0])
        mask = [*ctx.needs_input_grad, False]  # x, weight, bias
        geometry = (
            [1, 1],
            [0, 0],
            [1, 1],
            False,
            [0, 0],
            1,
        )  # stride, padding, dilation, transposed, its padding, groups
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, mask)
        return None if of_x is None else of_x.contiguous(), of_weight


def _pixels(maps: Tensor) -> Tensor:
    """Maps [n,4,o,h,w] -> what the plain convolution gives, [n,o,2h,2w], channels last."""
    n, _, channels, height, width = maps.shape
    rows = maps.view(n, 2, 2, channels, height, width).permute(0, 4, 1, 5, 2, 3)  # [n,h,2,w,2,o]
    return rows.reshape(n, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        pooled = maps.amax(1)
        ctx.save_for_backward(maps, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return to_the_first_maximum(gradients[0].clone(), *ctx.saved_tensors)
