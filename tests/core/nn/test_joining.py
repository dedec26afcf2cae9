"""Joining nodes in training: PyTorch's own numbers, with gradients that come as whole tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.nn import network as network_module
from napari_unetpp.core.nn.joining import join, upsample
from napari_unetpp.core.nn.network import NestedUNet

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
SPACES = [(6, 4), (2, 6, 4)]


def values(channels: int, space: tuple[int, ...], *, last: bool, seed: int = 0) -> Tensor:
    made = torch.randn(
        2, channels, *space, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    made = made.contiguous(memory_format=FORMATS[made.ndim]) if last else made
    return made.requires_grad_()


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "contiguous"])
@pytest.mark.parametrize("space", SPACES, ids=["2d", "3d"])
def test_a_join_is_a_concatenation_with_the_same_gradients(
    space: tuple[int, ...], last: bool
) -> None:
    found = []
    for way in (join, lambda parts: torch.cat(parts, dim=1)):
        parts = [values(c, space, last=last, seed=c) for c in (3, 1, 4)]
        joined = way(parts)
        pull = values(8, space, last=last, seed=9).detach()
        found.append([joined.detach(), *torch.autograd.grad(joined, parts, pull)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert found[0][0].std() > 0


def test_gradients_of_a_join_are_whole_tensors_not_slices() -> None:
    parts = [values(c, (6, 4), last=True) for c in (3, 5)]
    joined = join(parts)
    for piece in torch.autograd.grad(joined.square().sum(), parts):
        assert piece.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("space", SPACES, ids=["2d", "3d"])
def test_up_sampling_is_the_transposed_convolution(space: tuple[int, ...]) -> None:
    kind = nn.ConvTranspose2d if len(space) == 2 else nn.ConvTranspose3d
    torch.manual_seed(0)
    up = kind(5, 3, kernel_size=2, stride=2).double()
    found = []
    ways: list[Callable[[nn.Module, Tensor], Tensor]] = [upsample, lambda module, x: module(x)]
    for way in ways:
        x = values(5, space, last=True)
        y = way(up, x)
        pull = values(3, tuple(2 * n for n in space), last=True, seed=9).detach()
        found.append([y.detach(), *torch.autograd.grad(y, [x, up.weight, up.bias], pull)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    last = FORMATS[len(space) + 2]
    assert found[0][0].is_contiguous(memory_format=last)  # else the next operation lays it out anew


def test_without_gradients_the_modules_own_operation_runs() -> None:
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(5, 3, kernel_size=2, stride=2)
    ran: list[str] = []
    up.register_forward_hook(lambda *_: ran.append("up"))
    x = torch.randn(1, 5, 4, 4).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert torch.equal(upsample(up, x), up(x))
    assert ran == ["up", "up"]


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_network_learns_the_same_from_either_layout(
    ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every weight's gradient, against PyTorch's own operations on contiguous tensors."""
    config = NetworkConfig(ndim=ndim, filters=(4, 6, 8), norm="batch", out_channels=2)
    torch.manual_seed(0)
    network = NestedUNet(config).double()
    x = torch.randn(2, 1, *[8] * ndim, dtype=torch.float64)

    def gradients(x: Tensor) -> list[Tensor]:
        network.zero_grad()
        total = torch.stack([h.square().mean() for h in network.forward_heads(x).values()]).sum()
        return list(torch.autograd.grad(total, list(network.parameters())))

    ours = gradients(x.contiguous(memory_format=FORMATS[ndim + 2]))
    monkeypatch.setattr(network_module, "join", lambda parts: torch.cat(parts, dim=1))
    monkeypatch.setattr(network_module, "upsample", lambda module, x: module(x))
    theirs = gradients(x)
    assert max(g.abs().max() for g in theirs) > 1e-3
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
