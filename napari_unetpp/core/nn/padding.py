"""Sizes that the grid of nodes can halve: the edge repeated past the end.

Knows tensors only.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the edge until every spatial size is a multiple.

    Parameters
    ----------
    x : Tensor
        (N, C, *space).
    multiple : int
        2^levels of the network that is to run on it.

    Returns
    -------
    Tensor
        (N, C, *space'), the same tensor where nothing is missing.
    """
    pads: list[int] = []
    for n in reversed(x.shape[2:]):
        pads += [0, -n % multiple]
    return F.pad(x, pads, mode="replicate") if any(pads) else x
