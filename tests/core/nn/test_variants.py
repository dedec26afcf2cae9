"""The family against the exact figures counted for the papers' networks."""

from __future__ import annotations

import math

import pytest
import torch

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.nn.variants import (
    VARIANTS,
    edge_table,
    halo,
    kept_values,
    multiply_accumulates,
    parameter_count,
    stage_nodes,
)

PARAMETERS = {
    "unet-l1": 100_961,
    "unet-l2": 465_953,
    "unet-l3": 1_925_025,
    "unet-l4": 7_759_521,
    "wide-unet": 9_130_476,
    "wide-unet-all": 9_282_246,
    "unet-e": 8_728_356,
    "unet+": 8_728_257,
    "unet++": 9_041_601,
    "unet++-ds": 9_041_700,
    "vnet": 22_575_329,
    "wide-vnet": 27_006_176,
    "vnet+": 25_258_241,
    "vnet++": 26_198_273,
}


@pytest.mark.parametrize(("key", "count"), PARAMETERS.items())
def test_parameters_are_those_of_the_papers(key: str, count: int) -> None:
    assert parameter_count(VARIANTS[key].config) == count


@pytest.mark.parametrize("key", VARIANTS)
def test_the_count_is_that_of_the_real_network(key: str) -> None:
    with torch.device("meta"):
        network = NestedUNet(VARIANTS[key].config)
    real = sum(p.numel() for p in network.parameters())
    assert real == parameter_count(VARIANTS[key].config)


@pytest.mark.parametrize(
    ("key", "level", "count"),
    [
        ("unet++-ds", 1, 100_961),
        ("unet++-ds", 2, 511_105),
        ("unet++-ds", 3, 2_204_961),
        ("unet++-ds", 4, 9_041_601),
        ("vnet++-ds", 1, 294_049),
        ("vnet++-ds", 2, 1_482_433),
        ("vnet++-ds", 3, 6_389_601),
    ],
)
def test_pruned_parameters(key: str, level: int, count: int) -> None:
    config = VARIANTS[key].config
    assert parameter_count(config, level) == count
    with torch.device("meta"):
        pruned = NestedUNet(config).pruned(level)
    assert sum(p.numel() for p in pruned.parameters()) == count


def test_batch_norm_adds_its_scales_and_shifts() -> None:
    config = NetworkConfig(norm="batch", deep_supervision=False)
    assert parameter_count(config) == 9_048_897 - 0
    with torch.device("meta"):
        assert sum(p.numel() for p in NestedUNet(config).parameters()) == 9_048_897


@pytest.mark.parametrize(
    ("key", "shape", "giga"),
    [
        ("unet++-ds", (512, 512), {1: 13.908, 2: 35.517, 3: 69.743, 4: 119.001}),
        ("unet-l4", (512, 512), {4: 48.13}),
        ("vnet++-ds", (64, 64, 64), {1: 35.2, 2: 78.6, 3: 137.1, 4: 210.3}),
    ],
)
def test_multiply_accumulates(key: str, shape: tuple[int, ...], giga: dict[int, float]) -> None:
    for level, expected in giga.items():
        count = multiply_accumulates(VARIANTS[key].config, shape, level)
        digits = len(str(expected).split(".")[1])
        assert round(count / 1e9, digits) == expected


def test_multiply_accumulates_of_real_convolutions() -> None:
    """Count what the layers really do, by their own shapes."""
    network = NestedUNet(NetworkConfig(filters=(3, 5, 7), out_channels=2, deep_supervision=False))
    total = 0

    def count(module: torch.nn.Module, args: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, torch.nn.ConvTranspose2d):
            total += args[0].shape[1] * out.numel()
        elif isinstance(module, torch.nn.Conv2d):
            total += module.weight[0].numel() * out.numel()

    for module in network.modules():
        module.register_forward_hook(count)
    network(torch.zeros(1, 1, 16, 24))
    assert total == multiply_accumulates(network.config, (16, 24))


def test_edges_of_unetpp_are_dense_and_of_unet_plus_short() -> None:
    dense = edge_table(NetworkConfig(topology="unet++"))
    short = edge_table(NetworkConfig(topology="unet+"))
    alone = edge_table(NetworkConfig(topology="unet-e"))
    assert dense[0, 3].skips == ((0, 0), (0, 1), (0, 2))
    assert short[0, 3].skips == ((0, 2),)
    assert alone[0, 3].skips == ((0, 0),)
    for table in (dense, short, alone):
        assert table[0, 3].up == (1, 2)
        assert len(table) == 15
    unet = edge_table(NetworkConfig(topology="unet"))
    assert set(unet) == {(i, 0) for i in range(5)} | {(i, 4 - i) for i in range(4)}


def test_a_stage_is_an_anti_diagonal_from_the_deepest_node_up() -> None:
    assert stage_nodes(NetworkConfig(), 2) == ((2, 0), (1, 1), (0, 2))


def test_halo_of_the_levels() -> None:
    assert [halo(k) for k in (1, 2, 3, 4)] == [9, 23, 51, 107]


@pytest.mark.parametrize("level", [1, 2, 3])
def test_halo_is_the_reach_of_the_network(level: int) -> None:
    """With positive weights every connection shows: find the farthest input that acts."""
    network = NestedUNet(NetworkConfig(filters=(1,) * (level + 1), deep_supervision=False))
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(0.5)
    size = 2 ** (level + 5)
    reach = 0
    for place in range(size // 2, size // 2 + 2**level):
        x = torch.zeros(1, 1, 2**level * 2, size, dtype=torch.float64, requires_grad=True)
        network.double()(x)[..., 0, place].sum().backward()
        assert x.grad is not None
        acting = torch.nonzero(x.grad.abs().amax(dim=(0, 1, 2))).flatten()
        reach = max(reach, place - int(acting.min()), int(acting.max()) - place)
    assert reach == halo(level)


def test_the_share_of_the_levels_in_the_cost() -> None:
    config = VARIANTS["unet++-ds"].config
    full = multiply_accumulates(config, (512, 512))
    shares = [100 * multiply_accumulates(config, (512, 512), k) / full for k in (1, 2, 3, 4)]
    assert [round(s, 1) for s in shares] == [11.7, 29.8, 58.6, 100.0]
    one_by_one = sum(multiply_accumulates(config, (512, 512), k) for k in (1, 2, 3, 4))
    assert math.isclose(one_by_one / full, 2.0, abs_tol=0.005)


def test_a_level_without_a_head_is_refused() -> None:
    with pytest.raises(InputError, match="level must be one of 4 for this network, got 2"):
        parameter_count(VARIANTS["unet++"].config, 2)


def test_kept_values_of_the_paper_counted_by_hand() -> None:
    # 2D, filters 32 to 512: rows of 5, 4, 3, 2 and 1 nodes at 1, 1/4, 1/16, 1/64 and 1/256.
    by_hand = 5 * 32 + 4 * 64 / 4 + 3 * 128 / 16 + 2 * 256 / 64 + 512 / 256
    assert kept_values(NetworkConfig()) == by_hand
    assert kept_values(NetworkConfig(), 1) == 2 * 32 + 64 / 4
