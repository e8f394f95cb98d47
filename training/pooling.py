"""MaxPool2d(2), differentiable, for training on a CPU.

torch's own pooling branches on every value, which takes a third of a training step; here whole slices are compared,
without a branch. `python -m benchmarks.training_speed` measures what it gives.
"""

from typing import Any

import torch
from torch import Tensor


def pool(x: Tensor) -> Tensor:
    """x [n,c,2h,2w] -> max_pool2d(x, 2) [n,c,h,w]; of equal maxima the first gets the gradient, as in torch."""
    pooled: Tensor = _Pool.apply(x)  # type: ignore[no-untyped-call]
    return pooled


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # The four values of every window, each a view [n,c,h,w], in the order in which torch compares them.
        top_left, top_right, bottom_left, bottom_right = (
            x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)
        )
        top, bottom = torch.maximum(top_left, top_right), torch.maximum(bottom_left, bottom_right)
        down = bottom > top
        right = top_right > top_left
        right ^= down & (right ^ (bottom_right > bottom_left))  # where(down, bottom's, top's), without a branch
        ctx.save_for_backward(x, _indices(x, down, right))
        return torch.maximum(top, bottom)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, indices = ctx.saved_tensors
        window = ([2, 2], [2, 2], [0, 0], [1, 1], False)  # kernel, stride, padding, dilation, ceil_mode
        result: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(gradients[0], x, *window, indices)
        return result


def _indices(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Where in its plane [2h,2w] each window's maximum is, int64 [n,c,h,w], as max_pool2d returns it."""
    height, width = x.shape[-2:]
    rows = torch.arange(0, height * width, 2 * width, dtype=torch.int32, device=x.device)
    columns = torch.arange(0, width, 2, dtype=torch.int32, device=x.device)
    return (rows[:, None] + columns + right.int()).add_(down.int(), alpha=width).long()
