"""The level that a tile needs: the first two heads, and the deepest where they disagree.

Every window is judged by how much of the foreground the first two heads see differently. Where
that is more than the card's tolerance, the deepest level decides. A window after several that went
deep is expected to go deep too, and so is the first window of a run whose middle would: then all
three heads come from one pass, which costs hardly more than the deepest alone, and the judgement is
the same. Where the image ends and the two would pad it differently, or a level fell back to another
precision, it is not the same, so there nothing is expected. Knows a runner and arrays; no tile, no
file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.run.results import deciding_channels
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.run.tiling import Region, aligned_halo, padded_size

TOLERANCE = 0.05
"""Of a card without one; on the careful side."""

# Foreground that is always counted: where a tile holds next to nothing, a few pixels that turn
# are no disagreement worth the deepest level.
_LEAST_SHARE = 0.002


def disagreement(first: NDArray[np.float32], second: NDArray[np.float32], card: ModelCard) -> float:
    """Return which share of the foreground two levels see differently, 0 to 1.

    Parameters
    ----------
    first, second : ndarray of float32, shape (channels, *space)
        Probabilities of all the network's channels.
    card : ModelCard
        Its classes and threshold.

    Returns
    -------
    float
        Pixels whose decision differs over those that either calls foreground, of the class for
        which it is largest.
    """
    channels = list(deciding_channels(card))
    if card.network.activation == "softmax":
        ways = [found.argmax(axis=0) for found in (first, second)]
        masks = [(ways[0] == k, ways[1] == k) for k in range(1, len(first))]
    else:
        masks = [(first[k] > card.threshold, second[k] > card.threshold) for k in channels]
    least = _LEAST_SHARE * float(np.prod(first.shape[1:]))
    return max(float((a ^ b).sum()) / max(float((a | b).sum()), least, 1.0) for a, b in masks)


# So many windows in a row must have gone deep before the next is expected to: on a mixture the
# expectation would often be wrong, and cost the deepest level for nothing.
_EXPECTED_AFTER = 3

# The middle quarter of a window along each axis foretells the whole, where seeing it by the first
# two levels costs no more than this share of seeing the whole so.
_GLANCE_SHARE = 0.125


@dataclass(frozen=True)
class Found:
    """What a window came to: probabilities, and the level that made them."""

    probabilities: NDArray[np.float32]
    level: int


class Adaptive:
    """Runs windows at the level that each needs.

    Parameters
    ----------
    runner : Runner
        The model.

    Attributes
    ----------
    tolerance : float
        The card's, else :data:`TOLERANCE`.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        card = runner.card
        trained = sorted(card.levels_trained)
        self._shallow, self._deepest = tuple(trained[:2]), trained[-1]
        self.tolerance = TOLERANCE if card.auto_tolerance is None else card.auto_tolerance
        self._begun = False

    def run(self, x: NDArray[np.float32], crop: Region, ends: tuple[int, ...]) -> Found:
        """Run one window.

        Parameters
        ----------
        x : ndarray of float32, shape (C, *window)
            With the halo of the deepest level.
        crop : tuple of slice
            The core; only its pixels are judged and returned.
        ends : tuple of int
            Where the image ends along each axis, counted from the window's start: a shallow
            level pads it less than the deepest does.

        Returns
        -------
        Found
            (channels, *core), and the level; the very numbers of a run at that level.
        """
        deepest, runner = self._deepest, self._runner
        if deepest == self._shallow[-1]:  # two levels at most: nothing to choose
            return Found(runner.probabilities(x[None], deepest, crop)[0], deepest)
        window, inner = _narrowed(crop, ends, self._shallow[-1])
        deep: NDArray[np.float32] | None = None
        if self._ends_alike(window, ends) and self._expected(x, crop, ends):
            levels = (*self._shallow, deepest)
            runner.compare(x[None], levels)  # then it is known how each is computed
            if self._computed_alike():
                heads = runner.several(x[None], levels)
                deep = np.ascontiguousarray(heads[deepest][0][(slice(None), *crop)])
                if self._disagree(heads, crop):
                    return Found(deep, deepest)
        heads = runner.several(x[(None, slice(None), *window)], self._shallow)
        if not self._disagree(heads, inner):
            runner.deep_in_a_row = 0
            kept = heads[self._shallow[-1]][0][(slice(None), *inner)]
            return Found(np.ascontiguousarray(kept), self._shallow[-1])
        runner.deep_in_a_row += 1
        if deep is None:
            deep = runner.probabilities(x[None], deepest, crop)[0]
        return Found(deep, deepest)

    def _expected(self, x: NDArray[np.float32], crop: Region, ends: tuple[int, ...]) -> bool:
        """Return whether a window is expected to go deep, before it is judged."""
        begun, self._begun = self._begun, True
        if self._runner.deep_in_a_row >= _EXPECTED_AFTER:
            return True
        if begun:
            return False
        quarters = [(c.stop - c.start) // 4 for c in crop]
        middle = tuple(
            slice((c.start + c.stop - quarter) // 2, (c.start + c.stop - quarter) // 2 + quarter)
            for c, quarter in zip(crop, quarters, strict=True)
        )
        window, inner = _narrowed(middle, ends, self._shallow[-1])
        seen = x[(None, slice(None), *window)]
        if not min(quarters) or seen.size > _GLANCE_SHARE * x.size:
            return False
        self._runner.compare(x[None], self._shallow)  # on all of it: its middle may be empty
        return self._disagree(self._runner.several(seen, self._shallow), inner)

    def _ends_alike(self, window: Region, ends: tuple[int, ...]) -> bool:
        """Return whether the shallow window is padded as the deep one is, if it is at all."""
        level = self._shallow[-1]
        return all(
            w.stop < padded_size(end, level)
            or padded_size(end, level) == padded_size(end, self._deepest)
            for w, end in zip(window, ends, strict=True)
        )

    def _computed_alike(self) -> bool:
        """Return whether all three run on one backend in one precision, as they do in one pass."""
        levels = (*self._shallow, self._deepest)
        return len({(self._runner.backend_of(k), self._runner.precision_of(k)) for k in levels}) < 2

    def _disagree(self, heads: dict[int, NDArray[np.float32]], crop: Region) -> bool:
        first, second = (heads[k][0][(slice(None), *crop)] for k in self._shallow)
        return disagreement(first, second, self._runner.card) > self.tolerance


def _narrowed(crop: Region, ends: tuple[int, ...], level: int) -> tuple[Region, Region]:
    """Return the part of a window that a shallow level sees of its core, and the core in it."""
    reach, step = aligned_halo(level), 2**level
    window = tuple(
        slice(
            max(c.start // step * step - reach, 0),
            min(padded_size(c.stop, level) + reach, padded_size(end, level)),
        )
        for c, end in zip(crop, ends, strict=True)
    )
    inner = tuple(
        slice(c.start - w.start, c.stop - w.start) for c, w in zip(crop, window, strict=True)
    )
    return window, inner
