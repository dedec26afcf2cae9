"""Stages, levels, kept nodes: what runs, and that the numbers are the same to the bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.folding import fold_batch_norm
from napari_unetpp.core.nn.losses import deep_supervision_loss
from napari_unetpp.core.nn.network import NestedUNet, node_name
from napari_unetpp.core.nn.variants import edge_table

SMALL = NetworkConfig(filters=(4, 6, 8, 10, 12), out_channels=2, in_channels=3)
CONFIGS = {
    "2d": SMALL,
    "3d": replace(SMALL, ndim=3),
    "batch": replace(SMALL, norm="batch"),
    "instance": replace(SMALL, norm="instance"),
    "dropout": replace(SMALL, dropout=0.3),
    "unet+": replace(SMALL, topology="unet+"),
    "unet-e": replace(SMALL, topology="unet-e"),
    "softmax": replace(SMALL, activation="softmax"),
    "wide ups": replace(SMALL, up_filters=(3, 3, 3, 3)),
    "three levels": replace(SMALL, filters=(4, 6, 8, 10)),
}


def make(config: NetworkConfig) -> NestedUNet:
    torch.manual_seed(7)
    network = NestedUNet(config)
    for module in network.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    for head in network.heads.values():
        torch.nn.init.normal_(head.weight)
    return network.eval()


def example(config: NetworkConfig) -> torch.Tensor:
    size = (32, 48) if config.ndim == 2 else (16, 32, 16)
    return torch.randn(2, config.in_channels, *size, generator=torch.Generator().manual_seed(1))


def count_nodes(network: NestedUNet) -> Counter[str]:
    ran: Counter[str] = Counter()
    for name, block in network.nodes.items():
        block.register_forward_hook(lambda *_, name=name: ran.update([name]))
    return ran


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_level_equals_its_head_in_the_full_pass_to_the_bit(config: NetworkConfig) -> None:
    network, x = make(config), example(config)
    with torch.inference_mode():
        full = network.forward_heads(x)
        for level in config.head_levels:
            assert torch.equal(network(x, level), full[level])
            assert torch.equal(network.pruned(level)(x), full[level])
    assert full[1].shape == (2, 2, *x.shape[2:])


@pytest.mark.parametrize("config", [CONFIGS["2d"], CONFIGS["unet+"], CONFIGS["3d"]])
def test_a_run_at_level_k_computes_the_first_k_stages_and_nothing_else(
    config: NetworkConfig,
) -> None:
    network, x = make(config), example(config)
    ran = count_nodes(network)
    for level in (1, 2, 3, 4):
        ran.clear()
        network(x, level)
        wanted = {node_name(n): 1 for n in edge_table(config) if sum(n) <= level}
        assert ran == wanted


def test_going_deeper_from_kept_nodes_computes_one_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = make(SMALL), example(SMALL)
    ran = count_nodes(network)
    expected = network.forward_heads(x)
    nodes = network.run_stages(x, 1)
    for level in (2, 3, 4):
        ran.clear()
        nodes = network.run_stages(None, level, nodes)
        assert ran == {node_name((level - j, j)): 1 for j in range(level + 1)}
        assert torch.equal(network.head(level, nodes), expected[level])
    ran.clear()
    again = network.run_stages(None, 2, nodes)
    assert not ran
    assert torch.equal(network.head(2, again), expected[2])


def test_nodes_are_freed_after_their_last_use() -> None:
    network, x = make(SMALL), example(SMALL)
    left = network.run_stages(x, 4, keep=False)
    assert set(left) <= {(0, j) for j in range(5)}
    assert set(network.run_stages(x, 4)) == set(edge_table(SMALL))


def test_ensemble_is_the_mean_probability_of_the_trained_heads() -> None:
    for config in (CONFIGS["2d"], CONFIGS["softmax"]):
        network, x = make(config), example(config)
        heads = network.forward_heads(x)
        each = [network.probabilities(heads[k]) for k in (2, 4)]
        torch.testing.assert_close(network.ensemble(x, (2, 4)), (each[0] + each[1]) / 2)
        mean = sum(network.probabilities(h) for h in heads.values()) / 4
        torch.testing.assert_close(network.ensemble(x), mean)
    total = network.ensemble(x).sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("key", ["batch", "dropout", "instance"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_folding_changes_nothing_but_the_layers(key: str, ndim: int) -> None:
    config = replace(CONFIGS[key], ndim=ndim)
    network, x = make(config), example(config)
    folded = fold_batch_norm(network)
    assert not any("BatchNorm" in type(m).__name__ for m in folded.modules())
    assert any("BatchNorm" in type(m).__name__ for m in network.modules()) == (key == "batch")
    with torch.inference_mode():
        for level in config.head_levels:
            torch.testing.assert_close(folded(x, level), network(x, level), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("topology", ["unet", "unet-e", "unet+", "unet++"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_every_head_and_every_node_gets_gradient(topology: str, ndim: int) -> None:
    config = NetworkConfig(topology=topology, ndim=ndim, filters=(4, 5, 6, 7, 8))
    torch.manual_seed(3)
    network = NestedUNet(config)
    x = torch.randn(2, 1, *(32,) * ndim)
    target = (torch.randn(2, 1, *(32,) * ndim) > 0).float()
    heads = network.forward_heads(x)
    assert set(heads) == set(config.head_levels)
    deep_supervision_loss(heads, target, torch.ones_like(target), "sigmoid").backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_each_head_alone_reaches_its_own_stages_only() -> None:
    network, x = make(SMALL), example(SMALL)
    for level in (1, 2, 3, 4):
        network.zero_grad()
        network.forward_heads(x)[level].sum().backward()
        touched = {n for n in edge_table(SMALL) if _has_gradient(network.nodes[node_name(n)])}
        assert touched == {n for n in edge_table(SMALL) if sum(n) <= level}


def _has_gradient(block: torch.nn.Module) -> bool:
    return any(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 30, 32), r"spatial sizes must be multiples of 16 at level 4, got \(30, 32\)"),
        ((1, 1, 32, 32), r"takes \(N, C, Y, X\) with C = 3, got shape \(1, 1, 32, 32\)"),
        ((3, 32, 32), r"takes \(N, C, Y, X\)"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(SMALL)(torch.zeros(shape))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(InputError, match="level must be one of 1, 2, 3, 4"):
        make(SMALL)(example(SMALL), 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filters": (8,)}, "at least two positive numbers"),
        ({"filters": (8, 0)}, "at least two positive numbers"),
        ({"topology": "unet3+"}, "topology must be one of"),
        ({"ndim": 4}, "ndim must be one of 2, 3"),
        ({"activation": "softmax"}, "at least 2 output channels"),
        ({"up_filters": (8,)}, "up_filters must be 4 positive numbers"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"in_channels": 0}, "at least 1, got 0"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NetworkConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_heads_start_at_the_shares_of_their_channels(activation: str) -> None:
    config = replace(SMALL, activation=activation)
    network = NestedUNet(config)
    network.set_head_biases([0.9, 0.1])
    for head in network.heads.values():
        torch.nn.init.zeros_(head.weight)
    for logits in network.forward_heads(example(config)).values():
        p = network.probabilities(logits)
        torch.testing.assert_close(p[:, 0], torch.full_like(p[:, 0], 0.9))
        torch.testing.assert_close(p[:, 1], torch.full_like(p[:, 1], 0.1))
    with pytest.raises(InputError, match="2 shares were expected"):
        network.set_head_biases([0.5])
