"""Where the levels disagree, and where to paint next.

One pass gives every head; where depth changes the answer, a stroke is worth most. Knows
arrays of probabilities; no network and no viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.errors import InputError


def disagreement(heads: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return how far the heads differ: the largest standard deviation of any channel.

    Parameters
    ----------
    heads : sequence of ndarray of float32
        Class probabilities of each level, (classes, *space), at least two levels.

    Returns
    -------
    ndarray of float32
        (*space), twice the standard deviation: 0 where all agree, 1 where half say 0 and
        half say 1.

    Raises
    ------
    InputError
        If there are fewer than two levels or their shapes differ.
    """
    _check(heads)
    # One running sum each: all heads at once would double the memory.
    mean = np.zeros(heads[0].shape, np.float32)
    square = np.zeros(heads[0].shape, np.float32)
    for head in heads:
        mean += head
        square += head.astype(np.float32) ** 2
    mean /= len(heads)
    variance = np.maximum(square / len(heads) - mean**2, 0.0)
    found: NDArray[np.float32] = 2.0 * np.sqrt(variance.max(axis=0))
    return found


def uncertainty(heads: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the entropy of the heads' mean: where they differ, and where all are unsure.

    Parameters
    ----------
    heads : sequence of ndarray of float32
        As for `disagreement`.

    Returns
    -------
    ndarray of float32
        (*space), the largest of any class, in bits: 0 certain, 1 as good as a coin.

    Raises
    ------
    InputError
        As `disagreement`.
    """
    _check(heads)
    mean = np.zeros(heads[0].shape, np.float32)
    for head in heads:
        mean += head
    p = (mean / len(heads)).clip(1e-6, 1.0 - 1e-6)
    entropy = -(p * np.log2(p) + (1.0 - p) * np.log2(1.0 - p))
    return np.asarray(entropy.max(axis=0), np.float32)


def _check(heads: Sequence[NDArray[np.float32]]) -> None:
    if len(heads) < 2 or len({h.shape for h in heads}) != 1:
        raise InputError(
            "disagreement needs the probabilities of at least two levels, all of one shape, got "
            f"{[h.shape for h in heads]}; run every level on the same region."
        )


@dataclass(frozen=True)
class Suggestion:
    """A place that is worth painting.

    Attributes
    ----------
    place : tuple of int
        Its middle, a pixel of the map.
    amount : float
        Disagreement around it, summed over a window of `size`.
    """

    place: tuple[int, ...]
    amount: float


def next_places(
    uncertain: NDArray[np.float32],
    count: int = 5,
    *,
    size: int = 48,
    painted: NDArray[np.bool_] | None = None,
) -> list[Suggestion]:
    """Return the next places to paint, most disagreement first, spaced apart.

    Parameters
    ----------
    uncertain : ndarray of float32
        From `disagreement` or `uncertainty`, (*space).
    count : int
        At most so many.
    size : int
        Side of the neighbourhood that counts; places are at least this far apart.
    painted : ndarray of bool, optional
        What is painted already; it counts nothing.

    Returns
    -------
    list of Suggestion
        Empty where all levels agree everywhere.
    """
    rest = np.array(uncertain, np.float32)
    if painted is not None:
        rest[painted] = 0.0
    # The windowed sum; beyond the edge there is nothing to paint.
    amount = ndimage.uniform_filter(rest, size, mode="constant") * float(size) ** rest.ndim
    found: list[Suggestion] = []
    while len(found) < count:
        peak = np.unravel_index(int(amount.argmax()), amount.shape)
        place = tuple(int(v) for v in peak)
        value = float(amount[place])
        # Rounding leaves a trace of the running sums where there is nothing.
        if value <= 1e-3:
            break
        found.append(Suggestion(place, value))
        amount[tuple(slice(max(p - size, 0), p + size + 1) for p in place)] = 0.0
    return found
