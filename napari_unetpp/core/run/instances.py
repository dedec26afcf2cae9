"""From probabilities to objects: a label image in which touching objects are apart.

A card with an instance rule names a channel that is high at the centre of each object (its
truth is made by :func:`core.data.targets.centre_target`). Peaks of it that stand out are
seeds, and a watershed gives every foreground pixel to one of them. Cards without a rule get
connected components. This module knows arrays and the card: no network, no file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from napari_unetpp.core.config import InstanceRule, ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.results import deciding_channels, labels_of


def label_instances(
    probabilities: NDArray[np.floating],
    card: ModelCard,
    *,
    threshold: float | None = None,
    min_size: int | None = None,
) -> NDArray[np.int32]:
    """Give every object of an image its own number.

    What is foreground is decided as for class labels (:func:`core.run.results.labels_of`).
    With several classes each one is separated by itself and the numbers run on.
    A connected foreground region without any seed becomes one object, so that nothing
    vanishes but what is smaller than `min_size`.

    Parameters
    ----------
    probabilities : ndarray of float, shape (C, Y, X) or (C, Z, Y, X)
        The network's channels in the order of ``card.channel_names``, in [0, 1].
    card : ModelCard
        Classes, threshold and instance rule.
    threshold : float, optional
        Foreground probability, in (0, 1); the card's if None. A softmax needs none.
    min_size : int, optional
        Objects with fewer pixels (voxels) are dropped; the rule's if None, and nothing is
        dropped where the card has no rule.

    Returns
    -------
    ndarray of int32, shape (Y, X) or (Z, Y, X)
        0 is background; objects are 1 ... N.

    Raises
    ------
    InputError
        If the channels or axes do not fit the card, a probability is not finite, or an
        option is out of range.
    """
    _check(probabilities, card)
    threshold = card.threshold if threshold is None else threshold
    if not 0.0 < threshold < 1.0:
        raise InputError(f"threshold must lie between 0 and 1, got {threshold}; try 0.5.")
    rule = card.instances
    if min_size is None:
        min_size = 0 if rule is None else rule.min_size
    if min_size < 0:
        raise InputError(f"min_size must not be negative, got {min_size}; 0 keeps every object.")
    seeds = None if rule is None else _seed_heights(probabilities, card, rule)
    labels = np.zeros(probabilities.shape[1:], np.int32)
    count = 0
    # The same decision as for class labels, so that both kinds of result agree.
    classes = labels_of((probabilities[k] for k in deciding_channels(card)), card, threshold)
    for value in range(1, len(card.classes) + 1):
        objects, found = _separate(classes == value, seeds, rule, min_size)
        np.add(objects, count, out=labels, where=objects > 0)
        count += found
    return labels


def _check(probabilities: NDArray[np.floating], card: ModelCard) -> None:
    """Refuse what is not the output of the card's network."""
    channels = len(card.channel_names)
    if probabilities.ndim != len(card.axes) + 1 or probabilities.shape[0] != channels:
        raise InputError(
            f"{card.name!r} gives {channels} channel(s) with axes C{card.axes}, got an array of "
            f"shape {probabilities.shape}; give the probabilities of this model."
        )
    if probabilities.dtype.kind != "f":
        raise InputError(
            f"probabilities must be floating point, got {probabilities.dtype}; give them in [0, 1]."
        )
    if not np.isfinite(probabilities).all():
        raise InputError(
            "probabilities must be finite, got NaN or infinity; the model or its input is broken."
        )


def _seed_heights(
    probabilities: NDArray[np.floating], card: ModelCard, rule: InstanceRule
) -> NDArray[np.float32]:
    """Return the smoothed seed channel, (*space)."""
    if rule.seed_channel not in card.channel_names:
        raise InputError(
            f"the instance rule of {card.name!r} takes its seeds from channel "
            f"{rule.seed_channel!r}, but the model has {', '.join(card.channel_names)}; "
            "correct the card."
        )
    index = card.channel_names.index(rule.seed_channel)
    channel: NDArray[np.float32] = probabilities[index].astype(np.float32)
    if rule.seed_smoothing > 0:
        channel[...] = ndimage.gaussian_filter(channel, rule.seed_smoothing, truncate=3.0)
    return channel


def _separate(
    foreground: NDArray[np.bool_],
    heights: NDArray[np.float32] | None,
    rule: InstanceRule | None,
    min_size: int,
) -> tuple[NDArray[np.int32], int]:
    """Return the objects of one class as labels 1 ... N, and N."""
    # Full connectivity: a thin diagonal stays one object instead of a row of single pixels.
    full = ndimage.generate_binary_structure(foreground.ndim, foreground.ndim)
    if heights is None or rule is None or not foreground.any():
        labels, count = ndimage.label(foreground, full)
        return _drop_small(labels, count, min_size)
    labels, count = _basins(foreground, heights, rule)
    unseeded, more = ndimage.label(foreground & (labels == 0), full)
    np.add(unseeded, count, out=labels, where=unseeded > 0)
    return _drop_small(labels, count + more, min_size)


def _basins(
    foreground: NDArray[np.bool_], heights: NDArray[np.float32], rule: InstanceRule
) -> tuple[NDArray[np.int32], int]:
    """Flood the foreground from the peaks that stand out; 0 where no peak reaches."""
    full = ndimage.generate_binary_structure(foreground.ndim, foreground.ndim)
    inside = np.where(foreground, heights, np.float32(-1.0))
    peaks = local_maxima(inside, connectivity=foreground.ndim)  # type: ignore[no-untyped-call]
    peaks &= foreground
    peaks &= heights > rule.seed_threshold
    seeds, count = ndimage.label(peaks, full)
    if count == 0:
        return np.zeros(foreground.shape, np.int32), 0
    basins = watershed(  # type: ignore[no-untyped-call]
        -heights, seeds, mask=foreground, connectivity=full
    )
    if count > 1:
        table = _merge_table(basins, heights, count, rule.seed_prominence)
        basins = table[basins]
    return basins.astype(np.int32, copy=False), count


def _merge_table(
    basins: NDArray[np.integer], heights: NDArray[np.float32], count: int, prominence: float
) -> NDArray[np.int32]:
    """Return for each basin 0 ... `count` the one it belongs to.

    Saddles are taken from the highest down. Where one is met, the basin with the lower peak
    joins the other if its peak stands less than `prominence` above the saddle. Lower saddles
    between the two can only make it stand out more, so each decision is final.
    """
    top = np.full(count + 1, -np.inf)
    np.maximum.at(top, basins.ravel(), heights.ravel())
    root = list(range(count + 1))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    for saddle, first, second in _saddles(basins, heights, count):
        high, low = find(first), find(second)
        if top[low] > top[high]:
            high, low = low, high
        if high != low and top[low] - saddle < prominence:
            root[low] = high
    return np.array([find(node) for node in range(count + 1)], np.int32)


def _saddles(
    basins: NDArray[np.integer], heights: NDArray[np.float32], count: int
) -> list[tuple[float, int, int]]:
    """Return (height, basin, basin) of the highest pass between neighbours, highest first."""
    codes, passes = [], []
    for axis in range(basins.ndim):
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(basins.ndim))
        after = tuple(slice(1, None) if a == axis else slice(None) for a in range(basins.ndim))
        touching = (basins[before] != basins[after]) & (basins[before] > 0) & (basins[after] > 0)
        one = basins[before][touching].astype(np.int64)
        other = basins[after][touching].astype(np.int64)
        codes.append(np.minimum(one, other) * (count + 1) + np.maximum(one, other))
        passes.append(np.minimum(heights[before][touching], heights[after][touching]))
    pairs, place = np.unique(np.concatenate(codes), return_inverse=True)
    best = np.full(len(pairs), -np.inf)
    np.maximum.at(best, place, np.concatenate(passes))
    order = np.argsort(-best, kind="stable")
    first, second = np.divmod(pairs[order], count + 1)
    return list(zip(best[order].tolist(), first.tolist(), second.tolist(), strict=True))


def _drop_small(
    labels: NDArray[np.integer], count: int, min_size: int
) -> tuple[NDArray[np.int32], int]:
    """Drop labels with fewer pixels than `min_size` and number the rest 1 ... N."""
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= max(min_size, 1)  # merged basins left empty numbers behind
    keep[0] = False
    table = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    return table[labels], int(keep.sum())
