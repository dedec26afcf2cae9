"""Whether a state still says what the base said of the classes that the base teaches.

Knows networks and windows; no strokes and no loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.scoring import head_probabilities

WINDOWS = 2
"""Windows that are looked at, those in which the base finds the most."""

SIDE = {2: 512, 3: 72}
"""What is looked at of a window along each axis, around what the base finds."""

LEAST = 0.9
"""Dice with the base's answer below which a state has forgotten."""


class Retention:
    """What the base answers, and how well a state agrees.

    Parameters
    ----------
    windows : sequence of Window
        Any of them.
    base : sequence of ndarray of float32
        What the base says of each, (channels, *space).
    network : NestedUNet
        The base, to hear what it says of the parts that are looked at.
    by_class : sequence of str
        Teacher of each class; those of ``"base"`` are to be kept.
    card : ModelCard
        Classes and threshold.
    precision : {"float32", "bfloat16"}
        As in training.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        base: Sequence[NDArray[np.float32]],
        network: NestedUNet,
        by_class: Sequence[str],
        card: ModelCard,
        precision: str,
    ) -> None:
        self._card, self._precision = card, precision
        self._kept = [k for k, name in enumerate(by_class) if name == "base"]
        answers = [self._decide(maps) for maps in base]
        order = np.argsort([-int(answer.sum()) for answer in answers], kind="stable")
        self._rows: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
        for k in order[:WINDOWS]:
            if not answers[k].any():
                continue
            image = windows[k].image[(slice(None), *_around(answers[k]))]
            # As a state is asked: the mean of its heads, with as much around it.
            self._rows.append((image, self._answer(network, image)))

    def _answer(self, network: NestedUNet, image: NDArray[np.float32]) -> NDArray[np.bool_]:
        heads = head_probabilities(network, image, self._precision)
        return self._decide(np.mean(list(heads.values()), axis=0))

    def _decide(self, channels: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return where each kept class is, (kept, *space)."""
        classes = channels[self._card.class_channels]
        return np.asarray(classes[self._kept] > self._card.threshold)

    def share(self, network: NestedUNet) -> float:
        """Return the Dice of a state with the base, of the kept class that has the least.

        1 if none is kept. A small organ must not go under in the mean of large ones.

        Parameters
        ----------
        network : NestedUNet
            A state; its answer is the mean of its heads, as the base's.
        """
        overlap = np.zeros(len(self._kept))
        total = np.zeros(len(self._kept))
        for image, answer in self._rows:
            own = self._answer(network, image)
            for k in range(len(self._kept)):
                overlap[k] += 2.0 * (own[k] & answer[k]).sum()
                total[k] += own[k].sum() + answer[k].sum()
        found = overlap[total > 0] / total[total > 0]
        return float(found.min()) if found.size else 1.0

    def keeps(self, network: NestedUNet) -> bool:
        """Return whether a state has kept what the base knew."""
        return self.share(network) >= LEAST


def _around(answer: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return a box of at most `SIDE` around the middle of what is found, (kept, *space)."""
    where = np.argwhere(answer.any(axis=0))
    size = SIDE[answer.ndim - 1]
    # Between two far places there is nothing, so the place nearest to the middle.
    nearest = where[np.abs(where - np.median(where, axis=0)).sum(axis=1).argmin()]
    box = []
    for middle, n in zip(nearest, answer.shape[1:], strict=True):
        start = max(min(int(middle) - size // 2, n - size), 0)
        box.append(slice(start, min(start + size, n)))
    return tuple(box)
