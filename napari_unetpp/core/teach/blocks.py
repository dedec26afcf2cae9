"""An array of labels in blocks: which blocks a box touches, and blocks as bytes.

Knows shapes and boxes; no file, no viewer.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_unetpp.core.errors import InputError

Box = tuple[tuple[int, int], ...]
"""Start and stop along each axis of an array."""

Key = tuple[int, ...]
"""Number of a block along each axis."""

_PLANE = (128, 128)
_VOLUME = (8, 64, 64)
_COUNT = struct.Struct("<B")


class Grid:
    """The blocks of an array.

    Parameters
    ----------
    shape : sequence of int
        Of the array.
    dtype : dtype
        Of its values; whole numbers or bool.

    Raises
    ------
    InputError
        If the values are no labels.
    """

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
        if self.dtype.kind not in "uib" or not self.shape:
            raise InputError(
                f"painted labels must be an array of whole numbers, got {np.dtype(dtype)} with "
                f"{len(self.shape)} axes; give a labels layer."
            )
        best = _PLANE if len(self.shape) < 3 else _VOLUME
        self.block = ((1,) * (len(self.shape) - len(best)) + best)[-len(self.shape) :]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self) -> Iterator[Key]:
        """Walk over all blocks."""
        return self.touching(tuple((0, n) for n in self.shape))

    def touching(self, box: Box) -> Iterator[Key]:
        """Walk over the blocks that a box touches; what lies outside of the array is left out."""
        if len(box) != len(self.shape):
            return iter(())
        ranges = []
        for (start, stop), size, step in zip(box, self.shape, self.block, strict=True):
            start, stop = max(0, int(start)), min(size, int(stop))
            ranges.append(range(start // step, -(-stop // step)) if start < stop else range(0))
        return itertools.product(*ranges)

    def box(self, key: Key) -> Box:
        """Return where a block lies."""
        return tuple(
            (k * step, min((k + 1) * step, size))
            for k, step, size in zip(key, self.block, self.shape, strict=True)
        )

    def read(self, array: Any, key: Key) -> NDArray[Any]:
        """Return a copy of a block of an array-like, in the grid's type."""
        block = np.asarray(array[slices(self.box(key))])
        return np.array(block, dtype=self.dtype, order="C")

    def unpack(self, key: Key, packed: bytes | None) -> NDArray[Any]:
        """Return a block from `pack`'s bytes; zeros for None."""
        shape = lengths(self.box(key))
        if packed is None:
            return np.zeros(shape, self.dtype)
        return np.frombuffer(zlib.decompress(packed), self.dtype).reshape(shape)


def pack(block: NDArray[Any]) -> bytes:
    """Return a block compressed."""
    return zlib.compress(np.ascontiguousarray(block).tobytes())


def changed_box(old: NDArray[Any], new: NDArray[Any]) -> Box | None:
    """Return the smallest box in which two blocks differ; None if they are the same."""
    differ = old != new
    if not differ.any():
        return None
    box = []
    for axis in range(differ.ndim):
        others = tuple(k for k in range(differ.ndim) if k != axis)
        where = np.flatnonzero(differ.any(axis=others))
        box.append((int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def slices(box: Box) -> tuple[slice, ...]:
    """Return a box as an index."""
    return tuple(slice(start, stop) for start, stop in box)


def lengths(box: Box) -> tuple[int, ...]:
    """Return the shape of a box."""
    return tuple(stop - start for start, stop in box)


def encode_values(box: Box, packed: bytes) -> bytes:
    """Return a box and the packed values in it as a payload."""
    numbers = [n for pair in box for n in pair]
    return _COUNT.pack(len(box)) + struct.pack(f"<{len(numbers)}Q", *numbers) + packed


def decode_values(payload: bytes, grid: Grid) -> tuple[Box, NDArray[Any]]:
    """Return what `encode_values` was given, the values unpacked.

    Raises
    ------
    InputError
        If it does not fit the grid.
    """
    try:
        (count,) = _COUNT.unpack_from(payload)
        numbers = struct.unpack_from(f"<{2 * count}Q", payload, 1)
        box = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        inside = len(box) == len(grid.shape) and all(
            0 <= start < stop <= size for (start, stop), size in zip(box, grid.shape, strict=True)
        )
        if not inside:
            raise ValueError("the box lies outside")
        shape = lengths(box)
        size = math.prod(shape) * grid.dtype.itemsize
        inflater = zlib.decompressobj()
        raw = inflater.decompress(payload[1 + 16 * count :], size)
        if len(raw) != size:
            raise ValueError("there are too few values")
        return box, np.frombuffer(raw, grid.dtype).reshape(shape)
    except (struct.error, zlib.error, ValueError) as error:
        raise InputError(
            f"a record of the journal does not fit its layer ({error}); it is left out."
        ) from error
