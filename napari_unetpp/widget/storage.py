"""Arrays that hold the results of whole images, and the sink that a run writes into them.

Up to a size they are in memory, above it on disk in a temporary folder. A sink has the axes of
a run's result; its arrays have those of the layers. Knows arrays and axis letters; no napari,
no Qt.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.axes import arrange
from napari_unetpp.core.data.lazy import full_index

#: Bytes of a result above which it goes to disk.
MEMORY_LIMIT = 2 * 10**9


def make_arrays(
    count: int, shape: Sequence[int], dtype: DTypeLike, chunks: Sequence[int], limit: float
) -> tuple[list[Any], Path | None]:
    """Return arrays of zeros for a result, and the temporary folder they are in, if any.

    Parameters
    ----------
    count : int
        How many arrays.
    shape, dtype
        Of each.
    chunks : sequence of int
        Of an array on disk: what is written and read together.
    limit : float
        Bytes of all arrays up to which they are in memory.

    Returns
    -------
    list of array
        numpy; above the limit zarr, or a sparse memory map where zarr is not installed.
        Nothing is allocated before it is written.
    Path or None
        Removed when the arrays are no longer used, and at the end of the process.
    """
    shape = tuple(int(n) for n in shape)
    if count * math.prod(shape) * np.dtype(dtype).itemsize <= limit:
        return [np.zeros(shape, dtype) for _ in range(count)], None
    folder = Path(tempfile.mkdtemp(prefix="napari-unetpp-"))
    arrays = [_on_disk(folder, k, shape, dtype, chunks) for k in range(count)]
    left = {id(array) for array in arrays}
    for array in arrays:
        weakref.finalize(array, _release, left, id(array), folder)
    return arrays, folder


def _on_disk(
    folder: Path, number: int, shape: tuple[int, ...], dtype: DTypeLike, chunks: Sequence[int]
) -> Any:
    try:
        import zarr
    except ImportError:
        path = folder / f"{number}.npy"
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    return zarr.create_array(
        str(folder / f"{number}.zarr"),
        shape=shape,
        dtype=np.dtype(dtype),
        chunks=tuple(min(int(n), size) for n, size in zip(chunks, shape, strict=True)),
        fill_value=0,
    )


def _release(left: set[int], number: int, folder: Path) -> None:
    """Remove the folder with the last array in it."""
    left.discard(number)
    if not left:
        shutil.rmtree(folder, ignore_errors=True)


class Sink:
    """Where a run writes: one array, or one for each channel of a result of probabilities.

    Attributes
    ----------
    axes : str
        Axes of the result, as ``output_axes`` gives them.
    shape, dtype
        Of the result.
    arrays : list of array
        What the layers show, one for each channel; their axes are `array_axes`.
    array_axes : str
        The image's order. A C among them has length 1: the image's channel axis.
    """

    def __init__(self, arrays: Sequence[Any], array_axes: str, axes: str) -> None:
        self.arrays = list(arrays)
        self.array_axes, self.axes = array_axes, axes
        sizes = dict(zip(array_axes, (int(n) for n in self.arrays[0].shape), strict=True))
        sizes["C"] = len(self.arrays)
        self.shape = tuple(sizes[a] for a in axes)
        self.dtype: np.dtype[Any] = np.dtype(self.arrays[0].dtype)

    @property
    def ndim(self) -> int:
        """Number of axes of the result."""
        return len(self.shape)

    def __setitem__(self, index: Any, block: Any) -> None:
        region = self._region(index)
        lengths = tuple(
            len(range(*part.indices(n))) for part, n in zip(region, self.shape, strict=True)
        )
        whole = np.broadcast_to(np.asarray(block), lengths)
        for array, part, place in self._parts(region, whole):
            array[place] = arrange(part, self._plain, self.array_axes)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        region = self._region(index)
        read = []
        for array, _, place in self._parts(region, None):
            block = np.asarray(array[place])
            order = [self.array_axes.index(a) for a in self._plain]
            rest = [k for k in range(block.ndim) if k not in order]
            read.append(block.transpose(rest + order).reshape([block.shape[k] for k in order]))
        if "C" not in self.axes:
            return read[0]
        stacked: NDArray[Any] = np.stack(read, axis=self.axes.index("C"))
        return stacked

    def detach(self) -> None:
        """Go on in copies: what was written so far belongs to someone else now."""
        first = self.arrays[0]
        in_memory = isinstance(first, np.ndarray) and not isinstance(first, np.memmap)
        chunks = getattr(first, "chunks", first.shape)
        limit = math.inf if in_memory else -1.0
        copies, _ = make_arrays(len(self.arrays), first.shape, first.dtype, chunks, limit)
        for copy, array in zip(copies, self.arrays, strict=True):
            for k in range(first.shape[0]):
                copy[k] = array[k]
        self.arrays = copies

    @property
    def _plain(self) -> str:
        return self.axes.replace("C", "")

    def _region(self, index: Any) -> tuple[slice, ...]:
        spelled = full_index(index, self.shape)
        return tuple(i if isinstance(i, slice) else slice(i, i + 1) for i in spelled)

    def _parts(self, region: tuple[slice, ...], block: Any) -> list[tuple[Any, Any, Any]]:
        """Return (array, its part of the block, its index) for each channel of a region."""
        where = dict(zip(self.axes, region, strict=True))
        channels = range(len(self.arrays))[where.pop("C", slice(None))]
        place = tuple(where.get(a, slice(None)) for a in self.array_axes)
        if "C" not in self.axes:
            return [(self.arrays[0], block, place)]
        at = self.axes.index("C")
        return [
            (self.arrays[k], None if block is None else block.take(n, at), place)
            for n, k in enumerate(channels)
        ]
