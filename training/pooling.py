"""A 5x5 convolution with MaxPool2d(2) behind it, differentiable, for training on a CPU.

The four values of a pooling window are four channels here: the 5x5 weights at the four places of a 6x6 kernel make a
convolution of stride 2 that gives all of them. Of squares of four pixels, each with four times the channels, the same
is one of stride 1 and 3x3, which leaves less of a processor's vectors unused than 10 channels do. Such maps are then
compared as a whole, without a branch, where torch's own pooling branches on every value. A window's channels lie
together in memory, as oneDNN is fastest at. `python -m benchmarks.training_speed` measures what it gives.

By place [n,4c,h,w] is [n,c,2h,2w] by squares: first the channels of all top left pixels, then bottom left, top right
and bottom right ones. Both sides of what is laid out so are even.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor

KERNEL = 5  # pixels a side of the convolution
WIDE = KERNEL + 1  # pixels a side of what a window sees
MULTIPLE = 1024  # of windows


def windows(x: Tensor, weight: Tensor) -> Tensor:
    """x [n,4i,h+2,w+2] by place, weight [o,i,5,5] -> conv2d of what x stands for, [n,i,2h+4,2w+4], as [n,h,w,4,o]."""
    outputs, inputs = weight.shape[:2]
    kernel = _at_four_places(weight).view(outputs, inputs, 4, 3, 2, 3, 2)
    kernel = kernel.permute(2, 0, 3, 5, 6, 4, 1).reshape(4 * outputs, 3, 3, 4 * inputs).permute(0, 3, 1, 2)
    maps: Tensor = F.conv2d(x.contiguous(memory_format=torch.channels_last), kernel).permute(0, 2, 3, 1)
    return maps.reshape(*maps.shape[:3], 4, outputs)


def windows_with_ink(grey: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same of plain grey [n,1,2h+4,2w+4] in 0..1, for windows that see more than zeros and a few others: [m,4,o].

    With them which they are, [m] in 0..nhw, counted by square of four, then by place in it; all other windows' values
    are 0. Half of a frame is blank.
    """
    width = grey.shape[3]
    ink = _any_ink(grey[:, 0])  # [n,h,w]
    seen = _rounded_up(_by_place(ink).flatten())
    corners = _corners(ink.shape, width, grey.device).index_select(0, seen)  # [m]
    lines = corners[:, None] + torch.arange(0, WIDE * width, width, device=grey.device)  # [m,6]: where each starts
    patches = grey.flatten().unfold(0, WIDE, 1).index_select(0, lines.flatten())  # [6m,6]
    weights = _at_four_places(weight).permute(2, 0, 1, 3, 4).reshape(-1, WIDE * WIDE, 1, 1)  # [4o,36,1,1]
    picture = patches.view(1, 1, -1, WIDE * WIDE).permute(0, 3, 1, 2)  # [1,36,1,m]: oneDNN outruns a product by this
    maps: Tensor = F.conv2d(picture, weights).permute(0, 2, 3, 1)  # [1,1,m,4o]
    return maps.reshape(-1, 4, len(weight)), seen


def laid_out(values: Tensor, seen: Tensor, blank: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Values [m,o] of the windows `seen` [m] of (n,h,w), `blank` [o] for all others: [n,4o,h/2,w/2] by place."""
    n, high, wide = shape[0], shape[1] // 2, shape[2] // 2
    rows: Tensor = _LaidOut.apply(values, seen, blank, n * high, wide * 4)  # type: ignore[no-untyped-call]
    return rows.view(n, high, wide, -1).permute(0, 3, 1, 2)


def pool(maps: Tensor) -> Tensor:
    """Maps [...,4,o] -> each window's maximum [...,o]; of equal ones the first gets the gradient, as in torch.

    The way back uses the maps up.
    """
    pooled: Tensor = _Pool.apply(maps)  # type: ignore[no-untyped-call]
    return pooled


def maximum(maps: Tensor) -> Tensor:
    """Maps [...,4,o] -> [...,o]; torch's own reduction of such short rows takes four times as long."""
    top, bottom = _row_maxima(maps).unbind(-2)
    return torch.maximum(top, bottom)


def to_the_first_maximum(gradient: Tensor, maps: Tensor, pooled: Tensor) -> Tensor:
    """The gradient [...,o] of `pool(maps)`, which is `pooled`, as that of maps [...,4,o], which are used up.

    The result takes the maps' place in memory, which the processor has at hand, where that of a new tensor is far.
    """
    of_rows = torch.empty_like(maps[..., 2:, :], memory_format=torch.contiguous_format)
    top, bottom = of_rows.unbind(-2)
    rows = _row_maxima(maps)
    torch.eq(rows[..., 0, :], pooled, out=top).mul_(gradient)  # compared into 0 and 1: torch.where would branch
    torch.sub(gradient, top, out=bottom)
    of_left = maps[..., :2, :].eq_(rows).mul_(of_rows)
    torch.sub(of_rows, of_left, out=maps[..., 2:, :])
    return maps


def _row_maxima(maps: Tensor) -> Tensor:
    """Maps [...,4,o] -> the greater of left and right, at the top and at the bottom, [...,2,o]."""
    return torch.maximum(maps[..., :2, :], maps[..., 2:, :])


def _any_ink(grey: Tensor) -> Tensor:
    """Which windows of grey [n,2h+4,2w+4] see more than zeros, bool [n,h,w]."""
    for dim in (1, 2):
        first, second = grey.unfold(dim, 2, 2).unbind(-1)
        pairs = torch.maximum(first, second)
        first, second, third = pairs.unfold(dim, WIDE // 2, 1).unbind(-1)
        grey = torch.maximum(torch.maximum(first, second), third)
    return grey > 0


def _rounded_up(ink: Tensor) -> Tensor:
    """Numbers of all that is true in ink bool [k] and of 1 to MULTIPLE others: a multiple of it together, or k.

    oneDNN takes longer to make itself ready for a number of windows that it has not met yet than to convolve them.
    """
    seen = ink.nonzero().flatten()
    return torch.cat((seen, (~ink).nonzero().flatten()[: MULTIPLE - len(seen) % MULTIPLE]))


def _corners(shape: torch.Size, width: int, device: torch.device) -> Tensor:
    """Numbers [nhw] of the pixels at the windows' top left, for windows [n,h,w] on grey [n,2h+4,width]."""
    n, high, wide = (torch.arange(side, device=device) for side in shape)
    per_picture = (2 * shape[1] + KERNEL - 1) * width
    in_picture = _by_place((high[:, None] * 2 * width + wide * 2)[None])
    return (n[:, None] * per_picture + in_picture.flatten()).flatten()


def _by_place(x: Tensor) -> Tensor:
    """x [n,h,w] as [n,h/2,w/2,4], the four of a square together: the order in which the next convolution reads them."""
    n, high, wide = x.shape
    return x.view(n, high // 2, 2, wide // 2, 2).permute(0, 1, 3, 4, 2).reshape(n, high // 2, wide // 2, 4)


def _at_four_places(weight: Tensor) -> Tensor:
    """Weight [o,i,5,5] -> [o,i,4,6,6], zero around it."""
    placed = weight.flatten(2) @ _placing(weight.dtype, weight.device)
    return placed.view(*weight.shape[:2], 4, WIDE, WIDE)


@cache
def _placing(dtype: torch.dtype, device: torch.device) -> Tensor:
    """[25,144] of 0 and 1 that puts a kernel [5,5] at four places of [6,6]: one product, and one for its gradient."""
    with torch.inference_mode(False):  # it is kept for training, whoever asks first
        kernels = torch.eye(KERNEL**2, dtype=dtype, device=device).unflatten(1, (KERNEL, KERNEL))
        return torch.stack([F.pad(kernels, (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)], 1).flatten(1)


class _LaidOut(torch.autograd.Function):
    """Values [m,o] as rows `seen` of [lines*width,o], `blank` [o] as the others."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, seen: Tensor, blank: Tensor, lines: int, width: int) -> Tensor:
        ctx.save_for_backward(seen)
        ctx.width = width
        rows = blank.repeat(width).expand(lines, -1).contiguous().view(-1, len(blank))
        return rows.index_copy_(0, seen, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows = gradients[0].contiguous()  # [lines*width,o]
        channels = rows.shape[1]
        of_values = rows.index_select(0, *ctx.saved_tensors)
        # Summed by lines, since short rows are slow to sum.
        of_all = rows.view(-1, ctx.width * channels).sum(0).view(-1, channels).sum(0)
        return of_values, None, of_all - of_values.sum(0), None, None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        pooled = maximum(maps)
        ctx.save_for_backward(maps, pooled)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return to_the_first_maximum(gradients[0], *ctx.saved_tensors)
