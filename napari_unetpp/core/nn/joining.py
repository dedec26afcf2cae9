"""How nodes come together in training: up-sampling and concatenation with cheap gradients.

The same numbers as ``ConvTranspose`` and ``torch.cat``, whose gradients take a processor far
longer than they must when channels are last: slices of few channels are added pixel by pixel,
and the transposed convolution of a 2×2 kernel goes backwards at half the speed of the matrix
product that it is. Without gradients PyTorch's own operations run. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn


def channels_last_format(x: Tensor) -> torch.memory_format | None:
    """Return the channels-last format that a tensor (N, C, *space) has, None if it has not."""
    last = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return last if x.ndim in (4, 5) and x.is_contiguous(memory_format=last) else None


class _Join(torch.autograd.Function):
    """Concatenate channels; the gradient of every part is a tensor of its own, not a slice."""

    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.sizes = [p.shape[1] for p in parts]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        (gradient,) = gradients
        pieces = gradient.split(ctx.sizes, dim=1)  # type: ignore[no-untyped-call]
        last = channels_last_format(gradient)
        # A node has several successors. Their gradients are added up, and adding slices of 16
        # of 80 channels took 14 times as long as adding whole tensors.
        return pieces if last is None else tuple(p.contiguous(memory_format=last) for p in pieces)


def _matters(x: Tensor) -> bool:
    """Whether a gradient will be wanted on a processor."""
    return torch.is_grad_enabled() and x.device.type == "cpu"


def join(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate nodes along their channels.

    Parameters
    ----------
    parts : sequence of Tensor
        (N, C_k, *space) each.

    Returns
    -------
    Tensor
        (N, sum of C_k, *space), the very values of ``torch.cat``.
    """
    if _matters(parts[0]):
        return cast(Tensor, _Join.apply(*parts))  # type: ignore[no-untyped-call]
    return torch.cat(list(parts), dim=1)


def upsample(up: nn.Module, x: Tensor) -> Tensor:
    """Run a transposed convolution whose kernel and stride are 2.

    Parameters
    ----------
    up : ConvTranspose2d or ConvTranspose3d
        With bias, without padding or groups.
    x : Tensor
        (N, C, *space).

    Returns
    -------
    Tensor
        (N, C', *space * 2); up to rounding what ``up(x)`` gives.
    """
    if not _matters(x) or channels_last_format(x) is None:
        return cast(Tensor, up(x))
    weight, bias = cast(Tensor, up.weight), cast(Tensor, up.bias)
    axes, features = x.ndim - 2, weight.shape[1]
    space = x.shape[2:]
    # Every pixel of the result has one source pixel, so this is one matrix product.
    table = weight.movedim(1, -1).flatten(1)  # (C, 2 * 2 [* 2] * C')
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])  # (N * space, C), a view
    blocks = torch.addmm(bias.repeat(2**axes), rows, table)
    blocks = blocks.view(x.shape[0], *space, *[2] * axes, features)
    order = [0]
    for axis in range(axes):
        order += [1 + axis, 1 + axes + axis]
    woven = blocks.permute(*order, 1 + 2 * axes)  # (N, Y, 2, X, 2, C')
    return woven.reshape(x.shape[0], *(2 * n for n in space), features).movedim(-1, 1)
