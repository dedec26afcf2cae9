"""The family as edge tables, with its exact parameter and multiply-accumulate counts.

A variant is a table: which nodes X^{i,j} exist and what each one takes. U-Net, U-Net^e,
UNet+ and UNet++ differ in nothing else (TMI 2020, Fig. 1 and Table III); the V-Nets are
the same tables with 3D convolutions. This module counts; it knows no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from napari_unetpp.core.config import PAPER_FILTERS, NetworkConfig
from napari_unetpp.core.errors import InputError

Node = tuple[int, int]

WIDE_FILTERS = (35, 70, 140, 280, 560)


@dataclass(frozen=True)
class Edges:
    """What a node X^{i,j} takes.

    Attributes
    ----------
    skips : tuple of (i, j)
        Nodes of the same resolution, concatenated in this order.
    up : (i, j), optional
        Node of the next lower resolution that is up-sampled and concatenated last.
    down : (i, j), optional
        Node of the next higher resolution that is max-pooled (column 0 only).
    """

    skips: tuple[Node, ...] = ()
    up: Node | None = None
    down: Node | None = None

    @property
    def sources(self) -> tuple[Node, ...]:
        """All nodes that are taken, in order."""
        extra = tuple(n for n in (self.up, self.down) if n is not None)
        return self.skips + extra


def edge_table(config: NetworkConfig) -> dict[Node, Edges]:
    """Return the nodes of a network and what each one takes.

    Parameters
    ----------
    config : NetworkConfig
        Its topology and its number of levels are used.

    Returns
    -------
    dict of (i, j) to Edges
        In the order in which nodes can be computed: by anti-diagonal i + j, and within one
        from the deepest node upwards.
    """
    depth = config.levels
    table: dict[Node, Edges] = {}
    for stage in range(depth + 1):
        for j in range(stage + 1):
            i = stage - j
            if j == 0:
                table[i, j] = Edges(down=(i - 1, 0) if i else None)
            elif config.topology == "unet":
                if stage == depth:
                    table[i, j] = Edges(skips=((i, 0),), up=(i + 1, j - 1))
            elif config.topology == "unet-e":
                table[i, j] = Edges(skips=((i, 0),), up=(i + 1, j - 1))
            elif config.topology == "unet+":
                table[i, j] = Edges(skips=((i, j - 1),), up=(i + 1, j - 1))
            else:
                table[i, j] = Edges(skips=tuple((i, k) for k in range(j)), up=(i + 1, j - 1))
    return table


def stage_nodes(config: NetworkConfig, stage: int) -> tuple[Node, ...]:
    """Return the nodes of one stage (anti-diagonal i + j = `stage`) in computing order."""
    return tuple(n for n in edge_table(config) if sum(n) == stage)


def in_features(config: NetworkConfig, node: Node) -> int:
    """Return the number of channels that a node's first convolution takes."""
    edges = edge_table(config)[node]
    if edges.down is not None:
        return config.filters[edges.down[0]]
    if edges.up is None:
        return config.in_channels
    return sum(config.filters[i] for i, _ in edges.skips) + up_features(config, node)


def up_features(config: NetworkConfig, node: Node) -> int:
    """Return the number of channels that the transposed convolution into a node gives."""
    return (config.up_filters or config.filters)[node[0]]


def check_level(config: NetworkConfig, level: int) -> int:
    """Return `level` if the network has a head there.

    Raises
    ------
    InputError
        If there is no head at `level`.
    """
    if level not in config.head_levels:
        choices = ", ".join(str(k) for k in config.head_levels)
        raise InputError(
            f"level must be one of {choices} for this network, got {level!r}; choose one of them."
        )
    return level


def halo(level: int) -> int:
    """Return the halo of a level in pixels: the largest offset at which an input acts.

    Two 3×3 convolutions reach 2 pixels at each resolution on the way down and up again:
    9, 23, 51 and 107 pixels for levels 1 to 4, for every member of the family.
    """
    reach: int = 7 * 2**level - 5
    return reach


def pruned_config(config: NetworkConfig, level: int) -> NetworkConfig:
    """Return the configuration of the network cut after stage `level`, with one head.

    U-Nets have one depth only and cannot be cut.
    """
    check_level(config, level)
    ups = config.up_filters
    return replace(
        config,
        filters=config.filters[: level + 1],
        up_filters=None if ups is None else ups[:level],
        deep_supervision=False,
    )


def parameter_count(config: NetworkConfig, level: int | None = None) -> int:
    """Count the trainable parameters.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    level : int, optional
        Count what is left after pruning to this level, with its head alone.

    Returns
    -------
    int
        Weights and biases, and scales and shifts of norms (FACTS of TMI 2020, Table III).
    """
    if level is not None and level != config.levels:
        return parameter_count(pruned_config(config, level))
    if level is not None:
        config = replace(config, deep_supervision=False)
    kernel, up_kernel = 3**config.ndim, 2**config.ndim
    total = 0
    for node, edges in edge_table(config).items():
        f = config.filters[node[0]]
        total += kernel * in_features(config, node) * f + f
        total += kernel * f * f + f
        if config.norm != "none":
            total += 4 * f
        if edges.up is not None:
            g = up_features(config, node)
            total += up_kernel * config.filters[edges.up[0]] * g + g
    head = config.filters[0] * config.out_channels + config.out_channels
    return total + head * len(config.head_levels)


def kept_values(config: NetworkConfig, level: int | None = None) -> float:
    """Return how many numbers the nodes up to a level hold for each pixel (voxel) of the input.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    level : int, optional
        Last stage; all if None.
    """
    last = config.levels if level is None else level
    nodes = [node for node in edge_table(config) if sum(node) <= last]
    return float(sum(config.filters[i] / 2 ** (config.ndim * i) for i, _ in nodes))


def multiply_accumulates(
    config: NetworkConfig, shape: tuple[int, ...], level: int | None = None
) -> int:
    """Count the multiply-accumulates of one forward pass.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    shape : tuple of int
        Pixels or voxels of the input, (Y, X) or (Z, Y, X); divisible by 2^level.
    level : int, optional
        Level to stop at, with its head alone; the deepest one if None.

    Returns
    -------
    int
        Convolutions, transposed convolutions and one head; biases are not counted.
    """
    level = config.levels if level is None else check_level(config, level)
    kernel = 3**config.ndim
    total = math.prod(shape) * config.filters[0] * config.out_channels
    for node, edges in edge_table(config).items():
        if sum(node) > level:
            continue
        size = math.prod(n // 2 ** node[0] for n in shape)
        f = config.filters[node[0]]
        total += size * kernel * (in_features(config, node) * f + f * f)
        if edges.up is not None:
            # Stride equals kernel size: every output pixel has exactly one source pixel.
            total += size * config.filters[edges.up[0]] * up_features(config, node)
    return total


@dataclass(frozen=True)
class Variant:
    """A named member of the family, as the papers use it.

    Attributes
    ----------
    name : str
        The papers' name.
    config : NetworkConfig
        One input channel, one class, no norm.
    """

    name: str
    config: NetworkConfig

    def to_json(self) -> dict[str, Any]:
        """Return name, architecture, parameters and multiply-accumulates per level.

        The multiply-accumulates are for 512 × 512 pixels or 64 × 64 × 64 voxels.
        """
        config = self.config
        shape = (512, 512) if config.ndim == 2 else (64, 64, 64)
        return {
            "name": self.name,
            "topology": config.topology,
            "ndim": config.ndim,
            "filters": list(config.filters),
            "heads": len(config.head_levels),
            "parameters": parameter_count(config),
            "macs_shape": list(shape),
            "levels": {
                str(k): {
                    "parameters": parameter_count(config, k),
                    "multiply_accumulates": multiply_accumulates(config, shape, k),
                }
                for k in config.head_levels
            },
        }


def _family() -> dict[str, Variant]:
    base = NetworkConfig(filters=PAPER_FILTERS)
    volume = replace(base, ndim=3)
    narrow_ups = PAPER_FILTERS[:-1]
    members = {
        f"unet-l{d}": Variant(
            f"U-Net L{d}", replace(base, topology="unet", filters=PAPER_FILTERS[: d + 1])
        )
        for d in (1, 2, 3, 4)
    }
    members |= {
        "wide-unet": Variant(
            "wide U-Net",
            replace(base, topology="unet", filters=WIDE_FILTERS, up_filters=narrow_ups),
        ),
        "wide-unet-all": Variant(
            "wide U-Net, transposed convolutions too",
            replace(base, topology="unet", filters=WIDE_FILTERS),
        ),
        "unet-e": Variant("U-Net^e", replace(base, topology="unet-e")),
        "unet+": Variant(
            "UNet+ without deep supervision",
            replace(base, topology="unet+", deep_supervision=False),
        ),
        "unet+-ds": Variant("UNet+", replace(base, topology="unet+")),
        "unet++": Variant("UNet++ without deep supervision", replace(base, deep_supervision=False)),
        "unet++-ds": Variant("UNet++", base),
        "vnet": Variant("V-Net", replace(volume, topology="unet")),
        "wide-vnet": Variant("wide V-Net", replace(volume, topology="unet", filters=WIDE_FILTERS)),
        "vnet+": Variant("VNet+", replace(volume, topology="unet+", deep_supervision=False)),
        "vnet+-ds": Variant("VNet+ with deep supervision", replace(volume, topology="unet+")),
        "vnet++": Variant("VNet++", replace(volume, deep_supervision=False)),
        "vnet++-ds": Variant("VNet++ with deep supervision", volume),
    }
    return members


VARIANTS: Mapping[str, Variant] = _family()
"""The named members by key, in the papers' order."""
