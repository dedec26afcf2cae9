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
things are many, it is: a walker finds those alone that are painted on (two EM sections, held-out
strokes: 0.24 and 0.30 for the trees' 0.70 and 0.89)."""
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
    walked : bool
        A walker teaches every class, and it walked wherever there are training strokes.
    """

    maps: list[NDArray[np.float32]]
    sure: list[NDArray[np.float32]]
    by_class: tuple[str, ...]
    scores: dict[str, float | None]
    doubtful: bool = False
    walked: bool = False

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
    walker: tuple[Sequence[NDArray[np.float32]], Sequence[bool]] | None = None,
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
    walker : tuple of sequence of ndarray of float32 and sequence of bool, optional
        What a random walker says of the first windows, as the forest; where it walked.
    """
    count = len(card.classes)
    answers: dict[str, list[NDArray[np.float32]]] = {}
    if base:
        answers["base"] = [*base]
    if forest:
        answers["forest"] = [as_channels(one, card) for one in forest]
    walked: Sequence[bool] = ()
    if walker is not None and any(walker[1]):
        answers["walker"] = [as_channels(one, card) for one in walker[0]]
        walked = walker[1]
    judges = _Judges(answers, windows, card, walked)
    own = {} if base is None else class_scores(base, windows, card, TRAINING)
    asked_of = judges.held("base", judges.reach("base", "forest"))
    # Competing channels have one teacher, which must know all of them.
    judged = {*own, *asked_of} if card.network.activation == "sigmoid" else range(known)
    at_home = known < count or _at_home(judged, own, asked_of)
    pupils = [judges.pupils(k) for k in range(count)]
    better = {k: [n for n in pupils[k] if judges.passes(n, k)] for k in asked_of if pupils[k]}
    doubtful = bool(better) and not at_home and not any(better.values())

    def teacher(k: int) -> str:
        first = pupils[k][0] if pupils[k] else "none"
        if base is None or k >= known:
            return first
        if first == "none":
            return "base"
        if k in better:
            return better[k][0] if better[k] else first if doubtful else "base"
        # The others are always right on their own strokes, so the base alone is asked.
        return "base" if own.get(k, 1.0) >= KNOWN else first

    by_class = tuple(teacher(k) for k in range(count))
    if card.network.activation == "softmax" and len(set(by_class)) > 1:
        # Its channels stand or fall together: with one that knows every class that is painted.
        able = [name for name in judges.order() if all(name in row for row in pupils if row)]
        learned = able and any(name in PUPILS for name in by_class)
        by_class = (able[0] if learned else "base",) * count
    told = {name: judges.held(name, judges.reach(*answers)) for name in answers}
    scores = {n: float(np.mean([*row.values()])) if row else None for n, row in told.items()}
    maps, sure = [], []
    for number, window in enumerate(windows):
        rows = {n: found[number] for n, found in answers.items() if number < len(found)}
        one = _blend(rows, by_class, card, window.space)
        maps.append(one[0])
        sure.append(one[1])
    whole = set(by_class) == {"walker"} and judges.everywhere
    return Teaching(maps, sure, by_class, scores, doubtful, whole)


class _Judges:
    """Held-out strokes, and what the candidates say of them: (channels, *space) by window."""

    def __init__(
        self,
        answers: Mapping[str, Sequence[NDArray[np.float32]]],
        windows: Sequence[Window],
        card: ModelCard,
        walked: Sequence[bool],
    ) -> None:
        self._answers, self._windows, self._card = answers, windows, card
        self._limits = {"walker": len(walked)}
        shown = [{*np.unique(w.labels[w.sides == TRAINING]).tolist()} for w in windows]
        learned = len(answers.get("forest", ()))
        there = [*walked, *[False] * (len(shown) - len(walked))]
        known = [row for row, yes in zip(shown, there, strict=True) if yes]
        self.everywhere = all(yes or not row for row, yes in zip(shown, there, strict=True))
        # A walker knows the classes alone that have a stroke where it walked.
        self._painted = {"forest": set().union(*shown[:learned]), "walker": set().union(*known)}
        self._known: dict[tuple[str, int], dict[int, float]] = {}

    def reach(self, *names: str) -> int:
        """Return for how many windows, the first ones, all of these have had their time."""
        there = [self._limits.get(n, len(self._answers[n])) for n in names if n in self._answers]
        return min(there, default=0)

    def held(self, name: str, count: int) -> dict[int, float]:
        """Return the IoU of each class on the held-out strokes of the first windows."""
        if name not in self._answers:
            return {}
        if (name, count) not in self._known:
            rows = self._answers[name][:count]
            found = class_scores(rows, self._windows[:count], self._card, HELD_OUT)
            self._known[name, count] = found
        return self._known[name, count]

    def pupils(self, k: int) -> list[str]:
        """Return who learned strokes of a class, who is to be believed first."""
        return [n for n in self.order(k) if n in self._answers and k + 1 in self._painted[n]]

    def order(self, k: int | None = None) -> tuple[str, str]:
        """Return who is to be believed first of a class, or of all of them together."""
        reach = self.reach(*PUPILS)
        trees, walk = (self.held(name, reach) for name in ("forest", "walker"))
        if not trees or not walk:
            return ("walker", "forest")
        # Of what is not held out one is as good as of the others.
        asked = [k] if k in trees else [*trees]
        ours, theirs = (float(np.mean([row[j] for j in asked])) for row in (walk, trees))
        whole = ours > theirs - WHOLE and not ours < CREDIBLE <= theirs
        return ("walker", "forest") if whole else ("forest", "walker")

    def passes(self, name: str, k: int) -> bool:
        """Return whether one that learned the strokes is clearly better than the base."""
        reach = self.reach(name, "base")
        own, base = (self.held(n, reach).get(k) for n in (name, "base"))
        return own is not None and base is not None and own > max(base + AHEAD, CREDIBLE)


def _at_home(classes: Iterable[int], *scores: Mapping[int, float]) -> bool:
    """Return whether a base knows such an image: it is right about one of the classes.

    One that nobody asked about it may be right about.
    """
    said = ([row[k] for row in scores if k in row] for k in classes)
    return any(max(found, default=1.0) >= KNOWN for found in said)


def _blend(
    rows: Mapping[str, NDArray[np.float32]],
    by_class: Sequence[str],
    card: ModelCard,
    space: tuple[int, ...],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take each class from its teacher; (channels, *space) twice, the second is the weight."""
    shape = (card.network.out_channels, *space)
    maps, sure = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    weights = {name: confidence(channels, card) for name, channels in rows.items()}
    if card.network.activation == "softmax":
        if by_class[0] in rows:
            maps[:], sure[:] = rows[by_class[0]], weights[by_class[0]]
        return maps, sure
    # Auxiliary channels go with the first class.
    extra = (by_class[0],) * len(card.auxiliary)
    for k, name in enumerate((*by_class, *extra)):
        if name in rows:
            maps[k], sure[k] = rows[name][k], weights[name][k]
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
