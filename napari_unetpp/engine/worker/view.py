"""What is on screen, level after level: from kept nodes, or L1 and then one graph with all heads.

All levels share one window, which ends at a multiple of 2^L of the deepest one. Where the
image's size is no such multiple, a run at a lower level ends it earlier, and the two differ
within that level's halo of the image's far ends. Knows a runner and arrays; no link, no message.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import OutOfMemory
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.memory import SHARE, budget_bytes, bytes_per_pixel, is_out_of_memory
from napari_unetpp.core.run.precision import DTYPES
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.run.tiling import Region, Tile, aligned_halo, padded_size
from napari_unetpp.engine.worker.by_tile import ByTile, by_tile
from napari_unetpp.engine.worker.warm import Key

Cut = Callable[[NDArray[np.float32], Region], NDArray[np.float32]]


class View:
    """A window of a plane or volume, and what was computed of it.

    Parameters
    ----------
    key : tuple
        Names model, image, channel and place.
    x : ndarray of float32, shape (C, *window)
        The network's input; each size a multiple of 2^L with L the deepest trained level.
    tile : Tile
        Which part of the window is valid.
    runner : Runner
        The model.
    cut : callable
        Takes a level's probabilities (of the tile's core) and a region of the image, and
        returns those of the region.
    shape : tuple of int, optional
        Of the plane or volume on the model's grid; that of the window if None.
    windowed : bool
        Whether the window is a part that was made for a region; else it is the whole.

    Attributes
    ----------
    covers : tuple of slice
        The part of the image of which any region can be had.
    seconds : dict of int to float
        What each level took.
    """

    def __init__(
        self,
        key: Key,
        x: NDArray[np.float32],
        tile: Tile,
        runner: Runner,
        cut: Cut,
        shape: tuple[int, ...] | None = None,
        windowed: bool = False,
    ) -> None:
        self.key, self._tile, self._x, self._runner, self._cut = key, tile, x, runner, cut
        self._shape, self._windowed = shape or x.shape[1:], windowed
        self.covers: Region = tile.core
        self._auto: tuple[Region, ByTile] | None = None
        self.seconds: dict[int, float] = {}
        self._found: dict[int, NDArray[np.float32]] = {}
        self._levels: Iterator[tuple[int, NDArray[np.float32]]] | None = None
        self._spent = 0.0
        network, kind = runner.card.network, runner.device.kind
        deepest = max(runner.card.levels_trained)
        itemsize = DTYPES[runner.precision_of(deepest)].itemsize
        pixels = math.prod(x.shape[1:])
        # Twice what a run allows itself, if there is so much: nobody else computes while one looks.
        most = min(2.0, 1.0 / SHARE[kind]) * budget_bytes(kind)
        self._keeps_nodes = pixels * bytes_per_pixel(network, deepest, itemsize) <= most

    @property
    def levels_done(self) -> tuple[int, ...]:
        """Levels that were computed."""
        return tuple(self._found)

    def let_go_of_nodes(self) -> None:
        """Free the kept nodes; levels that were computed stay."""
        close = getattr(self._levels, "close", None)
        self._levels = None
        if close is not None:
            close()

    def probabilities(
        self, level: int, region: Region, others: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        """Return a level of a region, (channels, *region), computing what is missing.

        Parameters
        ----------
        level : int
            Which one.
        region : tuple of slice
            Of the image.
        others : sequence of int
            Levels that will be asked for next: where no nodes are kept they are made in the
            same pass.

        Raises
        ------
        OutOfMemory
            If the window does not fit.
        """
        if level not in self._found:
            try:
                if not self._keeps_nodes:
                    self._from_tiles(level)
                elif not self._runner.keeps_nodes:
                    self._in_one_pass(level, others)
                else:
                    self._deepen(level)
            except BaseException as error:
                self.let_go_of_nodes()
                if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
                    raise self._too_large() from error
                raise
        return self._cut(self._found[level], region)

    def _deepen(self, level: int) -> None:
        if self._levels is None:
            self._levels, self._spent = self._runner.levels(self._x[None]), 0.0
        while level not in self._found:
            start = time.perf_counter()
            reached, found = next(self._levels)
            self._spent += time.perf_counter() - start
            self.seconds[reached] = self._spent
            self._found[reached] = np.ascontiguousarray(found[0][(slice(None), *self._tile.inner)])
        if level == max(self._runner.card.levels_trained):
            self.let_go_of_nodes()  # nothing is deeper

    def _in_one_pass(self, level: int, others: Sequence[int]) -> None:
        """Make the first level alone, on what it sees of the window; the rest from one graph."""
        trained = sorted(self._runner.card.levels_trained)
        start = time.perf_counter()
        if level == trained[0]:
            tile = _narrowed(self._tile, level)
            within = tuple(
                slice(n.start - w.start, n.stop - w.start)
                for n, w in zip(tile.window, self._tile.window, strict=True)
            )
            x = self._x[(slice(None), *within)]
            found = self._runner.probabilities(x[None], level, tile.inner)
            self._found[level] = np.ascontiguousarray(found[0])
            self.seconds[level] = time.perf_counter() - start
            return
        wanted = [k for k in trained[1:] if k == level or (k in others and k not in self._found)]
        passed = self._runner.several(self._x[None], wanted)
        spent = time.perf_counter() - start
        inner = (slice(None), *self._tile.inner)
        for k, share in self._shares(wanted).items():
            self.seconds[k] = spent * share
            self._found[k] = np.ascontiguousarray(passed.pop(k)[0][inner])

    def _shares(self, levels: Sequence[int]) -> dict[int, float]:
        """Return the operations of each level as a share of the deepest's."""
        network, shape = self._runner.card.network, self._x.shape[1:]
        counts = {k: multiply_accumulates(network, shape, k) for k in levels}
        return {k: count / max(counts.values()) for k, count in counts.items()}

    def _from_tiles(self, level: int) -> None:
        start = [0] * len(self._shape)
        found = by_tile(self._runner, level, self._x, start, self._x.shape[1:], self._tile.inner)
        self._found[level], self.seconds[level] = found.probabilities, found.seconds

    def auto(self, region: Region) -> ByTile:
        """Return what a run at "auto" over a region of the image comes to.

        Of a view that is a whole plane or volume it is a run over that, and the region is cut
        from it.
        """
        part = region if self._windowed else self._tile.core
        if self._auto is None or self._auto[0] != part:
            start = [w.start for w in self._tile.window]
            found = by_tile(self._runner, "auto", self._x, start, self._shape, part)
            self._auto = part, found
        found = self._auto[1]
        if self._windowed:
            return found
        return replace(found, probabilities=self._cut(found.probabilities, region))

    def _too_large(self) -> OutOfMemory:
        size = "x".join(str(n) for n in self._x.shape[1:])
        return OutOfMemory(
            f"the view needs a window of {size}, which does not fit into memory; zoom in, or run "
            "over the image instead."
        )


def _narrowed(tile: Tile, level: int) -> Tile:
    """Return the part of a window that a level sees of its core; it ends where the window ends."""
    reach = aligned_halo(level)
    window = tuple(
        slice(max(c.start - reach, w.start), min(padded_size(c.stop, level) + reach, w.stop))
        for c, w in zip(tile.core, tile.window, strict=True)
    )
    return Tile(tile.core, window)
