"""Painted labels as they were at one moment, held by what is painted alone.

A painted layer is as large as its image and nearly empty. It is read once, block by block,
while its owner goes on painting; blocks without paint are not kept. Knows arrays; no link.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import Index
from napari_unetpp.core.data.lazy import LazyArray
from napari_unetpp.engine.blocks import pieces

_BLOCK = 2**20


class Paint(LazyArray):
    """A copy of an array that is nearly all 0.

    Parameters
    ----------
    source : array-like
        Read now, and not kept.
    """

    def __init__(self, source: Any) -> None:
        dtype = np.dtype(source.dtype)
        self._blocks: list[tuple[tuple[slice, ...], NDArray[Any]]] = []
        narrow = dtype.kind in "ui"
        everything: Index = tuple(slice(0, int(n), 1) for n in source.shape)
        for _, place in pieces(everything, dtype.itemsize, _BLOCK):
            block = np.asarray(source[place])
            if block.any():
                narrow = narrow and block.min() >= 0 and block.max() <= 255
                self._blocks.append((place, block))
        if narrow:  # labels layers hold 32 or 64 bits; a copy of a plane need not
            dtype = np.dtype(np.uint8)
            self._blocks = [(place, block.astype(dtype)) for place, block in self._blocks]
        super().__init__(source.shape, dtype)

    def _read(self, index: Index) -> NDArray[Any]:
        spans = [
            i.indices(n) if isinstance(i, slice) else (i, i + 1, 1)
            for i, n in zip(index, self.shape, strict=True)
        ]
        if any(step != 1 for _, _, step in spans):
            return self._read(tuple(slice(n) for n in self.shape))[index]
        out = np.zeros([max(0, stop - start) for start, stop, _ in spans], self.dtype)
        for place, block in self._blocks:
            mine, theirs = [], []
            for span, where in zip(spans, place, strict=True):
                low, high = max(span[0], where.start), min(span[1], where.stop)
                mine.append(slice(low - span[0], max(low, high) - span[0]))
                theirs.append(slice(low - where.start, max(low, high) - where.start))
            out[tuple(mine)] = block[tuple(theirs)]
        return out[tuple(slice(None) if isinstance(i, slice) else 0 for i in index)]
