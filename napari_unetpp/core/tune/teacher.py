"""What the unpainted rest is taught: soft targets from a forest, or from the base itself.

A few strokes alone overfit a network within seconds. Every class has the teacher that is right
on its held-out strokes, so what the base knows well stays. Knows windows and arrays; no loop and
no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.scoring import decide
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING

TREES, LEAF = 60, 5
"""Extremely randomised trees with large leaves: on ten strokes, a third of them held out, their
IoU on the rest was 0.03 above that of a random forest (EM, 3 seeds and 2 sections)."""

PIXELS_PER_CLASS = 3000
KNOWN = 0.5
"""IoU on strokes from which the base is believed where nothing is held out. A base that has less
for every class is strange to the image, and where trees are no better on the held-out strokes,
nobody is fit to teach: taught by the base the rest of an EM section fell from IoU 0.58 to 0.06, by
trees it came to 0.81 or to 0.00, as five strokes fell."""
AHEAD = 0.1
"""A forest must be so much better than the base on held-out strokes. They lie where a person thinks
of painting: what a forest, which knows no shapes, finds beside an organ they hardly show (larynx in
CT: 0.93 for 0.89 on the strokes, IoU 0.06 for 0.55 on the rest)."""
CREDIBLE = 0.25
"""Held-out IoU below which a forest teaches nothing but noise, if there is a base."""
SIGMAS = {2: 16.0, 3: 16.0}
"""Coarsest scale of the features, in pixels or voxels."""
TEXTURED = 2**19
"""Voxels up to which a volume's features have texture (curvature): it takes nine tenths of their
time, 8 s for two million voxels on two cores, and brings an IoU of 0.02 to 0.04."""


def features(image: NDArray[np.float32], *, texture: bool = True) -> NDArray[np.float32]:
    """Return intensity, edges and texture on several scales, (*space, F).

    Parameters
    ----------
    image : ndarray of float32
        (C, *space), normalised.
    texture : bool, optional
        With the eigenvalues of the Hessian.
    """
    from skimage.feature import multiscale_basic_features

    found = multiscale_basic_features(  # type: ignore[no-untyped-call]
        image,
        sigma_min=1.0,
        sigma_max=SIGMAS[image.ndim - 1],
        channel_axis=0,
        texture=texture,
    )
    return np.asarray(found, np.float32)


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
        ``"forest"``, ``"base"`` or ``"none"`` for each class.
    scores : dict of str to float or None
        Mean IoU of each teacher on held-out strokes of the classes.
    doubtful : bool
        Neither base nor forest is right on the strokes, and the forest teaches all the same.
    """

    maps: list[NDArray[np.float32]]
    sure: list[NDArray[np.float32]]
    by_class: tuple[str, ...]
    scores: dict[str, float | None]
    doubtful: bool = False

    @property
    def name(self) -> str:
        """``"forest"``, ``"base"``, ``"forest and base"`` or ``"none"``."""
        return " and ".join(n for n in ("forest", "base") if n in self.by_class) or "none"


def fit_forest(
    windows: Sequence[Window],
    heads: Sequence[NDArray[np.float32]] | None,
    card: ModelCard,
    seed: int = 0,
    enough: Callable[[], bool] = lambda: False,
) -> list[NDArray[np.float32]] | None:
    """Learn the training strokes and answer for every window.

    Parameters
    ----------
    windows : sequence of Window
        Those with the most paint first.
    heads : sequence of ndarray of float32, optional
        What the base says of each, (K, *space): more features.
    card : ModelCard
        Classes.
    seed : int
        Of the trees.
    enough : callable
        Asked before a window's features are made; from there on windows get no answer.

    Returns
    -------
    list of ndarray of float32, or None
        Probabilities of background and every class, (classes + 1, *space), for the first
        windows; None where the strokes show fewer than two values.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    texture = windows[0].labels.ndim == 2 or sum(w.labels.size for w in windows) <= TEXTURED
    sets: list[NDArray[np.float32]] = []
    for number, window in enumerate(windows):
        if number and enough():
            break
        found = features(window.image, texture=texture)
        if heads is not None:
            found = np.concatenate([found, np.moveaxis(heads[number], 0, -1)], axis=-1)
        sets.append(found)
    inside = [(w.sides == TRAINING) & (w.labels != UNLABELLED) for w in windows[: len(sets)]]
    x = np.concatenate([one[where] for one, where in zip(sets, inside, strict=True)])
    y = np.concatenate([w.labels[where] for w, where in zip(windows, inside, strict=False)])
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(y == v))[:PIXELS_PER_CLASS] for v in np.unique(y)]
    if len(chosen) < 2:
        return None
    keep = np.sort(np.concatenate(chosen))
    model: Any = ExtraTreesClassifier(
        TREES, min_samples_leaf=LEAF, class_weight="balanced", n_jobs=1, random_state=seed
    )
    model.fit(x[keep], y[keep])
    answers = []
    for one in sets:
        flat = model.predict_proba(one.reshape(-1, one.shape[-1]))
        answer = np.zeros((len(card.classes) + 1, *one.shape[:-1]), np.float32)
        for k, value in enumerate(model.classes_):
            answer[int(value)] = flat[:, k].reshape(one.shape[:-1])
        answers.append(answer)
    return answers


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
    """
    count = len(card.classes)
    # Asked are those windows alone that both have answered.
    seen = [m for m in (base, forest) if m is not None]
    asked = windows[: min((len(m) for m in seen), default=0)]
    learned = windows if forest is None else windows[: len(forest)]
    painted = {int(v) - 1 for w in learned for v in np.unique(w.labels[w.sides == TRAINING])}
    channels = None if forest is None else [as_channels(one, card) for one in forest]
    candidates = {
        name: maps for name, maps in (("base", base), ("forest", channels)) if maps is not None
    }
    held = {n: class_scores(m, asked, card, HELD_OUT) for n, m in candidates.items()}
    own = class_scores(base, windows, card, TRAINING) if base is not None else {}

    asked_of = held.get("base", {})
    # Competing channels have one teacher, which must know all of them.
    judged = {*own, *asked_of} if card.network.activation == "sigmoid" else {*range(known)}
    at_home = known < count or any(
        max(own.get(k, 0.0), asked_of.get(k, 0.0)) >= KNOWN or (k not in own and k not in asked_of)
        for k in judged
    )
    better = {
        k: held["forest"][k] > max(score + AHEAD, CREDIBLE)
        for k, score in asked_of.items()
        if "forest" in held
    }
    doubtful = bool(better) and not at_home and not any(better.values())

    def teacher(k: int) -> str:
        can_base = base is not None and k < known
        can_forest = forest is not None and k in painted
        if not can_base or not can_forest:
            return "base" if can_base else "forest" if can_forest else "none"
        if k in better:
            return "forest" if better[k] or doubtful else "base"
        # A forest is always right on its own strokes, so the base alone is asked.
        return "base" if own.get(k, 1.0) >= KNOWN else "forest"

    by_class = tuple(teacher(k) for k in range(count))
    if card.network.activation == "softmax" and len(set(by_class)) > 1:
        # Its channels stand or fall together.
        by_class = ("forest" if "forest" in by_class else "base",) * count
    scores = {n: float(np.mean([*row.values()])) if row else None for n, row in held.items()}
    maps, sure = [], []
    for number, window in enumerate(windows):
        rows = {n: m[number] for n, m in candidates.items() if number < len(m)}
        one = _blend(rows, by_class, card, window.space)
        maps.append(one[0])
        sure.append(one[1])
    return Teaching(maps, sure, by_class, scores, doubtful)


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
