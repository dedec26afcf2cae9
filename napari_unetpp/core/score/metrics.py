"""How well a segmentation agrees with the truth, over pixels and over objects.

Every figure has a name that says how it was averaged: *per image* is the mean of the images'
own figures, *pooled* is computed once from the counts of all images together. Objects are
scored as the 2018 Data Science Bowl did. This module knows numpy only: no model, no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import InputError

# As quotients of integers, so that an IoU that equals a threshold compares as equal.
THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))

_DENSE_TABLE = 1 << 22  # cells of a contingency table up to which bincount beats sorting


@dataclass(frozen=True)
class Counts:
    """True positives, false positives and false negatives: of pixels, or of objects.

    Where truth and prediction are both empty they agree, so every figure is 1; where only
    one of them is empty it is 0.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); over objects this is the average precision of the challenge."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else 1.0

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 1.0


def count_pixels(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], where: NDArray[np.bool_] | None = None
) -> Counts:
    """Count the pixels of two masks.

    Parameters
    ----------
    pred, truth : ndarray of bool, same shape
        Foreground as predicted and in truth, any number of axes.
    where : ndarray of bool, same shape, optional
        Pixels that count (the labelled ones); all if None.

    Returns
    -------
    Counts
        Of pixels.

    Raises
    ------
    InputError
        If a mask is not boolean or the shapes differ.
    """
    masks = [np.asarray(mask) for mask in (pred, truth, *(() if where is None else (where,)))]
    if any(mask.dtype != np.bool_ for mask in masks):
        found = " and ".join(str(mask.dtype) for mask in masks)
        raise InputError(f"masks must be boolean, got {found}; compare with > first.")
    _same_shape(*masks)
    p, t = masks[0], masks[1]
    if where is not None:
        p, t = p & masks[2], t & masks[2]
    both = int(np.count_nonzero(p & t))
    return Counts(both, int(np.count_nonzero(p)) - both, int(np.count_nonzero(t)) - both)


def iou(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], where: NDArray[np.bool_] | None = None
) -> float:
    """Return the intersection over union of two masks; 1 if both are empty.

    Parameters
    ----------
    pred, truth : ndarray of bool, same shape
        Foreground as predicted and in truth.
    where : ndarray of bool, same shape, optional
        Pixels that count; all if None.

    Returns
    -------
    float
        In [0, 1].
    """
    return count_pixels(pred, truth, where).iou


def dice(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], where: NDArray[np.bool_] | None = None
) -> float:
    """Return the Dice coefficient of two masks; 1 if both are empty.

    Parameters
    ----------
    pred, truth : ndarray of bool, same shape
        Foreground as predicted and in truth.
    where : ndarray of bool, same shape, optional
        Pixels that count; all if None.

    Returns
    -------
    float
        In [0, 1].
    """
    return count_pixels(pred, truth, where).dice


@dataclass
class PooledCounts:
    """Pixel counts of a set of images, with figures per image and pooled.

    Attributes
    ----------
    images : list of Counts
        One for each image added.
    """

    images: list[Counts] = field(default_factory=list)

    def add(
        self,
        pred: NDArray[np.bool_],
        truth: NDArray[np.bool_],
        where: NDArray[np.bool_] | None = None,
    ) -> Counts:
        """Add an image (see :func:`count_pixels`) and return its own counts."""
        self.images.append(count_pixels(pred, truth, where))
        return self.images[-1]

    @property
    def n_images(self) -> int:
        """Number of images added."""
        return len(self.images)

    @property
    def pooled(self) -> Counts:
        """Sum over all images."""
        return sum(self.images, Counts())

    @property
    def iou_per_image(self) -> float:
        """Mean of the images' IoU; NaN without images."""
        return _mean([image.iou for image in self.images])

    @property
    def dice_per_image(self) -> float:
        """Mean of the images' Dice; NaN without images."""
        return _mean([image.dice for image in self.images])

    @property
    def iou_pooled(self) -> float:
        """IoU over all pixels of all images; NaN without images."""
        return self.pooled.iou if self.images else float("nan")

    @property
    def dice_pooled(self) -> float:
        """Dice over all pixels of all images; NaN without images."""
        return self.pooled.dice if self.images else float("nan")


@dataclass(frozen=True)
class ObjectOverlaps:
    """Every pair of a predicted and a true object that share a pixel.

    Attributes
    ----------
    pred_ids, truth_ids : ndarray of int64, shapes (P,) and (T,)
        The objects' values in the label arrays, ascending.
    pred_index, truth_index : ndarray of int64, shape (K,)
        Pair k is of objects ``pred_ids[pred_index[k]]`` and ``truth_ids[truth_index[k]]``.
    iou : ndarray of float64, shape (K,)
        Intersection over union of each pair.
    """

    pred_ids: NDArray[np.int64]
    truth_ids: NDArray[np.int64]
    pred_index: NDArray[np.int64]
    truth_index: NDArray[np.int64]
    iou: NDArray[np.float64]

    def matches(self, threshold: float = 0.5) -> NDArray[np.int64]:
        """Return the matched objects.

        Objects do not overlap one another, so from 0.5 on an object has at most one partner
        of a greater IoU and no assignment has to be solved.

        Parameters
        ----------
        threshold : float
            Objects match where their IoU is *greater*, as in the challenge: an IoU of
            exactly 0.5 is no match at 0.5. In [0.5, 1).

        Returns
        -------
        ndarray of int64, shape (M, 2)
            Label values: predicted, true.

        Raises
        ------
        InputError
            If `threshold` lies outside [0.5, 1).
        """
        if not 0.5 <= threshold < 1:
            raise InputError(
                f"IoU thresholds must lie in [0.5, 1), got {threshold}; below 0.5 an object "
                "could match several."
            )
        hit = self.iou > threshold
        return np.stack(
            [self.pred_ids[self.pred_index[hit]], self.truth_ids[self.truth_index[hit]]], axis=1
        )

    def counts(self, threshold: float = 0.5) -> Counts:
        """Return the matched, superfluous and missed objects at an IoU threshold."""
        tp = len(self.matches(threshold))
        return Counts(tp, len(self.pred_ids) - tp, len(self.truth_ids) - tp)


def match_objects(pred: NDArray[np.integer], truth: NDArray[np.integer]) -> ObjectOverlaps:
    """Compare the objects of two label arrays.

    Parameters
    ----------
    pred, truth : ndarray of int, same shape, 2D or 3D
        0 is background, every other value an object. Values need not be consecutive.

    Returns
    -------
    ObjectOverlaps
        From which matches at any threshold follow.

    Raises
    ------
    InputError
        If labels are not integers from 0, or the shapes differ.
    """
    _same_shape(np.asarray(pred), np.asarray(truth))
    pred_ids, pred_areas, p = _compact(pred)
    truth_ids, truth_areas, t = _compact(truth)
    both = (p > 0) & (t > 0)
    columns = len(truth_ids)
    codes = (p[both] - 1) * columns + (t[both] - 1)
    if len(pred_ids) * columns <= _DENSE_TABLE:
        table = np.bincount(codes, minlength=1)
        pairs = np.flatnonzero(table)
        shared = table[pairs]
    else:
        pairs, shared = np.unique(codes, return_counts=True)
    pred_index, truth_index = np.divmod(pairs, max(columns, 1))
    union = pred_areas[pred_index] + truth_areas[truth_index] - shared
    return ObjectOverlaps(pred_ids, truth_ids, pred_index, truth_index, shared / union)


def average_precision(
    pred: NDArray[np.integer],
    truth: NDArray[np.integer],
    thresholds: Sequence[float] = THRESHOLDS,
) -> NDArray[np.float64]:
    """Return TP / (TP + FP + FN) over the objects of one image at each IoU threshold.

    Parameters
    ----------
    pred, truth : ndarray of int, same shape
        0 is background, every other value an object.
    thresholds : sequence of float
        In [0.5, 1); a match needs a greater IoU.

    Returns
    -------
    ndarray of float64, shape (len(thresholds),)
        1 where neither array holds an object.
    """
    overlaps = match_objects(pred, truth)
    return np.array([overlaps.counts(threshold).iou for threshold in thresholds])


def challenge_score(pred: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Return the 2018 Data Science Bowl's score of one image.

    It is the mean of :func:`average_precision` over the thresholds 0.5, 0.55 ... 0.95. The
    challenge's score of a set is the mean over its images.

    Parameters
    ----------
    pred, truth : ndarray of int, same shape
        0 is background, every other value an object.

    Returns
    -------
    float
        In [0, 1].
    """
    return float(average_precision(pred, truth).mean())


@dataclass
class PooledObjects:
    """Object scores of a set of images.

    Attributes
    ----------
    at50 : list of Counts
        Objects matched, superfluous and missed at IoU 0.5, for each image.
    scores : list of float
        The challenge's score of each image.
    """

    at50: list[Counts] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, pred: NDArray[np.integer], truth: NDArray[np.integer]) -> ObjectOverlaps:
        """Add an image (see :func:`match_objects`) and return its overlaps."""
        overlaps = match_objects(pred, truth)
        self.at50.append(overlaps.counts(THRESHOLDS[0]))
        self.scores.append(_mean([overlaps.counts(threshold).iou for threshold in THRESHOLDS]))
        return overlaps

    @property
    def ap50(self) -> float:
        """Average precision at IoU 0.5 over the objects of all images; NaN without images."""
        return sum(self.at50, Counts()).iou if self.at50 else float("nan")

    @property
    def ap50_per_image(self) -> float:
        """Mean of the images' average precision at IoU 0.5; NaN without images."""
        return _mean([counts.iou for counts in self.at50])

    @property
    def score(self) -> float:
        """The challenge's score: mean over thresholds, then over images; NaN without images."""
        return _mean(self.scores)


def _mean(values: Sequence[float]) -> float:
    """Return the mean, or NaN where there is nothing."""
    return float(np.mean(values)) if values else float("nan")


def _same_shape(*arrays: NDArray[np.generic]) -> None:
    if len({array.shape for array in arrays}) > 1:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise InputError(
            f"prediction and truth must have the same shape, got {shapes}; give one grid."
        )


def _compact(
    labels: NDArray[np.integer],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids (N,), their areas (N,), and the flat labels renumbered 0 ... N."""
    flat = np.asarray(labels).ravel()
    if flat.dtype.kind not in "bui" or (flat.size and flat.min() < 0):
        raise InputError(
            f"object labels must be integers from 0, got {flat.dtype}"
            f"{' with negative values' if flat.dtype.kind == 'i' else ''}; "
            "use 0 for background and 1, 2, ... for objects."
        )
    if flat.size and flat.max() > 4 * flat.size + 65_536:  # a table by value would be huge
        values, inverse, areas = np.unique(flat, return_inverse=True, return_counts=True)
        shift = 0 if values[0] == 0 else 1
        keep = slice(1 - shift, None)
        return values[keep].astype(np.int64), areas[keep], inverse.astype(np.int64) + shift
    flat = flat.astype(np.int64, copy=False)
    sizes = np.bincount(flat, minlength=1)
    ids = np.flatnonzero(sizes[1:]) + 1
    table = np.zeros(len(sizes), np.int64)
    table[ids] = np.arange(1, len(ids) + 1)
    return ids, sizes[ids], table[flat]
