"""Images and painted labels as the TIFF files of a project, and back in their shape.

Knows images and TIFF; no project.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_unetpp.core.axes import canonical, spatial
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image
from napari_unetpp.core.data.io.atomic import replacing, writing
from napari_unetpp.core.errors import InputError, UNetPPError

IMAGE_SUFFIX = ".ome.tif"


def write_labels(
    path: Path, labels: Image, spacing: Sequence[float] | None, unit: str | None
) -> tuple[str, tuple[int, ...]]:
    """Write painted labels in the smallest type that holds them, plane by plane.

    Parameters
    ----------
    path : Path
        Ends in ``.tif``; its folder is made.
    labels : Image
        Whole numbers, 0 and up.
    spacing : sequence of float, optional
        In the order Z, Y, X.
    unit : str, optional
        Of the spacing.

    Returns
    -------
    axes, shape
        Of what is in the file.

    Raises
    ------
    InputError
        If it holds no labels.
    FileError
        If it cannot be written; the old file stays.
    """
    if labels.dtype.kind not in "ui":
        raise InputError(
            f"painted labels must be whole numbers, got {labels.dtype} for {labels.name!r}; give "
            "a labels layer."
        )
    planes = list(np.ndindex(*labels.shape[:-2]))
    low, high = 0, 0
    for index in planes:
        block = np.asarray(labels.data[index])
        low, high = min(low, int(block.min())), max(high, int(block.max()))
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise InputError(
            f"painted labels must lie in 0 to 65535, got {low} to {high} in {labels.name!r}; "
            "paint 1 for background and 2 and more for classes."
        )
    dtype = np.uint8 if high < 256 else np.uint16
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    space = spatial(labels.axes)
    plain = Image.from_array(np.zeros((1,) * len(space), np.uint8), space, spacing, unit=unit)
    with open_sink(
        path, like=plain, axes=labels.axes, dtype=dtype, shape=labels.shape, kind="labels"
    ) as sink:
        for index in planes:
            sink[index] = np.asarray(labels.data[index]).astype(dtype)
        sink.commit()
    return _in_file(labels)


def write_image(path: Path, image: Image) -> tuple[str, tuple[int, ...]]:
    """Write an image as OME-TIFF.

    Parameters
    ----------
    path : Path
        Ends in `IMAGE_SUFFIX`; its folder is made.
    image : Image
        Any; whole numbers of 32 bits and more become 16 where they fit, else floats.

    Returns
    -------
    axes, shape
        Of what is in the file.

    Raises
    ------
    FileError
        If it cannot be written; nothing is left behind.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if "S" in image.axes:
        with replacing(path) as staged:
            tifffile.imwrite(
                staged, np.asarray(image.data), ome=True, photometric="rgb",
                metadata={"axes": image.axes},
            )  # fmt: skip
        return image.axes, image.shape
    dtype = _stored(image)
    plain = image.replace(path=None, metadata={"channel_names": image.channel_names})
    names = image.channel_names
    with open_sink(
        path, like=plain, axes=image.axes, dtype=dtype, shape=image.shape,
        kind="probabilities", channel_names=names,
    ) as sink:  # fmt: skip
        for index in np.ndindex(*image.shape[:-2]):
            sink[index] = np.asarray(image.data[index]).astype(dtype)
        sink.commit()
    return _in_file(image)


def shaped(image: Image, axes: str, shape: Sequence[int], name: str) -> Image:
    """Return an image with the axes and shape that it is known to have.

    Axes of length 1 may have got lost in its file, and letters may be others.

    Raises
    ------
    InputError
        If it has another shape.
    """
    wanted = tuple(int(n) for n in shape)
    if image.shape == wanted:
        return image if image.axes == axes else image.replace(axes=axes, spacing=_kept(image, axes))
    if [n for n in image.shape if n > 1] != [n for n in wanted if n > 1]:
        raise InputError(
            f"{image.path or name} must have the shape {_text(wanted)} of {name!r}, got "
            f"{_text(image.shape)}; choose the file that was painted on."
        )
    data: Any = np.asarray(image.data[...]).reshape(wanted)
    return image.replace(data=data, axes=axes, spacing=_kept(image, axes))


def in_file(image: Image) -> bool:
    """Return whether an image's file holds this image, and not more, less or other pixels.

    Pixels are compared in the first, middle and last plane: a viewer keeps a layer's path when
    its pixels are filtered, and to read all of a large file would take as long as to copy it.
    """
    planar = 3 if image.axes.endswith("S") else 2
    counts = image.shape[:-planar]
    try:
        found = shaped(read_image(image.path or ""), image.axes, image.shape, image.name)
        if found.shape != image.shape:
            return False
        planes = {tuple(p) for p in zip(*((0, n // 2, n - 1) for n in counts), strict=True)}
        return all(_same(found.data[at], image.data[at]) for at in planes or {()})
    except (UNetPPError, OSError):
        return False


def _same(one: Any, other: Any) -> bool:
    first, second = np.asarray(one), np.asarray(other)
    equal_nan = first.dtype.kind == second.dtype.kind == "f"
    return bool(np.array_equal(first, second, equal_nan=equal_nan))


def _kept(image: Image, axes: str) -> tuple[float, ...] | None:
    """Return the spacing if it means the same axes under other letters."""
    space = [a for a in axes if a in "ZYX"]
    return image.spacing if image.spacing and len(image.spacing) == len(space) else None


def _in_file(image: Image) -> tuple[str, tuple[int, ...]]:
    order = canonical(image.axes)
    return order, tuple(image.sizes[a] for a in order)


def _stored(image: Image) -> np.dtype[Any]:
    """Return the type in the file: one that every reader of TIFF knows, without a loss."""
    dtype = image.dtype
    if dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize <= 2):
        return np.dtype(np.float32) if dtype.kind == "f" else dtype
    low, high = 0, 0
    for index in np.ndindex(*image.shape[:-2]):
        block = np.asarray(image.data[index])
        low, high = min(low, int(block.min())), max(high, int(block.max()))
    for small in (np.uint16, np.int16):
        if np.iinfo(small).min <= low and high <= np.iinfo(small).max:
            return np.dtype(small)
    return np.dtype(np.float32)


def _text(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
