"""training/pooling.py against torch's own convolution and pooling."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor

from training.pooling import MULTIPLE, laid_out, pool, windows, windows_with_ink

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def by_place(x: Tensor) -> Tensor:
    """Values [n,o,2h,2w] by place in the pooling window, [n,4o,h,w]."""
    return torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)


def as_maps(x: Tensor) -> Tensor:
    """The same as [n,h,w,4,o]."""
    maps = by_place(x).permute(0, 2, 3, 1)
    return maps.view(*maps.shape[:3], 4, -1)


@pytest.mark.parametrize("shape", [(4, 10, 60, 60), (3, 10, 26, 26), (1, 1, 2, 2)])
def test_pooling_and_its_gradient_are_torchs_to_the_bit_also_among_equal_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).round(decimals=1)  # rounded: many windows hold equal values
    weights = torch.rand(shape[0], shape[1], shape[2] // 2, shape[3] // 2)
    results = []
    for ours in (False, True):
        given = x.clone().requires_grad_()
        pooled = pool(as_maps(given).contiguous()).permute(0, 3, 1, 2) if ours else F.max_pool2d(given, 2)
        (pooled * weights).sum().backward()
        results.append((pooled, given.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] is not None
    assert results[1][1] is not None
    assert torch.equal(results[0][1], results[1][1])


def test_a_second_gradient_of_what_is_used_up_is_refused() -> None:
    maps = torch.rand(3, 4, 2, requires_grad=True)
    pooled = pool(maps * 1).sum()
    pooled.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        pooled.backward()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 10])
@pytest.mark.parametrize("of_x", [True, False])
def test_windows_and_their_gradients_are_those_of_torchs_convolution(
    channels: int, of_x: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x, weight = torch.rand(3, channels, 30, 26).double(), torch.randn(10, channels, 5, 5).double()
    shares = torch.rand(3, 13, 11, 4, 10).double()
    results = []
    for ours in (False, True):
        given, weights = (part.clone(memory_format=layout) for part in (x, weight))
        given.requires_grad_(of_x)
        weights.requires_grad_()
        maps = windows(by_place(given), weights) if ours else as_maps(F.conv2d(given, weights))
        (maps * shares).sum().backward()
        results.append((maps, weights.grad, given.grad))
    assert (results[0][2] is not None) == of_x
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("inked", [0.0, 0.02, 1.0])
def test_windows_with_ink_laid_out_are_all_windows(inked: float) -> None:
    torch.manual_seed(0)
    grey = torch.rand(5, 1, 64, 64) * (torch.rand(5, 1, 8, 8) < inked).float().repeat(1, 1, 8, 8)
    grey[:, :, 0, 63] = 0.5 * (inked > 0)  # a corner that one window sees
    results = []
    for sparse in (False, True):
        weight, bias = (
            torch.linspace(-1, 1, 250).view(10, 1, 5, 5).requires_grad_(),
            torch.linspace(-1, 1, 10).requires_grad_(),
        )
        if sparse:
            maps, seen = windows_with_ink(grey, weight)
            assert inked == 1 or len(seen) % MULTIPLE == 0
            pooled = laid_out(pool(maps) + bias, seen, bias, (5, 30, 30))
        else:
            pooled = by_place(F.max_pool2d(F.conv2d(grey, weight, bias), 2))
        (pooled * torch.linspace(-1, 2, pooled.numel()).view(5, 40, 15, 15)).sum().backward()
        results.append((pooled, weight.grad, bias.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-3)
