"""PNG, JPEG and BMP pictures in; PNG labels out.

Pillow reads them; it comes with scikit-image. This module must not know other formats.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io.atomic import BufferSink
from napari_unetpp.core.errors import FileError, InputError

# Palette pictures hold indices; all others hold intensities in one of these modes.
_PLAIN_MODES = {"L", "RGB", "RGBA", "I", "F", "I;16", "I;16B", "I;16L", "1"}
_CONVERTED = {"LA": "L", "La": "L", "RGBa": "RGBA", "RGBX": "RGB"}


@contextlib.contextmanager
def _large_pictures() -> Iterator[None]:
    # Pillow takes pictures of a microscope's size for an attack; size is checked by memory.
    limit = Pillow.MAX_IMAGE_PIXELS
    Pillow.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Pillow.MAX_IMAGE_PIXELS = limit


def read_picture(path: Path, *, name: str, labels: bool = False) -> Image:
    """Read a PNG, JPEG or BMP.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Name of the image.
    labels : bool
        Whether a palette's indices are wanted (labels) and not its colours.

    Returns
    -------
    Image
        uint8 or uint16 (rarely int32, float32) with axes YX or YXS.

    Raises
    ------
    FileError
        If the file is damaged or cut off.
    """
    try:
        with _large_pictures(), Pillow.open(path) as file:
            picture: Pillow.Image = file
            mode = picture.mode
            if mode not in _PLAIN_MODES and not (labels and mode == "P"):
                picture = picture.convert(_CONVERTED.get(mode, "RGB"))
            # Pillow's bool arrays hold 255 for True, which would show as such.
            array = np.asarray(picture) if mode != "1" else np.asarray(picture.convert("L")) > 0
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise FileError(
            f"{path} was expected to be a complete picture, but it is damaged or cut off "
            f"({' '.join(str(error).split())[:120]}); copy or export it again."
        ) from error
    axes = "YXS" if array.ndim == 3 else "YX"
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return Image(native, axes, None, None, None, name, path, {"format": "png"})


def write_labels(array: NDArray[Any], path: Path) -> None:
    """Write labels as an 8- or 16-bit PNG.

    Parameters
    ----------
    array : ndarray
        Integers, (Y, X) with any leading axes of length 1.
    path : Path
        The file.

    Raises
    ------
    InputError
        If a label lies outside 0 to 65535.
    """
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise InputError(
            f"a PNG holds labels from 0 to 65535, got {low} to {high}; choose a TIFF (--out x.tif)."
        )
    wide = high > 255 or array.dtype.itemsize > 1
    plane = array.reshape(array.shape[-2:]).astype(np.uint16 if wide else np.uint8)
    Pillow.fromarray(plane).save(path, format="PNG")


def png_sink(
    path: Path, axes: str, shape: Sequence[int], dtype: DTypeLike, kind: str
) -> BufferSink:
    """Return a sink that writes a PNG of labels.

    Raises
    ------
    InputError
        If the result is not integer labels of one plane.
    """
    if kind == "probabilities" or np.dtype(dtype).kind not in "iub":
        raise InputError(
            f"a PNG holds labels only, got {kind} of type {np.dtype(dtype)}; choose a TIFF "
            "(--out x.tif)."
        )
    if math.prod(shape[:-2]) != 1 or not axes.endswith("YX"):
        size = "x".join(str(n) for n in shape)
        raise InputError(
            f"a PNG holds one plane, got {axes} of {size}; choose a TIFF (--out x.tif)."
        )
    return BufferSink(path, axes, shape, dtype, write_labels, ".png")
