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
    maps: Tensor = _Windows.apply(x, weight)  # type: ignore[no-untyped-call]
    return maps


def windows_with_ink(grey: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same of grey [n,1,2h+4,2w+4] in 0..1, for the m windows that see more than zeros alone: maps [1,4,o,1,m].

    With them which they are, [m] in 0..nhw; all other windows' values are 0. Half of a frame is blank.
    """
    width = grey.shape[3]
    ink = _any_ink(grey[:, 0])  # [n,h,w]
    seen = ink.flatten().nonzero().flatten()
    corners = _corners(ink.shape, width, grey.device).index_select(0, seen)  # [m]
    lines = corners[:, None] + torch.arange(0, WIDE * width, width, device=grey.device)  # [m,6]: where each starts
    patches = grey.flatten().unfold(0, WIDE, 1).index_select(0, lines.flatten())  # [6m,6]
    weights = _at_four_places(weight).reshape(-1, WIDE * WIDE)  # [4o,36]
    maps = weights @ patches.view(-1, WIDE * WIDE).T
    return maps.view(1, 4, len(weight), 1, -1), seen


def laid_out(values: Tensor, seen: Tensor, blank: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Values [1,o,1,m] of the windows `seen` [m], and `blank` [o] for all others, as [n,o,h,w] of the shape (n,h,w)."""
    n, height, width = shape
    rows: Tensor = _LaidOut.apply(values.view(len(blank), -1), seen, blank, n * height, width)  # type: ignore[no-untyped-call]
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


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


def _any_ink(grey: Tensor) -> Tensor:
    """Which windows of grey [n,2h+4,2w+4] see more than zeros, bool [n,h,w]."""
    for dim in (1, 2):
        first, second = grey.unfold(dim, 2, 2).unbind(-1)
        pairs = torch.maximum(first, second)
        first, second, third = pairs.unfold(dim, WIDE // 2, 1).unbind(-1)
        grey = torch.maximum(torch.maximum(first, second), third)
    return grey > 0


def _corners(shape: torch.Size, width: int, device: torch.device) -> Tensor:
    """Numbers [nhw] of the pixels at the windows' top left, for windows [n,h,w] on grey [n,2h+4,width]."""
    n, high, wide = (torch.arange(side, device=device) for side in shape)
    per_picture = (2 * shape[1] + KERNEL - 1) * width
    return (n[:, None, None] * per_picture + high[:, None] * 2 * width + wide * 2).flatten()


class _LaidOut(torch.autograd.Function):
    """Values [o,m] as rows `seen` of [lines*width,o], `blank` [o] as the others."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, seen: Tensor, blank: Tensor, lines: int, width: int) -> Tensor:
        ctx.save_for_backward(seen)
        ctx.width = width
        rows = blank.repeat(lines, width).view(-1, len(blank))
        return rows.index_copy_(0, seen, _transposed(values))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows = gradients[0].contiguous()  # [lines*width,o]
        channels = rows.shape[1]
        of_values = rows.index_select(0, *ctx.saved_tensors)
        # Summed by lines, since short rows are slow to sum.
        of_all = rows.view(-1, ctx.width * channels).sum(0).view(-1, channels).sum(0)
        return _transposed(of_values), None, of_all - of_values.sum(0), None, None


def _transposed(x: Tensor) -> Tensor:
    """x [a,b] as [b,a] in memory, a or b being small: a product with 1, which is four times as fast as copying."""
    a, b = x.shape
    if a < b:
        return x.T @ torch.eye(a, dtype=x.dtype, device=x.device)
    return torch.eye(b, dtype=x.dtype, device=x.device) @ x.T


def _at_four_places(weight: Tensor) -> Tensor:
    """Weight [o,i,5,5] -> [4,o,i,6,6], zero around it."""
    return torch.stack([F.pad(weight, (x, 1 - x, y, 1 - y)) for y in (0, 1) for x in (0, 1)])


class _Windows(torch.autograd.Function):
    """Forward the convolution of stride 2, backward the plain one that it equals: there that is the faster one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        kernel = _at_four_places(weight).flatten(0, 1)  # [4o,i,6,6]
        maps: Tensor = F.conv2d(_channels_last(x), _channels_last(kernel), stride=2).contiguous().unflatten(1, (4, -1))
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = (_channels_last(saved) for saved in ctx.saved_tensors)
        mask = [*ctx.needs_input_grad, False]  # x, weight, bias
        geometry = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, then what is not used
        gradient = _pixels(gradients[0])
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, mask)
        return of_x, of_weight


def _channels_last(x: Tensor) -> Tensor:
    """As oneDNN is fastest at."""
    return x.contiguous(memory_format=torch.channels_last)


def _pixels(maps: Tensor) -> Tensor:
    """Maps [n,4,o,h,w] -> what the plain convolution gives, [n,o,2h,2w], channels last."""
    n, _, channels, height, width = maps.shape
    rows = maps.reshape(n, 2, 2, channels, height, width).permute(0, 4, 1, 5, 2, 3)  # [n,h,2,w,2,o]
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
