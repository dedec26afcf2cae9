"""Simulated strokes: thin lines inside objects and in the background, as a person would paint.

Knows arrays only; no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LENGTH = 60
"""Longest stroke in pixels."""

TRIES = 12
SHARE = 0.01
"""Most of an image that is painted."""


def walk(mask: NDArray[np.bool_], length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw one line inside a plane's mask: go on as straight as the mask allows."""
    places = np.argwhere(mask)
    y, x = (float(v) for v in places[rng.integers(len(places))])
    heading = rng.uniform(0, 2 * np.pi)
    path = [(round(y), round(x))]
    for _ in range(length):
        for turn in (*sorted(rng.normal(0, 0.15, 3), key=abs), 0.5, -0.5, 1.0, -1.0):
            ny, nx = y + np.sin(heading + turn), x + np.cos(heading + turn)
            row, column = round(ny), round(nx)
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if inside and mask[row, column]:
                y, x, heading = ny, nx, heading + turn
                path.append((row, column))
                break
        else:
            break
    return path


def paint(
    truth: NDArray[Any],
    values: Sequence[int],
    count: int,
    seed: int,
    near: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Return painted labels with `count` strokes, dealt over `values` in turn.

    Parameters
    ----------
    truth : ndarray of int, shape (Y, X) or (Z, Y, X)
        Class map. In a volume every stroke lies in one plane.
    values : sequence of int
        Values of the truth that are painted.
    count, seed : int
        Strokes in all, and what they follow from.
    near : ndarray of bool, optional
        Background is painted in here alone.

    Returns
    -------
    ndarray of uint8
        0 unlabelled, k + 1 where value k is painted; at most `SHARE` of it is painted.
    """
    rng = np.random.default_rng(seed)
    volume = truth.reshape((-1, *truth.shape[-2:]))
    around = None if near is None else near.reshape(volume.shape)
    painted = np.zeros(volume.shape, np.uint8)
    length = LENGTH
    for k in range(count):
        value = int(values[k % len(values)])
        mask = (volume == value) & (painted == 0)
        if value == 0 and around is not None:
            mask &= around
        planes = np.flatnonzero(mask.any(axis=(1, 2)))
        if not len(planes):
            continue
        plane = int(rng.choice(planes))
        best: list[tuple[int, int]] = []
        for _ in range(TRIES):  # a person does not paint specks
            best = max(best, walk(mask[plane], length, rng), key=len)
        for y, x in best:
            if (painted > 0).mean() >= SHARE:
                break
            spot = (plane, slice(max(y - 1, 0), y + 1), slice(max(x - 1, 0), x + 1))
            painted[spot] = np.where(volume[spot] == value, value + 1, painted[spot])
    return painted.reshape(truth.shape)
