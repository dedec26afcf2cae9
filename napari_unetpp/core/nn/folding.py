"""Batch norm folded into the convolutions before it, for inference.

In evaluation mode a batch norm is a fixed scale and shift per channel, which the convolution
can carry itself: the same numbers up to rounding, one pass over the pixels less. Knows
networks only.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from napari_unetpp.core.nn.network import ConvBlock, NestedUNet


def fold_batch_norm(network: NestedUNet) -> NestedUNet:
    """Return an evaluation-mode copy without batch norms and dropout.

    Parameters
    ----------
    network : NestedUNet
        Not changed. Networks without batch norm are copied as they are.

    Returns
    -------
    NestedUNet
        Its configuration says ``norm="none"`` (or ``"instance"``) and no dropout; its output
        equals that of `network` in evaluation mode up to rounding.
    """
    folded = copy.deepcopy(network).eval()
    config = network.config
    norm = "none" if config.norm == "batch" else config.norm
    folded.config = replace(config, norm=norm, dropout=0.0)
    for name, block in folded.nodes.items():
        assert isinstance(block, ConvBlock)
        folded.nodes[name] = _fold_block(block)
    return folded


def _fold_block(block: ConvBlock) -> ConvBlock:
    """Rebuild a block's layers with every batch norm absorbed and dropout left out."""
    layers: list[nn.Module] = []
    for layer in block:
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            conv = layers[-1]
            assert isinstance(conv, nn.Conv2d | nn.Conv3d)
            _absorb(conv, layer)
        elif not isinstance(layer, nn.Dropout):
            layers.append(layer)
    folded = ConvBlock.__new__(ConvBlock)
    nn.Sequential.__init__(folded, *layers)
    return folded


def _absorb(conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
    """Give a convolution the scale and shift of the batch norm after it, in double precision."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    with torch.no_grad():
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        shape = (-1,) + (1,) * (conv.weight.ndim - 1)
        weight = conv.weight.double() * scale.view(shape)
        bias = (conv.bias.double() - norm.running_mean.double()) * scale + norm.bias.double()
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)
