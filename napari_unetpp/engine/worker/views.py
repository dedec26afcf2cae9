"""What is on screen, level after level: from kept nodes, or L1 and then one graph with all heads.

For a 2D model on the image's own grid the window is the region and the halo around it, so
that it equals a run. A 3D model, or one with a spacing of its own, sees the whole plane or
volume at the request's place; its levels are kept, and any region of it is cut from them.
All levels share one window, which ends at a multiple of 2^L of the deepest one. Where the
image's size is no such multiple, a run at a lower level ends it earlier, and the two differ
within that level's halo of the image's far ends. Knows the core and the link; no message.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import Part, arrange
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError, OutOfMemory
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.memory import budget_bytes, bytes_per_pixel, is_out_of_memory
from napari_unetpp.core.run.precision import DTYPES
from napari_unetpp.core.run.runtime import Level as CoreLevel
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import space_for
from napari_unetpp.core.run.streaming import Block, plan_tiles, stream
from napari_unetpp.core.run.tiling import Region, Tile, aligned_halo, padded_size
from napari_unetpp.engine.protocol import Level, ViewRequest
from napari_unetpp.engine.worker.link import Link
from napari_unetpp.engine.worker.restore import restorer
from napari_unetpp.engine.worker.warm import Key, Warm

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
    """

    def __init__(
        self, key: Key, x: NDArray[np.float32], tile: Tile, runner: Runner, cut: Cut
    ) -> None:
        self.key, self._tile, self._x, self._runner, self._cut = key, tile, x, runner, cut
        self.covers: Region = tile.core
        self.seconds: dict[int, float] = {}
        self._found: dict[int, NDArray[np.float32]] = {}
        self._levels: Iterator[tuple[int, NDArray[np.float32]]] | None = None
        self._spent = 0.0
        network, kind = runner.card.network, runner.device.kind
        deepest = max(runner.card.levels_trained)
        itemsize = DTYPES[runner.precision_of(deepest)].itemsize
        pixels = math.prod(x.shape[1:])
        # Twice what a run allows itself: nobody else computes while one looks.
        self._keeps_nodes = pixels * bytes_per_pixel(
            network, deepest, itemsize
        ) <= 2 * budget_bytes(kind)

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
        x, start = self._x, time.perf_counter()
        plan = plan_tiles(self._runner, level, x.shape[1:])
        whole: NDArray[np.float32] | None = None

        def load(_: int, tile: Tile) -> tuple[NDArray[np.float32], int]:
            return x[(slice(None), *tile.window)], 0

        for item in stream(self._runner, level, load, plan, 1):
            if isinstance(item, Block):
                if whole is None:
                    whole = np.empty((len(item.probabilities), *x.shape[1:]), np.float32)
                whole[(slice(None), *item.tile.core)] = item.probabilities
        assert whole is not None
        self._found[level] = np.ascontiguousarray(whole[(slice(None), *self._tile.inner)])
        self.seconds[level] = time.perf_counter() - start

    def _too_large(self) -> OutOfMemory:
        size = "x".join(str(n) for n in self._x.shape[1:])
        return OutOfMemory(
            f"the view needs a window of {size}, which does not fit into memory; zoom in, or run "
            "over the image instead."
        )


def show(
    warm: Warm,
    link: Link,
    runner: Runner,
    model: Key,
    image: Image,
    key: str,
    request: ViewRequest,
) -> list[Level]:
    """Send the levels of a view, one after the other.

    Parameters
    ----------
    warm : Warm
        What is kept.
    link : Link
        Gets the levels.
    runner, model
        From :meth:`Warm.runner`.
    image : Image
        The client's.
    key : str
        Of the source; the view is kept for a request with the same one.
    request : ViewRequest
        What is wanted.

    Returns
    -------
    list of int or str
        The levels that the client has now.
    """
    if request.level == "auto":
        raise InputError("a view shows the levels themselves, not auto; give a level.")
    runner.stage_of(cast(CoreLevel, request.level))
    trained = sorted(runner.card.levels_trained)
    every = request.level == "ensemble"
    levels = [k for k in trained if every or k <= int(request.level)]
    if not every and set(levels) <= set(request.skip):
        return list(levels)
    source = Source(image, runner.card, request.channel)
    letters, part, region = place_of(source, image, request.region)
    view = view_of(warm, link, runner, model, source, key, request.channel, part, region)
    total: NDArray[np.float32] | None = None
    for level in _order(levels, runner.keeps_nodes or every):
        if level in request.skip and not every and level != levels[-1]:
            continue
        found = view.probabilities(
            level, region, [k for k in levels if every or k not in request.skip]
        )
        link.check()
        if every:
            total = found.copy() if total is None else total + found
        if level not in request.skip:
            _send(link, level, found, letters, runner, view.seconds[level])
    if total is None:
        return list(levels)
    total /= len(levels)
    _send(link, "ensemble", total, letters, runner, view.seconds[levels[-1]])
    return [*levels, "ensemble"]


def _order(levels: list[int], upwards: bool) -> list[int]:
    """Return in which order levels are sent: of what comes from one pass the deepest first."""
    return levels if upwards else [*levels[:1], *reversed(levels[1:])]


def _send(
    link: Link, level: Level, found: NDArray[np.float32], letters: str, runner: Runner, took: float
) -> None:
    """Send (channels, *space) with the axes of the client's array."""
    values = arrange(found, "C" + runner.card.axes, "C" + letters)
    everything = tuple(slice(0, n, 1) for n in values.shape)
    link.give("level", everything, values, level=level, seconds=took, shape=list(values.shape))


def place_of(
    source: Source, image: Image, wanted: Sequence[tuple[int, int]]
) -> tuple[str, Part, Region]:
    """Return the axes of a request's region, its plane or volume, and the region in that.

    Raises
    ------
    InputError
        If it does not fit the image, or the model needs one position where it has many.
    """
    letters = "".join(a for a in image.axes if a not in "CS")
    sizes = image.sizes
    if len(wanted) != len(letters):
        raise InputError(
            f"a view needs (start, stop) for each axis of {letters}, got {len(wanted)}; "
            "give one for each axis but channels."
        )
    spans = dict(zip(letters, wanted, strict=True))
    for letter, (start, stop) in spans.items():
        long = letter not in source.card.axes and stop - start != 1
        if long or not 0 <= start < stop <= sizes[letter]:
            must = "one position" if long else "a part that is not empty"
            raise InputError(
                f"the view along {letter} must be {must} within 0 and {sizes[letter]}, got "
                f"({start}, {stop}); choose what lies in the image."
            )
    place = {a: s for a, (s, _) in spans.items() if a not in source.card.axes}
    part = next(p for p in source.parts if dict(p.position) == place)
    return letters, part, tuple(slice(*spans[a]) for a in source.card.axes)


def view_of(
    warm: Warm,
    link: Link,
    runner: Runner,
    model: Key,
    source: Source,
    key: str,
    channel: int | None,
    part: Part,
    region: Region,
) -> View:
    """Return the kept view if it covers the region, else read a new one and keep it."""
    image = source.image
    spot = (model, key, image.axes, image.shape, channel, tuple(sorted(part.position.items())))
    kept = warm.view
    if key and kept is not None and kept.key == spot and _inside(region, kept.covers):
        return kept
    warm.view = kept = None  # its nodes go before new ones come
    normalisers, notes, fresh = warm.fitted(source, image, key, channel, model)
    space = space_for(source)
    for note in [*notes, *space.notes] if fresh else []:  # not with every pan
        link.note(note)
    deepest = max(runner.card.levels_trained)
    windowed = space.direct and len(runner.card.axes) == 2
    tile = _tile(space.shape, region if windowed else None, deepest)
    _check_room(runner, tile)
    x, _ = space.load(part, tile, normalisers)
    core = tile.core

    def cut(found: NDArray[np.float32], wanted: Region) -> NDArray[np.float32]:
        inner = (slice(w.start - c.start, w.stop - c.start) for w, c in zip(
            wanted, core, strict=True
        ))  # fmt: skip
        return found[(slice(None), *inner)]

    view = View(spot, x, tile, runner, cut if space.direct else restorer(source))
    if not space.direct:  # any region of the image can be cut from the whole
        view.covers = tuple(slice(0, n) for n in source.shape)
    warm.view = view
    return view


def _inside(region: Region, core: Region) -> bool:
    return all(c.start <= r.start and r.stop <= c.stop for r, c in zip(region, core, strict=True))


def _tile(shape: tuple[int, ...], region: Region | None, level: int) -> Tile:
    """Return the window that a region needs, or the whole."""
    reach, step = aligned_halo(level), 2**level
    core, window = [], []
    for axis, length in enumerate(shape):
        padded = padded_size(length, level)
        start, stop = 0, padded
        if region is not None:
            start = region[axis].start // step * step
            stop = padded_size(region[axis].stop, level)
        core.append(slice(start, min(stop, length)))
        window.append(slice(max(start - reach, 0), min(stop + reach, padded)))
    return Tile(tuple(core), tuple(window))


def _narrowed(tile: Tile, level: int) -> Tile:
    """Return the part of a window that a level sees of its core; it ends where the window ends."""
    reach = aligned_halo(level)
    window = tuple(
        slice(max(c.start - reach, w.start), min(padded_size(c.stop, level) + reach, w.stop))
        for c, w in zip(tile.core, tile.window, strict=True)
    )
    return Tile(tile.core, window)


def _check_room(runner: Runner, tile: Tile) -> None:
    """Refuse a window whose levels alone would fill the memory."""
    network = runner.card.network
    values = network.in_channels + network.out_channels * (len(runner.card.levels_trained) + 1)
    needed = 4.0 * values * math.prod(tile.window_shape)
    room = 2 * budget_bytes("cpu")
    if needed > room:
        size = "x".join(str(n) for n in tile.window_shape)
        raise OutOfMemory(
            f"the view needs {size} of the image at all levels ({needed / 2**30:.1f} GiB, and "
            f"{room / 2**30:.1f} GiB can be had); crop the image, or run over it instead."
        )
