"""What a random walker says around the strokes: pieces of a class, as far as the image is alike.

A walker from a voxel comes to the strokes of one value first, and does not like to cross an edge.
At every step it may also give up, and is then what a prior says (Grady, "Multilabel random walker
image segmentation using prior models", CVPR 2005). An organ is one piece, which trees on features
do not know. Knows windows and arrays; no network and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.strokes import TRAINING

BETA = 100.0
"""How little a walker likes edges: its weight between two voxels is exp(-BETA d^2) or more, where d
is how much they differ in standard deviations of the image."""

USUAL, FLAT = 2.5, 0.9
"""Two neighbours that differ as most do, the median of d^2, are joined by no less than exp(-USUAL):
noise is no edge. In the hippocampus both come to the same. Neighbours both at the lowest or both at
the highest intensity do not count, since what was clipped has no noise, nor does any of it where
those are more than a share FLAT."""

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
"""Voxels around the strokes in which it walks; beyond, its answer is the prior."""

WORK = 2**21
"""Most voxels, times painted values, that it walks in: 1.5 to 1.8 s on two cores. The first of the
margins that fits is taken, around all strokes, else around those of classes."""

TOLERANCE, ROUNDS = 1e-3, 300
"""Of the conjugate gradients."""


def walk(
    windows: Sequence[Window],
    forest: Sequence[NDArray[np.float32]],
    enough: Callable[[], bool] = lambda: False,
) -> tuple[list[NDArray[np.float32]], list[bool]]:
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
    answers : list of ndarray of float32
        Probabilities of background and every class, as those of the forest. Where it did not walk,
        the prior, which calls nothing a class: far from strokes, and in windows without strokes,
        without room or without time.
    walked : list of bool
        For the windows, the first ones, that had their time: whether it walked there.
    """
    answers: list[NDArray[np.float32]] = []
    walked: list[bool] = []
    for window, trees in zip(windows, forest, strict=False):
        answer = (1.0 - BACKGROUND) * trees
        answer[0] += BACKGROUND
        answers.append(answer)
        if len(walked) == len(answers) - 1 and not (walked and enough()):
            walked.append(_walk_in(answer, window))
    return answers, walked


def _walk_in(answer: NDArray[np.float32], window: Window) -> bool:
    """Replace the prior around the strokes, if there are any and there is room."""
    inside = (window.sides == TRAINING) & (window.labels != UNLABELLED)
    box = _box(inside, window.labels)
    if box is None or inside[box].all():
        return False
    seeds = np.where(inside, window.labels, UNLABELLED)[box].ravel()
    place = (slice(None), *box)
    answer[place] = _solved(window.image[place], seeds, answer[place])
    return True


def _solved(
    image: NDArray[np.float32], seeds: NDArray[Any], prior: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the probabilities of all values, as `prior`, (values, *space)."""
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import cg

    weights = _weights(image)
    free = seeds == UNLABELLED
    rows = weights[free]
    degrees = rows.sum(axis=1) + TIRED
    system = diags_array(degrees) - rows[:, free]
    to_seeds, quick = rows[:, ~free], diags_array(1.0 / degrees)
    guesses = prior.reshape(len(prior), -1)
    found = np.zeros_like(guesses)
    painted = [int(value) for value in np.unique(seeds[~free])]
    for value in painted:
        start = guesses[value, free].astype(np.float64)
        side = to_seeds @ (seeds[~free] == value).astype(np.float64) + TIRED * start
        answer, _ = cg(system, side, start, rtol=TOLERANCE, maxiter=ROUNDS, M=quick)
        found[value, free] = np.maximum(answer, 0.0)
        found[value, ~free] = seeds[~free] == value
    # All that comes to no stroke of these has given up, and is what the prior says of the others.
    others = [value for value in range(len(prior)) if value not in painted]
    left = np.maximum(1.0 - found.sum(axis=0), 0.0) * free
    share = guesses[others] / np.maximum(guesses[others].sum(axis=0), 1e-6)
    found[others] = left * share
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
    ends = ((scaled == scaled.min()).all(axis=0), (scaled == scaled.max()).all(axis=0))
    pairs, steps, clipped = [], [], []
    for axis in range(len(space)):
        here, there = range(space[axis] - 1), range(1, space[axis])
        pairs.append([np.take(numbers, side, axis).ravel() for side in (here, there)])
        steps.append((np.diff(scaled, axis=axis + 1) ** 2).mean(axis=0, dtype=np.float64).ravel())
        both = [np.take(end, here, axis) & np.take(end, there, axis) for end in ends]
        clipped.append((both[0] | both[1]).ravel())
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    distances, flat = np.concatenate(steps), np.concatenate(clipped)
    noisy = flat.size > 0 and flat.mean() <= FLAT
    usual = float(np.median(distances[~flat])) if noisy else 0.0
    weights = np.exp(-min(BETA, USUAL / max(usual, 1e-9)) * distances) + LEAST
    half = coo_array((weights, (rows, columns)), (numbers.size,) * 2).tocsr()
    return half + half.T


def _box(painted: NDArray[np.bool_], labels: NDArray[np.uint8]) -> tuple[slice, ...] | None:
    """Return a box around strokes that is small enough to walk in; around all of them if it is."""
    values = len(np.unique(labels[painted]))
    for strokes in (painted, painted & (labels > 0)):
        where = np.argwhere(strokes)
        if not len(where):
            return None
        low, high = where.min(axis=0), where.max(axis=0) + 1
        for margin in MARGINS:
            box = tuple(
                slice(max(int(a) - margin, 0), min(int(b) + margin, n))
                for a, b, n in zip(low, high, painted.shape, strict=True)
            )
            if np.prod([b.stop - b.start for b in box]) * values <= WORK:
                return box
    return None
