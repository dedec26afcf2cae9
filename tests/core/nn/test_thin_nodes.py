"""Gradients in bfloat16 of nodes that are two voxels thick, which oneDNN does not write whole."""

from __future__ import annotations

import pytest
import torch

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.nn.network import NestedUNet


def gradients(depth: int, precision: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    config = NetworkConfig(ndim=3, filters=(16, 64, 128), out_channels=2, norm="batch")
    network = NestedUNet(config).train()
    torch.nn.Module.to(network, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    x = torch.randn(1, 1, 4 * depth, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        heads = network.forward_heads(x.contiguous(memory_format=torch.channels_last_3d))
    torch.autograd.backward(sum(h.float().square().mean() for h in heads.values()))
    return {k: p.grad for k, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("depth", [2, 3])
def test_every_plane_of_a_kernel_learns_what_it_learns_in_float32(depth: int) -> None:
    exact, reduced = (gradients(depth, p) for p in (torch.float32, torch.bfloat16))
    kernels = [name for name, grad in exact.items() if grad.ndim == 5 and grad.shape[2] == 3]
    assert len(kernels) > 4
    for name in kernels:
        for plane in range(3):
            one, two = exact[name][:, :, plane], reduced[name][:, :, plane]
            assert float((one - two).norm() / one.norm()) < 0.5, (name, plane)
