"""What label values mean: objects or classes, dense or painted, as training needs them.

Knows arrays and cards; no files and no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.errors import InputError

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
        maps.append(centre_target(objects, card.spacing))
    return np.stack(maps).astype(np.float16)
