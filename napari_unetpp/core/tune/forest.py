"""A forest that learned the training strokes, and what it says of the windows.

Extremely randomised trees on features of several scales, and on what the base says. Knows windows
and arrays; no network and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.strokes import TRAINING

TREES, LEAF = 60, 5
"""Extremely randomised trees with large leaves: on ten strokes, a third of them held out, their
IoU on the rest was 0.03 above that of a random forest (EM, 3 seeds and 2 sections)."""

PIXELS_PER_CLASS = 3000
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
