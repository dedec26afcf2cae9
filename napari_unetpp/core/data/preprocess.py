"""Intensities: from any image to the values that a network was trained on.

The statistics are of the whole image, read through a strided sample, so every tile is
normalised alike and tiled equals whole. Knows no files, no grids and no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import Normalisation
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note

# ITU-R BT.601 luma, the weights behind the "L" mode of image libraries.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
RED = np.array([1.0, 0.0, 0.0], dtype=np.float32)

CT_OFFSET = 1024.0

# Median over bright end: 0.57 or more in 96 images of stained tissue.
TRANSMITTED = 0.45


def sample_of(data: Any, limit: int = 4_000_000) -> NDArray[Any]:
    """Read a strided sample of an array-like without reading all of it.

    Whole rows of the last two axes are thinned, leading axes are visited at even distances.

    Parameters
    ----------
    data : array-like
        Anything with ``shape`` and ``__getitem__`` on slices (numpy, memmap, zarr, dask).
    limit : int
        About how many values to read at most.

    Returns
    -------
    ndarray
        Values in the input's dtype, flattened. The same for the same array.
    """
    shape = tuple(int(n) for n in data.shape)
    if math.prod(shape) <= limit:
        return np.asarray(data[...]).reshape(-1)
    # Leading axes first: a plane that is not visited is not read from disk at all.
    steps = [1] * len(shape)
    excess = math.prod(shape) / limit
    for axis, length in enumerate(shape):
        last_two = axis >= len(shape) - 2
        share = math.ceil(math.sqrt(excess)) if axis == len(shape) - 2 else math.ceil(excess)
        # At least four positions along a leading axis, so that no single plane decides.
        steps[axis] = max(1, min(share, length if last_two else max(1, length // 4)))
        excess /= steps[axis]
    region = tuple(slice(step // 2, None, step) for step in steps)
    return np.asarray(data[region]).reshape(-1)


def to_gray(
    block: NDArray[Any], axis: int = -1, weights: NDArray[np.float32] = LUMA
) -> NDArray[np.float32]:
    """Turn RGB or RGBA into one channel, luminance by default.

    Parameters
    ----------
    block : ndarray
        Any shape with 3 or 4 samples on `axis`; alpha is ignored.
    axis : int
        The axis of the samples; it is removed.
    weights : ndarray of float32, shape (3,)
        Share of red, green and blue.

    Returns
    -------
    ndarray of float32
        In the input's own intensity units.
    """
    samples = np.moveaxis(np.asarray(block), axis, -1)
    if samples.shape[-1] not in (3, 4):
        raise InputError(
            f"RGB needs 3 or 4 samples, got {samples.shape[-1]} on axis {axis}; "
            "name the axes with --axes."
        )
    gray: NDArray[np.float32] = samples[..., :3].astype(np.float32) @ weights
    return gray


def has_bright_background(values: NDArray[Any], low: float, high: float) -> bool:
    """Return whether the median lies nearer to the bright end: objects are the smaller part."""
    return float(np.median(values)) > 0.5 * (low + high)


def is_transmitted(luminance: NDArray[Any]) -> bool:
    """Return whether an RGB image was taken in transmitted light, as stained tissue is.

    Light that nothing absorbs is white there, so the typical pixel is not dark; in fluorescence
    it is nearly black. Black is 0 for both: the distance to the darkest pixel would depend on
    how strongly the darkest stain absorbs.

    Parameters
    ----------
    luminance : ndarray
        A sample of finite values, any shape.
    """
    return float(np.median(luminance)) > TRANSMITTED * float(np.percentile(luminance, 99.8))


def gray_weights(luminance: NDArray[Any], rule: Normalisation) -> NDArray[np.float32]:
    """Return the shares of red, green and blue by which a model sees an RGB image.

    Parameters
    ----------
    luminance : ndarray
        A sample of the image's luminance, any shape.
    rule : Normalisation
        The model card's rule.

    Returns
    -------
    ndarray of float32, shape (3,)
        For `to_gray`.
    """
    values = luminance[np.isfinite(luminance)]
    if rule.rgb == "luminance" or values.size == 0:
        return LUMA
    return RED if is_transmitted(values) else LUMA


@dataclass(frozen=True)
class Normaliser:
    """A linear map of intensities with clipping, fitted to one image.

    Attributes
    ----------
    low, high : float
        Intensities that become 0 and 1.
    invert : bool
        Whether 0 and 1 are swapped (a bright background).
    clip : tuple of float
        Bounds of the result.
    """

    low: float
    high: float
    invert: bool = False
    clip: tuple[float, float] = (-0.5, 2.0)

    @classmethod
    def fit(
        cls, sample: NDArray[Any], rule: Normalisation, *, bright: bool | None = None
    ) -> tuple[Normaliser, list[Note]]:
        """Choose the map for an image from a sample of its values.

        Parameters
        ----------
        sample : ndarray
            Values of the image, any shape and real dtype; NaN and infinities are ignored.
        rule : Normalisation
            The model card's rule.
        bright : bool, optional
            Whether the background is bright, where that is known from elsewhere.

        Returns
        -------
        Normaliser
            The map.
        list of Note
            What the user should know: nothing finite, constant, inverted, shifted.
        """
        values = np.asarray(sample, dtype=np.float64).reshape(-1)
        values = values[np.isfinite(values)]
        notes: list[Note] = []
        if values.size == 0:
            notes.append(Note("the image has no finite value; all of it is background.", "empty"))
            return cls(0.0, 1.0, clip=(0.0, 0.0)), notes
        if rule.kind == "window":
            shift = 0.0
            # A CT with air has values far below 0 HU; one stored as HU + 1024 has none, but for
            # the few that an interpolation overshot.
            if rule.ct_offset and np.percentile(values, 0.5) > -100.0:
                shift = CT_OFFSET
                notes.append(
                    Note("no value below -100: the CT was read as HU + 1024.", "ct-offset")
                )
            return cls(rule.low + shift, rule.high + shift, clip=(0.0, 1.0)), notes
        low, high = (float(v) for v in np.percentile(values, [rule.low, rule.high]))
        if high <= low:
            low, high = float(values.min()), float(values.max())
        if high <= low:
            notes.append(Note(f"the image is constant ({low:g}).", "constant-image"))
            # A step that survives the rounding of large numbers.
            return cls(low, low + max(1.0, abs(low))), notes
        invert = False
        if rule.polarity == "bright-objects":
            invert = has_bright_background(values, low, high) if bright is None else bright
            if invert:
                notes.append(Note("the background is bright: intensities were inverted.", "invert"))
        return cls(low, high, invert), notes

    def __call__(self, block: NDArray[Any]) -> NDArray[np.float32]:
        """Normalise a block.

        Parameters
        ----------
        block : ndarray
            Any shape and real dtype.

        Returns
        -------
        ndarray of float32
            About 0 to 1, clipped; NaN and -inf become the background's value, +inf the top.
        """
        # Large integers and doubles lose their small differences in float32: subtract first.
        exact = block.dtype.kind in "iu" and block.dtype.itemsize > 2
        huge = max(abs(self.low), abs(self.high)) > 1e30
        wide = np.float64 if exact or huge or block.dtype == np.float64 else np.float32
        out: NDArray[Any] = np.asarray(block, dtype=wide)
        # Halved, so that the span of the largest numbers does not overflow.
        out = (out / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        bottom, top = self.clip
        out = np.nan_to_num(out, nan=1.0 if self.invert else 0.0, posinf=top, neginf=bottom)
        if self.invert:
            out = 1.0 - out
        result: NDArray[np.float32] = np.clip(out, bottom, top).astype(np.float32)
        return result


def count_non_finite(block: NDArray[Any]) -> int:
    """Return how many values of a block are NaN or infinite."""
    if block.dtype.kind not in "fc":
        return 0
    return int(block.size - np.count_nonzero(np.isfinite(block)))
