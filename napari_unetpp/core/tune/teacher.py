"""What the unpainted rest is taught: soft targets from a forest, a random walker, or the base.

A few strokes alone overfit a network within seconds. Every class has the teacher that is right
on its held-out strokes, so what the base knows well stays. Knows windows and arrays; no loop and
no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.scoring import decide
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING
from napari_unetpp.core.tune.walker import Walked

PUPILS = ("forest", "walker")
"""Teachers that know nothing but the strokes."""

KNOWN = 0.5
"""IoU on strokes from which the base is believed where nothing is held out. A base that has less
for every class is strange to the image, and where the others are no better on the held-out strokes,
nobody is fit to teach: taught by the base the rest of an EM section fell from IoU 0.58 to 0.06, by
trees it came to 0.81 or to 0.00, as five strokes fell."""
AHEAD = 0.1
"""A teacher that learned the strokes must be so much better than the base on those held out. They
lie where a person thinks of painting: what a forest, which knows no shapes, finds beside an organ
they hardly show (larynx in CT: 0.93 for 0.89 on the strokes, IoU 0.06 for 0.55 on the rest)."""
WHOLE = 0.3
"""For the same reason a forest must be so much better than a walker, which keeps to pieces. Where
things are many, it is: a walker finds those alone that are painted on."""
CREDIBLE = 0.25
"""Held-out IoU below which forest and walker teach nothing but noise, if there is another."""


@dataclass(frozen=True, eq=False)
class Teaching:
    """What is taught, window by window.

    Attributes
    ----------
    maps : list of ndarray of float32
        The network's channels, (channels, *space).
    sure : list of ndarray of float32
        Weight of each, in [0, 1]; 0 where nobody knows.
    by_class : tuple of str
        ``"forest"``, ``"walker"``, ``"base"`` or ``"none"`` for each class.
    scores : dict of str to float or None
        Mean IoU of each teacher on held-out strokes of the classes.
    doubtful : bool
        Nobody is right on the strokes, and what learned them teaches all the same.
    """

    maps: list[NDArray[np.float32]]
    sure: list[NDArray[np.float32]]
    by_class: tuple[str, ...]
    scores: dict[str, float | None]
    doubtful: bool = False

    @property
    def name(self) -> str:
        """Names that are in `by_class` joined by "and", as ``"forest and base"``; or ``"none"``."""
        return " and ".join(n for n in (*PUPILS, "base") if n in self.by_class) or "none"


def class_scores(
    maps: Sequence[NDArray[np.float32]], windows: Sequence[Window], card: ModelCard, side: int
) -> dict[int, float]:
    """Return the IoU of each class on the strokes of one side; classes with none are left out.

    Parameters
    ----------
    maps : sequence of ndarray
        Channels of each window.
    windows : sequence of Window
        The windows.
    card : ModelCard
        Decides what a map stands for.
    side : int
        `HELD_OUT` or `TRAINING`.
    """
    count = len(card.classes)
    overlap, union, truth = np.zeros((3, count), np.int64)
    for window, channels in zip(windows, maps, strict=False):
        inside = (window.sides == side) & (window.labels != UNLABELLED)
        answer, labels = decide(channels[:, inside], card), window.labels[inside]
        for k in range(count):
            ours, theirs = answer == k + 1, labels == k + 1
            overlap[k] += (ours & theirs).sum()
            union[k] += (ours | theirs).sum()
            truth[k] += theirs.sum()
    return {k: float(overlap[k] / union[k]) for k in range(count) if truth[k]}


def choose(
    base: Sequence[NDArray[np.float32]] | None,
    forest: Sequence[NDArray[np.float32]] | None,
    windows: Sequence[Window],
    card: ModelCard,
    known: int,
    walker: Sequence[Walked] | None = None,
) -> Teaching:
    """Give every class its teacher: the one that held-out strokes favour.

    Parameters
    ----------
    base : sequence of ndarray of float32, optional
        What the base says of each window, (channels, *space).
    forest : sequence of ndarray of float32, optional
        What a forest says of the first windows, (classes + 1, *space).
    windows : sequence of Window
        With strokes.
    card : ModelCard
        Classes and channels.
    known : int
        So many classes, the first ones, are the base's.
    walker : sequence of Walked, optional
        What a random walker says of the first windows.
    """
    count = len(card.classes)
    answers: dict[str, list[_Answer]] = {}
    if base:
        answers["base"] = [_Answer(maps) for maps in base]
    if forest:
        answers["forest"] = [_Answer(as_channels(maps, card)) for maps in forest]
    if walker:
        answers["walker"] = [
            _Answer(as_channels(one.probabilities, card), one.values) for one in walker
        ]
    # Asked are those windows alone that all have had the time to answer.
    asked = windows[: min((len(rows) for rows in answers.values()), default=0)]
    held = {
        name: class_scores([one.channels for one in rows], asked, card, HELD_OUT)
        for name, rows in answers.items()
    }
    painted = {
        name: {v - 1 for w, one in zip(windows, rows, strict=False) for v in one.values & _shown(w)}
        for name, rows in answers.items()
    }
    own = {} if base is None else class_scores(base, windows, card, TRAINING)
    # Competing channels have one teacher, which must know all of them.
    judged = {*own, *held.get("base", {})} if card.network.activation == "sigmoid" else range(known)
    at_home = known < count or _at_home(judged, own, held.get("base", {}))

    def pupil(k: int) -> str:
        """Return who of those that learned the strokes knows a class best, or "none"."""
        can = [name for name in PUPILS if k in painted.get(name, ())]
        if len(can) < 2:
            return can[0] if can else "none"
        scores = {name: held[name].get(k, 0.0) for name in can}
        return "walker" if scores["walker"] > scores["forest"] - WHOLE else "forest"

    pupils = [pupil(k) for k in range(count)]
    better = {
        k: held[pupils[k]][k] > max(score + AHEAD, CREDIBLE)
        for k, score in held.get("base", {}).items()
        if pupils[k] != "none"
    }
    doubtful = bool(better) and not at_home and not any(better.values())

    def teacher(k: int) -> str:
        if base is None or k >= known:
            return pupils[k]
        if pupils[k] == "none":
            return "base"
        if k in better:
            return pupils[k] if better[k] or doubtful else "base"
        # The others are always right on their own strokes, so the base alone is asked.
        return "base" if own.get(k, 1.0) >= KNOWN else pupils[k]

    by_class = tuple(teacher(k) for k in range(count))
    if card.network.activation == "softmax" and len(set(by_class)) > 1:
        # Its channels stand or fall together.
        by_class = (next((n for n in by_class if n in PUPILS), "base"),) * count
    scores = {n: float(np.mean([*row.values()])) if row else None for n, row in held.items()}
    maps, sure = [], []
    for number, window in enumerate(windows):
        rows = {n: r[number] for n, r in answers.items() if number < len(r)}
        one = _blend(rows, by_class, card, window.space)
        maps.append(one[0])
        sure.append(one[1])
    return Teaching(maps, sure, by_class, scores, doubtful)


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a teacher says of a window: (channels, *space), and of which values it may speak."""

    channels: NDArray[np.float32]
    values: frozenset[int] = frozenset(range(UNLABELLED))


def _shown(window: Window) -> frozenset[int]:
    """Return the values that have a training stroke in a window."""
    return frozenset(int(v) for v in np.unique(window.labels[window.sides == TRAINING]))


def _at_home(classes: Iterable[int], *scores: Mapping[int, float]) -> bool:
    """Return whether a base knows such an image: it is right about one of the classes.

    One that nobody asked about it may be right about.
    """
    said = ([row[k] for row in scores if k in row] for k in classes)
    return any(max(found, default=1.0) >= KNOWN for found in said)


def _blend(
    rows: Mapping[str, _Answer],
    by_class: Sequence[str],
    card: ModelCard,
    space: tuple[int, ...],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take each class from its teacher; (channels, *space) twice, the second is the weight."""
    shape = (card.network.out_channels, *space)
    maps, sure = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    weights = {name: confidence(one.channels, card) for name, one in rows.items()}
    if card.network.activation == "softmax":
        one = rows.get(by_class[0])
        if one is not None and {*range(len(card.classes) + 1)} <= one.values:
            maps[:], sure[:] = one.channels, weights[by_class[0]]
        return maps, sure
    # Auxiliary channels go with the first class.
    values = [*range(1, len(by_class) + 1), *(1,) * len(card.auxiliary)]
    for k, value in enumerate(values):
        name = by_class[value - 1]
        if name in rows and value in rows[name].values:
            maps[k], sure[k] = rows[name].channels[k], weights[name][k]
    return maps, sure


def as_channels(
    probabilities: NDArray[np.float32], card: ModelCard, centres: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Turn background-and-class probabilities into the network's channels.

    Parameters
    ----------
    probabilities : ndarray of float32
        (classes + 1, *space).
    card : ModelCard
        Activation, classes and auxiliary channels.
    centres : ndarray of float32, optional
        (A, *space), the auxiliary channels; made from the probabilities if None.

    Returns
    -------
    ndarray of float32
        (channels, *space).
    """
    if card.network.activation == "softmax":
        return probabilities
    classes = probabilities[1:]
    if not card.auxiliary:
        return classes
    if centres is None:
        objects, _ = ndimage.label(classes.max(axis=0) > card.threshold)
        centres = np.stack([centre_target(objects, card.spacing)] * len(card.auxiliary))
    return np.concatenate([classes, centres]).astype(np.float32)


def confidence(channels: NDArray[np.float32], card: ModelCard) -> NDArray[np.float32]:
    """Return how sure a teacher is, in [0, 1], for each channel; (channels, *space)."""
    if card.network.activation == "softmax":
        first, second = np.partition(channels, -2, axis=0)[[-1, -2]]
        sure: NDArray[np.float32] = np.broadcast_to(first - second, channels.shape)
        return sure
    sure = np.abs(2.0 * channels - 1.0)
    if card.auxiliary:
        # A distance map is no probability: it is as sure as the classes are.
        sure = sure.copy()
        sure[-len(card.auxiliary) :] = sure[card.class_channels].min(axis=0)
    return sure
