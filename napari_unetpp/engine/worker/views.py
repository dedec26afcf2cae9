"""Views for the client: which window a region of the image needs, and its levels on their way.

For a 2D model on the image's own grid the window is the region and the halo around it, so
that it equals a run. A 3D model, or one with a spacing of its own, sees the whole plane or
volume at the request's place; its levels are kept, and any region of it is cut from them.
"auto" is sent as L1 and then as what a run over the same region comes to. Knows the core and
the link; no message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import Part, arrange
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError, OutOfMemory
from napari_unetpp.core.events import Note
from napari_unetpp.core.run.memory import budget_bytes
from napari_unetpp.core.run.runtime import Level as CoreLevel
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import space_for
from napari_unetpp.core.run.tiling import Region, Tile, aligned_halo, padded_size
from napari_unetpp.engine.protocol import Level, ViewRequest
from napari_unetpp.engine.worker.by_tile import in_words
from napari_unetpp.engine.worker.link import Link
from napari_unetpp.engine.worker.restore import restorer
from napari_unetpp.engine.worker.view import View
from napari_unetpp.engine.worker.warm import Key, Warm

__all__ = ["View", "place_of", "show", "view_of"]


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
    runner.stage_of(cast(CoreLevel, request.level))
    trained = sorted(runner.card.levels_trained)
    every, auto = request.level == "ensemble", request.level == "auto"
    levels = trained[:1] if auto else [k for k in trained if every or k <= int(request.level)]
    if not every and not auto and set(levels) <= set(request.skip):
        return list(levels)
    source = Source(image, runner.card, request.channel)
    letters, part, region = place_of(source, image, request.region)
    view = view_of(warm, link, runner, model, source, key, request.channel, part, region)
    told = len(runner.notes)
    total: NDArray[np.float32] | None = None
    for level in _order(levels, runner.keeps_nodes or every):
        if level in request.skip and not every and (auto or level != levels[-1]):
            continue
        found = view.probabilities(
            level, region, [k for k in levels if every or k not in request.skip]
        )
        link.check()
        if every:
            total = found.copy() if total is None else total + found
        if level not in request.skip:
            _send(link, level, found, letters, runner, view.seconds[level])
    if auto:
        whole = view.auto(region)
        link.check()
        link.note(Note(in_words(whole.tiles), "auto-tiles"))
        _send(link, "auto", whole.probabilities, letters, runner, whole.seconds)
    for note in runner.notes[told:]:
        link.note(note)
    if auto:
        return [*levels, "auto"]
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

    view = View(
        spot, x, tile, runner, cut if space.direct else restorer(source), space.shape, windowed
    )
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
