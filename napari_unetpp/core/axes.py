"""Axis strings: what each axis of an array means, and how to walk over an image.

One letter an axis: P positions, T time, C channels, Z, Y, X space, and S for the samples of
an RGB(A) picture, which come last. This module knows shapes and letters; it must not know
files, torch or what is done with the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.errors import InputError

CANONICAL = "PTCZYX"
SAMPLES = "S"
LETTERS = CANONICAL + SAMPLES
SPATIAL = "ZYX"

Index = tuple[int | slice, ...]


def parse_axes(text: str, shape: Sequence[int]) -> str:
    """Check an axis string against the shape of its array.

    Parameters
    ----------
    text : str
        One letter of ``PTCZYXS`` for each axis; lower case and spaces are accepted.
    shape : sequence of int
        Shape of the array.

    Returns
    -------
    str
        The axes in upper case.

    Raises
    ------
    InputError
        If a letter is unknown or repeated, the length does not fit, Y or X is missing, or S
        is not the last axis.
    """
    axes = "".join(text.split()).upper()
    size = "x".join(str(n) for n in shape)
    unknown = sorted(set(axes) - set(LETTERS))
    if unknown:
        raise InputError(
            f"axes must be letters of {LETTERS}, got {text!r} with {', '.join(unknown)}; "
            "give one letter for each axis, for example ZYX."
        )
    if len(set(axes)) != len(axes):
        raise InputError(f"each axis letter may come once, got {text!r}; remove the repeated one.")
    if len(axes) != len(shape):
        raise InputError(
            f"the array has {len(shape)} axes ({size}) but {len(axes)} are named ({text!r}); "
            "give one letter of PTCZYXS for each axis."
        )
    if "Y" not in axes or "X" not in axes:
        raise InputError(
            f"axes must contain Y and X, got {text!r}; name the two image axes Y and X."
        )
    if SAMPLES in axes and not axes.endswith(SAMPLES):
        raise InputError(
            f"S (RGB samples) must be the last axis, got {text!r}; use C for channels elsewhere."
        )
    if SAMPLES in axes and shape[-1] not in (3, 4):
        raise InputError(
            f"S (RGB samples) must have 3 or 4 entries, got {shape[-1]} in {size}; "
            "use C for channels."
        )
    if SAMPLES in axes and "C" in axes:
        raise InputError(
            f"an image has channels (C) or RGB samples (S), not both, got {text!r}; "
            "save the channels as separate images."
        )
    return axes


def looks_rgb(shape: Sequence[int], dtype: DTypeLike) -> bool:
    """Whether a nameless array is most likely RGB(A): bytes with 3 or 4 of them last."""
    return len(shape) >= 3 and shape[-1] in (3, 4) and np.dtype(dtype) == np.uint8


def guess_axes(shape: Sequence[int], *, rgb: bool = False) -> str:
    """Name the axes of an array as its owner most likely would.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array, 2 to 6 axes (7 with RGB samples).
    rgb : bool
        Whether the last axis holds RGB(A) samples, see :func:`looks_rgb`.

    Returns
    -------
    str
        ``YX``, ``ZYX``, ``CZYX`` (or ``ZCYX`` where only the second axis is short, or
        ``TZYX`` where neither is), ``TCZYX`` (or ``TZCYX``), ``PTCZYX``; with S added.

    Raises
    ------
    InputError
        If there are fewer than 2 axes or more than 6.
    """
    plain = tuple(shape[:-1]) if rgb else tuple(shape)
    size = "x".join(str(n) for n in shape)
    if not 2 <= len(plain) <= (5 if rgb else 6):
        raise InputError(
            f"an image has 2 to 6 axes, got an array of {size} ({len(shape)} axes); "
            "give an image or name its axes."
        )
    if rgb:
        return {2: "YX", 3: "ZYX", 4: "TZYX", 5: "PTZYX"}[len(plain)] + SAMPLES
    few = 4
    if len(plain) == 4:
        if plain[0] <= few:
            return "CZYX"
        return "ZCYX" if plain[1] <= few else "TZYX"
    if len(plain) == 5:
        return "TZCYX" if plain[2] <= few < plain[1] else "TCZYX"
    return {2: "YX", 3: "ZYX", 6: "PTCZYX"}[len(plain)]


def spatial(axes: str) -> str:
    """Return the spatial part, ``"ZYX"`` or ``"YX"``."""
    return "".join(a for a in SPATIAL if a in axes)


def sizes(axes: str, shape: Sequence[int]) -> dict[str, int]:
    """Return the length of each axis by its letter."""
    return dict(zip(axes, (int(n) for n in shape), strict=True))


def canonical(axes: str) -> str:
    """Return the same letters in the order PTCZYXS."""
    return "".join(a for a in LETTERS if a in axes)


def arrange(block: NDArray[Any], axes: str, order: str) -> NDArray[Any]:
    """Bring a block's axes into another order; missing ones get length 1.

    Parameters
    ----------
    block : ndarray
        Array whose axes are `axes`.
    axes, order : str
        Letters before and after; every letter of `axes` must be in `order`.

    Returns
    -------
    ndarray
        A view with axes `order`.
    """
    lost = set(axes) - set(order)
    if lost or block.ndim != len(axes):
        raise InputError(
            f"a block of {block.ndim} axes named {axes!r} cannot become {order!r}; "
            "the new order must contain each of its axes."
        )
    view = block.transpose([axes.index(a) for a in order if a in axes])
    return view[tuple(slice(None) if a in axes else None for a in order)]


def index_of(axes: str, position: Mapping[str, int | slice]) -> Index:
    """Return the index into an array with `axes` that is at `position`, all of the rest."""
    return tuple(position.get(a, slice(None)) for a in axes)


@dataclass(frozen=True)
class Part:
    """One plane or volume of an image.

    Attributes
    ----------
    index : tuple of int or slice
        Index into the image's array; it slices lazily.
    axes : str
        Axes of the block that the index gives, in the array's order: space, and C or S where
        they were not chosen.
    position : mapping of str to int
        Where it lies, by letter: of P, T (and Z for a plane) those that the image has.
    """

    index: Index
    axes: str
    position: Mapping[str, int]


def check_channel(axes: str, shape: Sequence[int], channel: int | None) -> None:
    """Check that a channel can be chosen.

    Raises
    ------
    InputError
        If `channel` is not one of the image's; an image without channels has channel 0.
    """
    if channel is None:
        return
    size = sizes(axes, shape)
    count = size.get("C", size.get(SAMPLES, 1))
    if not 0 <= channel < count:
        have = "has one channel" if count == 1 else f"has channels 0 to {count - 1}"
        raise InputError(f"the image {have}, got channel {channel}; give one of them.")


def parts(axes: str, shape: Sequence[int], ndim: int, channel: int | None = None) -> Iterator[Part]:
    """Walk over the planes (`ndim` 2) or volumes (`ndim` 3) of an image.

    Parameters
    ----------
    axes : str
        Axes of the image's array.
    shape : sequence of int
        Its shape.
    ndim : {2, 3}
        Spatial axes of a block: 2 walks over P, T and Z, 3 over P and T.
    channel : int, optional
        The channel (C, or S of an RGB image) that blocks show; all of them if None.

    Yields
    ------
    Part
        In the order P, T, Z, the last one fastest.

    Raises
    ------
    InputError
        If volumes are wanted of an image without Z, or the channel does not exist.
    """
    if ndim == 3 and "Z" not in axes:
        raise InputError(
            f"a 3D model needs an image with a Z axis, got axes {axes}; "
            "name the axes (for example ZYX) or use a 2D model."
        )
    if ndim not in (2, 3):
        raise InputError(f"blocks have 2 or 3 spatial axes, got {ndim}; give 2 or 3.")
    check_channel(axes, shape, channel)
    chosen: dict[str, int] = {}
    if channel is not None:
        chosen = {a: channel for a in "CS" if a in axes}
    walked = [a for a in ("PTZ" if ndim == 2 else "PT") if a in axes]
    left = "".join(a for a in axes if a not in walked and a not in chosen)
    size = sizes(axes, shape)
    for place in np.ndindex(*(size[a] for a in walked)):
        position = dict(zip(walked, place, strict=True))
        yield Part(index_of(axes, {**position, **chosen}), left, position)


def planes(axes: str, shape: Sequence[int], channel: int | None = None) -> Iterator[Part]:
    """Walk over the planes of an image, see :func:`parts`."""
    return parts(axes, shape, 2, channel)


def volumes(axes: str, shape: Sequence[int], channel: int | None = None) -> Iterator[Part]:
    """Walk over the volumes of an image, see :func:`parts`."""
    return parts(axes, shape, 3, channel)
