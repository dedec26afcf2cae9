"""The network as an OpenVINO graph, made node by node from its table of edges.

No tracing and no exporter: weights become constants of the graph, so a fine-tuned network is
a new graph in a fraction of a second, and sizes stay open. Knows the network and OpenVINO's
operations; nothing of devices, threads or precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1, opset8
from torch import Tensor, nn

from napari_unetpp.core.nn.network import NestedUNet, node_name
from napari_unetpp.core.nn.variants import Node, stage_nodes


def build_graph(network: NestedUNet, levels: Sequence[int]) -> ov.Model:
    """Return a graph from a batch of windows to the probabilities of some levels.

    Parameters
    ----------
    network : NestedUNet
        On the CPU, in float32, batch norms folded; dropout is left out.
    levels : sequence of int
        Heads that are wanted; stages beyond the deepest are left out.

    Returns
    -------
    openvino.Model
        Takes (N, C, *space) of any N and any sizes that 2^level divides; one output a level.

    Raises
    ------
    RuntimeError
        If the network holds a layer that is not known here.
    """
    return _Builder(network).model(levels)


class _Builder:
    def __init__(self, network: NestedUNet) -> None:
        self.network, self.config = network, network.config
        self.ndim = self.config.ndim
        self.open = ov.PartialShape([-1, self.config.in_channels, *(-1,) * self.ndim])
        self.two, self.one = [2] * self.ndim, [1] * self.ndim

    def model(self, levels: Sequence[int]) -> ov.Model:
        x = opset1.parameter(self.open, np.float32, name="x")
        known: dict[Node, Any] = {}
        for stage in range(max(levels) + 1):
            for node in stage_nodes(self.config, stage):
                known[node] = self._node(node, x, known)
        heads = [self._head(level, known) for level in levels]
        return ov.Model(heads, [x], "unetpp")

    def _node(self, node: Node, x: Any, known: dict[Node, Any]) -> Any:
        edges, name = self.network.edges[node], node_name(node)
        if edges.down is not None:
            none = [0] * self.ndim
            source = opset1.max_pool(known[edges.down], self.two, none, none, self.two)
        elif edges.up is None:
            source = x
        else:
            up = self._up(self.network.ups[name], known[edges.up])
            source = opset1.concat([*(known[s] for s in edges.skips), up], axis=1)
        for layer in self.network.nodes[name]:  # type: ignore[attr-defined]
            source = self._layer(layer, source)
        return source

    def _layer(self, layer: nn.Module, source: Any) -> Any:
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            pad = [int(p) for p in layer.padding]
            found = opset1.convolution(source, _array(layer.weight), self.one, pad, pad, self.one)
            return self._shift(found, layer.bias)
        if isinstance(layer, nn.ReLU):
            return opset1.relu(source)
        if isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d):
            axes = np.arange(2, 2 + self.ndim, dtype=np.int64)
            found = opset8.mvn(source, axes, True, layer.eps, "inside_sqrt")
            if layer.weight is None:
                return found
            return self._shift(opset1.multiply(found, self._by_channel(layer.weight)), layer.bias)
        if isinstance(layer, nn.Dropout):
            return source
        raise RuntimeError(f"no operation is known for {type(layer).__name__}")

    def _up(self, layer: nn.Module, source: Any) -> Any:
        assert isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d)
        none = [0] * self.ndim
        found = opset1.convolution_backprop_data(
            source, _array(layer.weight), self.two, pads_begin=none, pads_end=none,
            dilations=self.one,
        )  # fmt: skip
        return self._shift(found, layer.bias)

    def _head(self, level: int, known: dict[Node, Any]) -> Any:
        logits = self._layer(self.network.heads[str(level)], known[0, level])
        if self.config.activation == "sigmoid":
            return opset1.sigmoid(logits)
        return opset8.softmax(logits, 1)

    def _shift(self, source: Any, bias: Tensor | None) -> Any:
        return source if bias is None else opset1.add(source, self._by_channel(bias))

    def _by_channel(self, values: Tensor) -> Any:
        return _array(values.reshape(1, -1, *self.one))


def _array(values: Tensor) -> Any:
    return opset1.constant(np.ascontiguousarray(values.detach().cpu().float().numpy()))
