"""What a random walker says around the strokes: pieces of a class, as far as the image is alike.

A walker from a voxel comes to the strokes of one value first, and does not like to cross an edge.
At every step it may also give up, and is then what a prior says (Grady, "Multilabel random walker
image segmentation using prior models", CVPR 2005). An organ is one piece, which trees on features
do not know. Knows windows and arrays; no network and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.strokes import TRAINING

BETA = 100.0
"""How little a walker likes edges: its weight between two voxels is exp(-BETA d^2) or more, where d
is how much they differ in standard deviations of the image."""

USUAL = 2.5
"""Two neighbours that differ as most do, the median of d^2, are joined by no less than exp(-USUAL):
noise is no edge. In the hippocampus both come to the same; CT has less noise."""

LEAST = 1e-6
"""Weight between voxels that nothing joins, so that none is cut off."""

TIRED = 1e-3
"""Weight of giving up, beside those to the neighbours. Mean IoU on the rest with 10 strokes of a
hippocampus (4 seeds) and of two organs in CT (2 seeds): 0 0.31 and 0.17, 1e-3 0.36 and 0.21, 1e-2
0.32 and 0.20; trees 0.13 and 0.10."""

BACKGROUND = 0.5
"""The prior is so much background, and else what trees say; trees alone 0.23 and 0.14, background
alone 0.38 and 0.20."""

MARGINS = (24, 16, 8)
"""Voxels around the strokes in which it walks; beyond, its answer goes on as at their border."""

VOXELS = 2**18
"""Most that it walks in, about 2 s on two cores; the first of the margins that fits is taken."""

TOLERANCE, ROUNDS = 1e-3, 300
"""Of the conjugate gradients."""


@dataclass(frozen=True, eq=False)
class Walked:
    """What a walker says of a window.

    Attributes
    ----------
    probabilities : ndarray of float32
        Of background and every class, (classes + 1, *space).
    values : frozenset of int
        Those that have a stroke in the window; of the others it knows nothing.
    """

    probabilities: NDArray[np.float32]
    values: frozenset[int]


def walk(
    windows: Sequence[Window],
    forest: Sequence[NDArray[np.float32]],
    enough: Callable[[], bool] = lambda: False,
) -> list[Walked]:
    """Walk from the training strokes of every window.

    Parameters
    ----------
    windows : sequence of Window
        Those with the most paint first.
    forest : sequence of ndarray of float32
        What trees say of the first windows, (classes + 1, *space): half of the prior.
    enough : callable
        Asked before every window but the first; from there on it walks in none.

    Returns
    -------
    list of Walked
        As many as of the forest; without values where there was no time, the strokes show fewer
        than two of them or leave nothing unpainted, or lie further apart than it can walk.
    """
    answers: list[Walked] = []
    for window, trees in zip(windows, forest, strict=False):
        tired = bool(answers) and enough()
        nothing = Walked(np.zeros(trees.shape, np.float32), frozenset())
        answers.append(nothing if tired else _walked(window, trees) or nothing)
    return answers


def _walked(window: Window, trees: NDArray[np.float32]) -> Walked | None:
    inside = (window.sides == TRAINING) & (window.labels != UNLABELLED)
    values = [int(v) for v in np.unique(window.labels[inside])]
    box = _box(inside) if len(values) > 1 else None
    if box is None or inside[box].all():
        return None
    probabilities = np.zeros(trees.shape, np.float32)
    seeds = np.where(inside, window.labels, UNLABELLED)[box].ravel()
    prior = (1.0 - BACKGROUND) * trees[(slice(None), *box)]
    prior[0] += BACKGROUND
    found = _solved(window.image[(slice(None), *box)], seeds, prior[values])
    around = [(b.start, n - b.stop) for b, n in zip(box, window.space, strict=True)]
    for value, one in zip(values, found, strict=True):
        probabilities[value] = np.pad(one, around, mode="edge")
    return Walked(probabilities, frozenset(values))


def _solved(
    image: NDArray[np.float32], seeds: NDArray[Any], prior: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the probabilities of the values that are painted, as `prior`, (values, *space)."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import cg

    weights = _weights(image)
    free = seeds == UNLABELLED
    rows = weights[free]
    degrees = rows.sum(axis=1) + TIRED
    system = diags_array(degrees) - rows[:, free]
    to_seeds, quick = rows[:, ~free], diags_array(1.0 / degrees)
    found = np.zeros((len(prior), seeds.size), np.float32)
    for one, guess, value in zip(found, prior, np.unique(seeds[~free]), strict=True):
        painted, start = seeds[~free] == value, guess.ravel()[free].astype(np.float64)
        side = to_seeds @ painted.astype(np.float64) + TIRED * start
        answer, _ = cg(system, side, start, rtol=TOLERANCE, maxiter=ROUNDS, M=quick)
        one[free] = np.maximum(answer, 0.0)
        one[~free] = painted
    # Solved one by one and not to the end, they do not quite add up.
    found /= np.maximum(found.sum(axis=0), 1e-6)
    return found.reshape(prior.shape)


def _weights(image: NDArray[np.float32]) -> Any:
    """Return how well neighbouring voxels are joined, (voxels, voxels), sparse."""
    from scipy.sparse import coo_array

    space = image.shape[1:]
    spread = image.std(axis=tuple(range(1, image.ndim)), keepdims=True)
    scaled = image / np.maximum(spread, 1e-6)
    numbers = np.arange(scaled[0].size).reshape(space)
    pairs, steps = [], []
    for axis in range(len(space)):
        here = np.take(numbers, range(space[axis] - 1), axis).ravel()
        there = np.take(numbers, range(1, space[axis]), axis).ravel()
        pairs.append((here, there))
        steps.append((np.diff(scaled, axis=axis + 1) ** 2).mean(axis=0, dtype=np.float64).ravel())
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    distances = np.concatenate(steps)
    usual = float(np.median(distances)) if distances.size else 0.0
    weights = np.exp(-min(BETA, USUAL / max(usual, 1e-9)) * distances) + LEAST
    half = coo_array((weights, (rows, columns)), (numbers.size,) * 2).tocsr()
    return half + half.T


def _box(painted: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Return a box around what is painted that is small enough to walk in."""
    where = np.argwhere(painted)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    for margin in MARGINS:
        box = tuple(
            slice(max(int(a) - margin, 0), min(int(b) + margin, n))
            for a, b, n in zip(low, high, painted.shape, strict=True)
        )
        if np.prod([b.stop - b.start for b in box]) <= VOXELS:
            return box
    return None
