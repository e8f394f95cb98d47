"""training/normalised.py against torch's own batch normalisation."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as all of torch writes it
from torch import Tensor, nn

from handler.preprocessing import to_input
from training import normalised
from training.data import load_data
from training.normalised import NormalisedDigitCNN
from training.pooling import windows


def with_torchs_own(model: NormalisedDigitCNN, grey: Tensor) -> tuple[Tensor, list[nn.BatchNorm2d]]:
    """The same network's logits, put together from torch's layers."""
    net, x, norms = model.network, grey.expand(-1, 3, -1, -1), []
    for conv in (net.conv1, net.conv2):
        norm = nn.BatchNorm2d(10, momentum=normalised.MOMENTUM, dtype=grey.dtype)
        assert isinstance(conv.bias, nn.Parameter)
        norm.bias = conv.bias
        x = F.relu(F.max_pool2d(norm(F.conv2d(x, conv.weight)), 2))
        norms.append(norm)
    logits: Tensor = net.linear(x.flatten(1))
    return logits, norms


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_logits_and_gradients_are_those_of_torchs_batch_normalisation(
    layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalised, "PLACES", 4)
    torch.manual_seed(0)
    model = NormalisedDigitCNN().double().to(memory_format=layout)  # type: ignore[call-overload]
    grey, labels = torch.rand(6, 1, 64, 64).double(), torch.arange(6)
    grey *= (torch.rand(6, 1, 8, 8) < 0.1).float().repeat(1, 1, 8, 8)  # half of the windows see no ink
    logits, norms = with_torchs_own(model, grey)
    torch.testing.assert_close(model.forward_grey(grey), logits)
    F.cross_entropy(logits, labels).backward()
    expected = [parameter.grad for parameter in model.network.parameters()]
    scales = [norm.weight.grad for norm in norms]
    model.zero_grad()
    F.cross_entropy(model.forward_grey(grey), labels).backward()
    for parameter, gradient in zip(model.network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    for norm, scale in zip(model.norms, scales, strict=True):
        torch.testing.assert_close(norm.scale.grad, scale)


def test_statistics_of_one_place_in_a_window_are_near_those_of_all() -> None:
    pictures = load_data("mnist5k").train.frames[::90]  # about a batch
    grey = to_input(torch.from_numpy(pictures))[:, :1]
    torch.manual_seed(0)
    by_place = torch.cat([grey[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], 1)
    maps = windows(by_place, torch.randn(10, 1, 5, 5)).flatten(0, 2)
    (mean, variance), (all_mean, all_variance) = (
        normalised._statistics(part, part[..., 0].numel()) for part in (maps[:, :1], maps)
    )
    deviation = all_variance.sqrt()
    assert ((mean - all_mean).abs() / deviation).max() < 0.01
    assert (variance / all_variance - 1).abs().max() < 0.02


def test_folded_network_is_the_plain_architecture_with_the_running_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalised, "MOMENTUM", 1.0)
    torch.manual_seed(0)
    model = NormalisedDigitCNN()
    grey = torch.rand(50, 1, 64, 64) ** 3
    with torch.no_grad():
        logits = model.forward_grey(grey)
    folded = model.folded()
    assert sum(parameter.numel() for parameter in folded.parameters()) == 20_180
    assert not folded.training
    with torch.inference_mode():
        torch.testing.assert_close(folded(grey.expand(-1, 3, -1, -1)), logits, atol=1e-4, rtol=1e-4)
