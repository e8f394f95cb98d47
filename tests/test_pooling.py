"""training/pooling.py against torch's own pooling."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it

from training.pooling import pool


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 10, 60, 60), (3, 10, 26, 26), (1, 1, 2, 2)])
def test_value_and_gradient_are_torchs_to_the_bit_also_among_equal_values(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape).round(decimals=1).contiguous(memory_format=layout)  # rounded: many windows hold equal values
    weights = torch.rand(shape[0], shape[1], shape[2] // 2, shape[3] // 2)
    results = []
    for way in (lambda x: F.max_pool2d(x, 2), pool):
        given = x.clone().requires_grad_()
        pooled = way(given)
        (pooled * weights).sum().backward()
        results.append((pooled, given.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] is not None
    assert results[1][1] is not None
    assert torch.equal(results[0][1], results[1][1])
