"""What the unpainted rest is taught: soft targets from a forest, or from the base itself.

A few strokes alone overfit a network within seconds. The teacher is the one that is right
on the held-out strokes. Knows windows and arrays; no loop and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.scoring import Counts, decide
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING

TREES = 60
PIXELS_PER_CLASS = 3000
SIGMAS = {2: 16.0, 3: 4.0}
"""Coarsest scale of the features, in pixels or voxels."""


def features(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return intensity, edges and texture on several scales, (*space, F).

    Parameters
    ----------
    image : ndarray of float32
        (C, *space), normalised.
    """
    from skimage.feature import multiscale_basic_features

    found = multiscale_basic_features(  # type: ignore[no-untyped-call]
        image,
        sigma_min=1.0,
        sigma_max=SIGMAS[image.ndim - 1],
        channel_axis=0,
    )
    return np.asarray(found, np.float32)


@dataclass(frozen=True)
class Forest:
    """A random forest on multi-scale features, learned from strokes.

    Attributes
    ----------
    model : object
        scikit-learn's classifier.
    values : tuple of int
        Class map values that it tells apart: 0 background, k classes.
    """

    model: Any
    values: tuple[int, ...]

    def probabilities(self, image_features: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        """Return the probability of background and every class, (count + 1, *space)."""
        space = image_features.shape[:-1]
        flat = self.model.predict_proba(image_features.reshape(-1, image_features.shape[-1]))
        found = np.zeros((count + 1, *space), np.float32)
        for k, value in enumerate(self.values):
            found[value] = flat[:, k].reshape(space)
        return found


def fit_forest(
    samples: Sequence[tuple[NDArray[np.float32], Window]], seed: int = 0
) -> Forest | None:
    """Learn a forest from the training strokes.

    Parameters
    ----------
    samples : sequence of (ndarray, Window)
        Features and the window that they are of.
    seed : int
        Of the trees.

    Returns
    -------
    Forest or None
        None where the strokes show fewer than two values.
    """
    from sklearn.ensemble import RandomForestClassifier

    rows, truth = [], []
    for image_features, window in samples:
        inside = (window.sides == TRAINING) & (window.labels != UNLABELLED)
        rows.append(image_features[inside])
        truth.append(window.labels[inside])
    if not rows:
        return None
    x, y = np.concatenate(rows), np.concatenate(truth)
    rng = np.random.default_rng(seed)
    chosen = []
    for value in np.unique(y):
        of_class = np.flatnonzero(y == value)
        chosen.append(rng.permutation(of_class)[:PIXELS_PER_CLASS])
    if len(chosen) < 2:
        return None
    keep = np.sort(np.concatenate(chosen))
    model = RandomForestClassifier(
        n_estimators=TREES, min_samples_leaf=2, max_features="sqrt", n_jobs=1, random_state=seed
    )
    model.fit(x[keep], y[keep])
    return Forest(model, tuple(int(v) for v in model.classes_))


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


def score_maps(
    maps: Sequence[NDArray[np.float32]],
    taught: Sequence[Window],
    card: ModelCard,
    side: int = HELD_OUT,
) -> float | None:
    """Return a teacher's score on the strokes of one side; None where there are none.

    Parameters
    ----------
    maps : sequence of ndarray
        Channels of each window.
    taught : sequence of Window
        The windows.
    card : ModelCard
        Decides what a map stands for.
    side : int
        `HELD_OUT` or `TRAINING`.
    """
    counts = Counts(len(card.classes))
    for channels, window in zip(maps, taught, strict=True):
        counts.add(decide(channels, card), window, side)
    return counts.score()
