"""The nested network: one class over the grid of nodes X^{i,j}.

Stage k computes the anti-diagonal i + j = k from the nodes before it; head k sits on
X^{0,k}. A run at level k is the first k stages and nothing else, so a pruned run, the pass
over all heads and the preview that goes deeper from kept nodes are the same code.
Source: DLMIA 2018, Sec. 3; TMI 2020, Eq. 1 and Fig. 1. Knows no images and no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.joining import join, upsample
from napari_unetpp.core.nn.variants import (
    Edges,
    Node,
    check_level,
    edge_table,
    in_features,
    pruned_config,
    stage_nodes,
    up_features,
)

Nodes = dict[Node, Tensor]


def node_name(node: Node) -> str:
    """Return the name of a node's module, such as ``x0_1`` for X^{0,1}."""
    return f"x{node[0]}_{node[1]}"


class ConvBlock(nn.Sequential):
    """Two 3×3 (3×3×3) convolutions, each with optional norm, ReLU and optional dropout."""

    def __init__(self, config: NetworkConfig, in_features: int, features: int) -> None:
        conv = nn.Conv2d if config.ndim == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        for source in (in_features, features):
            layers.append(conv(source, features, kernel_size=3, padding=1))
            if config.norm == "batch":
                layers.append((nn.BatchNorm2d if config.ndim == 2 else nn.BatchNorm3d)(features))
            elif config.norm == "instance":
                norm = nn.InstanceNorm2d if config.ndim == 2 else nn.InstanceNorm3d
                layers.append(norm(features, affine=True))
            layers.append(nn.ReLU(inplace=True))
            if config.dropout > 0:
                layers.append(nn.Dropout(config.dropout))
        super().__init__(*layers)


class NestedUNet(nn.Module):
    """A network of the family: U-Net, U-Net^e, UNet+ or UNet++, in 2D or 3D.

    Parameters
    ----------
    config : NetworkConfig
        Topology, axes, channels, filters, norm, dropout and activation.

    Notes
    -----
    Inputs are float tensors of shape (N, C, Y, X) or (N, C, Z, Y, X) whose spatial sizes are
    divisible by 2^level of the level that is run.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.edges: Mapping[Node, Edges] = edge_table(config)
        three = config.ndim == 3
        conv = nn.Conv3d if three else nn.Conv2d
        transposed = nn.ConvTranspose3d if three else nn.ConvTranspose2d
        self.pool = (nn.MaxPool3d if three else nn.MaxPool2d)(kernel_size=2)
        self.nodes = nn.ModuleDict()
        self.ups = nn.ModuleDict()
        for node, edges in self.edges.items():
            features = config.filters[node[0]]
            self.nodes[node_name(node)] = ConvBlock(config, in_features(config, node), features)
            if edges.up is not None:
                self.ups[node_name(node)] = transposed(
                    config.filters[edges.up[0]], up_features(config, node), kernel_size=2, stride=2
                )
        self.heads = nn.ModuleDict(
            {
                str(level): conv(config.filters[0], config.out_channels, kernel_size=1)
                for level in config.head_levels
            }
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: He's normal initialisation for what a ReLU follows."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
                # Every output pixel has one source pixel: the fan is that of a 1×1 convolution.
                nn.init.normal_(module.weight, std=module.in_channels**-0.5)
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for head in self.heads.values():
            # No ReLU follows: weights of both signs, so that a feature can speak for a class.
            nn.init.normal_(cast(Tensor, head.weight), std=self.config.filters[0] ** -0.5)

    def set_head_biases(self, shares: Sequence[float]) -> None:
        """Start every head at the share of pixels that each channel has in the truth.

        With rare classes a bias of 0 is far off: the first steps would push every feature
        below zero to say "background", and ReLUs that are off everywhere learn no more.

        Parameters
        ----------
        shares : sequence of float
            For each output channel, the share of pixels that it covers, in (0, 1).

        Raises
        ------
        InputError
            If there is not one share for each output channel.
        """
        if len(shares) != self.config.out_channels:
            raise InputError(
                f"{self.config.out_channels} shares were expected, one for each output channel, "
                f"got {len(shares)}."
            )
        # Patches are drawn around classes, so a class is never as rare as in whole images; and
        # much lower than 1 % the slope of the sigmoid is too flat to start from.
        share = torch.tensor(shares, dtype=torch.float64).clamp(0.01, 0.99)
        odds = torch.log(share)
        if self.config.activation == "sigmoid":
            odds = odds - torch.log1p(-share)
        with torch.no_grad():
            for head in self.heads.values():
                cast(Tensor, head.bias).copy_(odds)

    def _check_input(self, x: Tensor, level: int) -> None:
        config = self.config
        if x.ndim != config.ndim + 2 or x.shape[1] != config.in_channels:
            axes = "(N, C, Y, X)" if config.ndim == 2 else "(N, C, Z, Y, X)"
            raise InputError(
                f"the network takes {axes} with C = {config.in_channels}, "
                f"got shape {tuple(x.shape)}; add or remove axes."
            )
        if any(n % 2**level or n == 0 for n in x.shape[2:]):
            raise InputError(
                f"spatial sizes must be multiples of {2**level} at level {level}, "
                f"got {tuple(x.shape[2:])}; pad the input."
            )

    def node(self, node: Node, x: Tensor | None, nodes: Mapping[Node, Tensor]) -> Tensor:
        """Compute one node from those it takes.

        Parameters
        ----------
        node : (i, j)
            The node X^{i,j}.
        x : Tensor, optional
            The network's input, (N, C, *space); used by X^{0,0} alone.
        nodes : mapping of (i, j) to Tensor
            The nodes that are known.

        Returns
        -------
        Tensor
            Activations, (N, filters[i], *space / 2^i).
        """
        edges = self.edges[node]
        name = node_name(node)
        if edges.down is not None:
            source = self.pool(nodes[edges.down])
        elif edges.up is None:
            if x is None:
                raise InputError("X^{0,0} is needed but no input was given; give the input.")
            source = x
        else:
            up = upsample(self.ups[name], nodes[edges.up])
            source = join([*(nodes[s] for s in edges.skips), up])
        block = self.nodes[name]
        if _wants_float32(source):
            with torch.autocast("cpu", enabled=False):
                return cast(Tensor, block(source.float()))
        return cast(Tensor, block(source))

    def run_stages(
        self,
        x: Tensor | None,
        level: int,
        nodes: Nodes | None = None,
        *,
        keep: bool = True,
        before: Callable[[], None] | None = None,
    ) -> Nodes:
        """Compute the stages up to `level` that are not known yet, and nothing else.

        Parameters
        ----------
        x : Tensor, optional
            Input, (N, C, *space); may be None if X^{0,0} is among `nodes`.
        level : int
            Last stage to compute, 0 to the number of levels.
        nodes : dict of (i, j) to Tensor, optional
            Kept nodes of an earlier run on the same input; not changed.
        keep : bool
            Keep every node, so that a later call can go deeper. Otherwise a node is freed
            after its last use and only X^{0,j} of heads are left.
        before : callable, optional
            Called before each node that is computed; what it raises ends the pass.

        Returns
        -------
        dict of (i, j) to Tensor
            The nodes, old and new.
        """
        if x is not None:
            self._check_input(x, level)
        known: Nodes = dict(nodes or {})
        wanted = [n for s in range(level + 1) for n in stage_nodes(self.config, s)]
        todo = [n for n in wanted if n not in known]
        for place, node in enumerate(todo):
            if before is not None:
                before()
            known[node] = self.node(node, x, known)
            if not keep:
                later = {s for n in todo[place + 1 :] for s in self.edges[n].sources}
                for old in [n for n in known if n not in later and n[0] > 0 and n != node]:
                    del known[old]
        return known

    def head(self, level: int, nodes: Mapping[Node, Tensor]) -> Tensor:
        """Return the logits of a level from its node X^{0,level}, (N, classes, *space)."""
        check_level(self.config, level)
        return cast(Tensor, self.heads[str(level)](nodes[0, level]))

    def forward(self, x: Tensor, level: int | None = None) -> Tensor:
        """Return the logits of one level; only the first `level` stages are computed.

        Parameters
        ----------
        x : Tensor
            Input, (N, C, *space), float.
        level : int, optional
            1 to the number of levels; the deepest if None.

        Returns
        -------
        Tensor
            Logits, (N, classes, *space).

        Raises
        ------
        InputError
            If there is no head at `level`, or the shape does not fit.
        """
        level = self.config.levels if level is None else check_level(self.config, level)
        return self.head(level, self.run_stages(x, level, keep=False))

    def forward_heads(self, x: Tensor, levels: tuple[int, ...] | None = None) -> dict[int, Tensor]:
        """Return the logits of several levels from one pass.

        Parameters
        ----------
        x : Tensor
            Input, (N, C, *space), float.
        levels : tuple of int, optional
            Levels wanted; all that have a head if None.

        Returns
        -------
        dict of int to Tensor
            Logits by level, each (N, classes, *space).
        """
        levels = self.config.head_levels if levels is None else levels
        for level in levels:
            check_level(self.config, level)
        nodes = self.run_stages(x, max(levels), keep=False)
        return {level: self.head(level, nodes) for level in levels}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits (N, C, *space) into probabilities by the network's activation."""
        if self.config.activation == "sigmoid":
            return torch.sigmoid(logits)
        return torch.softmax(logits, dim=1)

    def ensemble(self, x: Tensor, levels: tuple[int, ...] | None = None) -> Tensor:
        """Return the mean probability of several heads, (N, classes, *space).

        Parameters
        ----------
        x : Tensor
            Input, (N, C, *space), float.
        levels : tuple of int, optional
            Heads to average, the trained ones; all if None.
        """
        heads = self.forward_heads(x, levels)
        total = sum(self.probabilities(logits) for logits in heads.values())
        return cast(Tensor, total) / len(heads)

    def pruned(self, level: int) -> NestedUNet:
        """Return a network of the first `level` stages with the same weights and one head.

        Its output is bit-identical to head `level` of this network.
        """
        small = NestedUNet(pruned_config(self.config, level))
        own = self.state_dict()
        small.load_state_dict({name: own[name] for name in small.state_dict()})
        first = next(self.parameters())
        return small.to(device=first.device, dtype=first.dtype).train(self.training)


def _wants_float32(x: Tensor) -> bool:
    """Return whether a node's gradients would be wrong in bfloat16.

    oneDNN 3.12 leaves two of three planes of a 3 x 3 x 3 kernel's gradient unwritten where its
    input is two voxels thick: whatever lay in memory is learned. Such nodes are small.
    """
    reduced = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return reduced and x.ndim == 5 and 2 in x.shape[2:] and torch.is_grad_enabled()
