"""What a result looks like: its axes and type, and labels from probabilities.

Knows the model card and arrays; no network, no tiles, no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import LETTERS, arrange
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.tiling import Region

Kind = Literal["labels", "probabilities", "instances"]


def check_kind(kind: str) -> Kind:
    """Return `kind` if it is one of "labels", "probabilities" and "instances".

    Raises
    ------
    InputError
        If it is not.
    """
    for known in get_args(Kind):
        if kind == known:
            return known  # type: ignore[no-any-return]
    raise InputError(
        f"kind must be labels, probabilities or instances, got {kind!r}; choose one of them."
    )


def result_channels(card: ModelCard) -> tuple[int, ...]:
    """Return the network's channels that a result of probabilities holds.

    Classes and auxiliary channels, not the background of a softmax.
    """
    return tuple(range(card.class_channels.start, len(card.channel_names)))


def result_names(card: ModelCard) -> tuple[str, ...]:
    """Return the names of the channels of a result of probabilities."""
    return tuple(card.channel_names[k] for k in result_channels(card))


def label_dtype(card: ModelCard) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned type that holds every class's label."""
    return np.dtype(np.min_scalar_type(len(card.classes)))


def output_axes(
    image: Image, card: ModelCard, kind: str
) -> tuple[str, tuple[int, ...], np.dtype[np.generic]]:
    """Return the axes, shape and type of a result: what the sink must hold.

    Parameters
    ----------
    image : Image
        The image that will be segmented.
    card : ModelCard
        The model.
    kind : {"labels", "probabilities", "instances"}
        What will be written.

    Returns
    -------
    str
        The image's axes in the order PTZYX without C and S; probabilities of more than one
        channel have a C axis after P and T.
    tuple of int
        Shape.
    dtype
        Smallest unsigned integer for labels, int32 for instances, float32 for
        probabilities.
    """
    kind = check_kind(kind)
    sizes = dict(image.sizes)
    sizes.pop("S", None)
    sizes.pop("C", None)
    dtype: np.dtype[np.generic] = label_dtype(card)
    if kind == "instances":
        dtype = np.dtype(np.int32)
    elif kind == "probabilities":
        dtype = np.dtype(np.float32)
        channels = len(result_channels(card))
        if channels > 1:
            sizes["C"] = channels
    axes = "".join(a for a in LETTERS if a in sizes)
    return axes, tuple(sizes[a] for a in axes), dtype


def labels_of(
    channels: Iterable[NDArray[np.float32]], card: ModelCard, threshold: float
) -> NDArray[np.unsignedinteger]:
    """Turn probabilities into labels, one channel at a time.

    Parameters
    ----------
    channels : iterable of ndarray, each (*space)
        With a sigmoid the classes in order; with a softmax the background before them.
    card : ModelCard
        Says which of the two it is.
    threshold : float
        With a sigmoid, a pixel whose likeliest class is not above it is background. A
        softmax needs none: its background competes.

    Returns
    -------
    ndarray of unsigned int, shape (*space)
        0 for the background, k for the card's k-th class; the first of equals wins.
    """
    softmax = card.network.activation == "softmax"
    remaining = iter(channels)
    best = np.array(next(remaining), dtype=np.float32)
    labels = np.full(best.shape, 0 if softmax else 1, dtype=label_dtype(card))
    for value, probability in enumerate(remaining, start=1 if softmax else 2):
        better = probability > best
        labels[better] = value
        np.maximum(best, probability, out=best)
    if not softmax:
        labels[~(best > threshold)] = 0
    return labels


def deciding_channels(card: ModelCard) -> range:
    """Return the network's channels that :func:`labels_of` takes, in its order."""
    return range(card.class_channels.stop)


def place_block(
    block: NDArray[np.generic],
    block_axes: str,
    axes: str,
    position: Mapping[str, int],
    region: Region,
    space: str,
) -> tuple[Region, NDArray[np.generic]]:
    """Return where a block lies in the result, and the block with the result's axes.

    Parameters
    ----------
    block : ndarray
        Its axes are `block_axes`: `space`, with C before it where the result has channels.
    block_axes, axes : str
        Axes of the block and of the result.
    position : mapping of str to int
        The plane's or volume's place on the other axes.
    region : tuple of slice
        The block's place along the axes of `space`.
    space : str
        "YX" or "ZYX".

    Returns
    -------
    tuple of slice
        One for each axis of the result.
    ndarray
        View with one axis for each of the result's.
    """
    where = dict(zip(space, region, strict=True))
    where |= {a: slice(n, n + 1) for a, n in position.items()}
    target = tuple(where.get(a, slice(None)) for a in axes)
    return target, arrange(block, block_axes, axes)
