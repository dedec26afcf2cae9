"""From files to training samples: normalised, on the model's grid, cached on disk.

Every image becomes a `Sample` whose arrays are memory-mapped ``.npy`` files in a cache
folder, so a training set larger than the memory is no trouble. Knows files through
`core.data.io` and no network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.preprocess import Normaliser, sample_of
from napari_unetpp.core.data.sampling import Sample
from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Event, Note

LabelKind = Literal["instances", "classes"]


@dataclass(frozen=True)
class LabelRule:
    """How label values are meant.

    Attributes
    ----------
    kind : {"instances", "classes"}
        ``instances``: every value is an object of the card's one class. ``classes``: value k
        is the card's k-th class.
    dense : bool
        True: 0 is background. False, as everywhere for paint: 0 is unlabelled, 1 is
        background, and objects or classes begin at 2.
    """

    kind: LabelKind = "classes"
    dense: bool = False


def class_map(
    labels: NDArray[Any], rule: LabelRule, card: ModelCard, name: str
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Turn label values into a class map and object ids.

    Parameters
    ----------
    labels : ndarray of int
        (*space), as in the file.
    rule : LabelRule
        How they are meant.
    card : ModelCard
        The classes.
    name : str
        The file's name, for messages.

    Returns
    -------
    classes : ndarray of uint8
        (*space): 0 background, k class, 255 unlabelled.
    objects : ndarray of int
        (*space): object ids, 0 elsewhere.

    Raises
    ------
    InputError
        If a value is negative or beyond the card's classes, or nothing is labelled.
    """
    labels = np.asarray(labels)
    first = 0 if rule.dense else 1
    if labels.size and labels.min() < 0:
        raise InputError(f"labels must be 0 or more, got {labels.min()} in {name}; mend the file.")
    top = int(labels.max(initial=0))
    count = len(card.classes)
    if rule.kind == "classes" and top - first > count:
        names = ", ".join(c.name for c in card.classes)
        raise InputError(
            f"{name} has label {top}, expected at most {count + first} ({names}); "
            "name every class, or say that these are objects with --labels-are instances."
        )
    objects = np.where(labels > first, labels - first, 0)
    classes = np.minimum(objects, 1 if rule.kind == "instances" else count).astype(np.uint8)
    if not rule.dense:
        classes[labels == 0] = UNLABELLED
        if not (classes != UNLABELLED).any():
            raise InputError(f"nothing is labelled in {name} (all 0); paint or leave it out.")
    return classes, objects


def auxiliary_maps(
    objects: NDArray[Any], classes: NDArray[np.uint8], card: ModelCard
) -> NDArray[np.float16] | None:
    """Return the card's auxiliary channels, (A, *space), or None if it has none."""
    if not card.auxiliary:
        return None
    maps = []
    for channel in card.auxiliary:
        if channel != "centre":
            raise InputError(f"auxiliary channels can be 'centre', got {channel!r}; remove it.")
        maps.append(centre_target(objects.astype(np.int32), card.spacing))
    return np.stack(maps).astype(np.float16)


def make_sample(
    image: NDArray[Any],
    labels: NDArray[Any],
    card: ModelCard,
    rule: LabelRule,
    *,
    name: str,
    known: Sequence[str] | None = None,
    weight: float = 1.0,
) -> Sample:
    """Make a sample from arrays that are already on the model's grid.

    Parameters
    ----------
    image : ndarray
        (C, *space), raw intensities, any real dtype.
    labels : ndarray of int
        (*space).
    card : ModelCard
        Normalisation, classes, auxiliary channels.
    rule : LabelRule
        How label values are meant.
    name : str
        For messages and the split.
    known : sequence of str, optional
        Names of the classes that were annotated in this image; all if None.
    weight : float
        How often to draw it.

    Returns
    -------
    Sample
        With arrays in memory.
    """
    if image.shape[1:] != labels.shape:
        raise InputError(
            f"image and labels of {name} must have the same shape, got {image.shape[1:]} and "
            f"{labels.shape}; check that they belong together."
        )
    classes, objects = class_map(labels, rule, card, name)
    channels = [
        Normaliser.fit(sample_of(channel), card.normalisation)[0](channel) for channel in image
    ]
    annotated = tuple(known is None or c.name in known for c in card.classes)
    return Sample(
        name,
        np.stack(channels).astype(np.float16),
        classes,
        auxiliary_maps(objects, classes, card),
        annotated,
        weight,
    )
