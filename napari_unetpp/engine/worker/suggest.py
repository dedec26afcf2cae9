"""Where to paint next: the heads of one view, and how unsure they are together.

The levels are those of what is on screen where that is the same, so they cost nothing. Knows
the core, views and the link; no message.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.axes import arrange, index_of
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.tiling import Region
from napari_unetpp.core.tune.disagreement import next_places, uncertainty
from napari_unetpp.engine.protocol import Suggestion, SuggestRequest
from napari_unetpp.engine.worker.link import Link, RemoteSink
from napari_unetpp.engine.worker.views import place_of, view_of
from napari_unetpp.engine.worker.warm import Key, Warm

LIMIT = 2**23
"""Pixels that are looked at: some seconds of computing, and some hundred MB."""

SIDE = {2: 48, 3: 24}
"""Size of a suggested place along each spatial axis of the model."""


def suggest(
    warm: Warm,
    link: Link,
    runner: Runner,
    model: Key,
    image: Image,
    key: str,
    request: SuggestRequest,
    painted: Image | None,
    sink: RemoteSink | None,
) -> list[Suggestion]:
    """Find the next places to paint.

    Parameters
    ----------
    warm, link, runner, model, image, key, request
        As for :func:`views.show`.
    painted : Image, optional
        Painted labels, of the image's shape without channels.
    sink : RemoteSink, optional
        Gets the map.

    Returns
    -------
    list of Suggestion
        The most uncertain first.

    Raises
    ------
    InputError
        If the region, the painted labels or the sink do not fit the image.
    """
    source = Source(image, runner.card, request.channel)
    letters, part, region = place_of(source, image, request.region)
    if painted is not None:
        _check_painted(painted, image, letters)
    sizes = tuple(stop - start for start, stop in request.region)
    if sink is not None and tuple(sink.shape) != sizes:
        raise InputError(f"the map must have the region's shape {sizes}, got {sink.shape}.")
    inside = _middle(region)
    if inside != region:
        wanted, taken = ("x".join(str(s.stop - s.start) for s in r) for r in (region, inside))
        link.note(
            Note(
                f"The region of {wanted} is too large to look at in one go, so its middle of "
                f"{taken} was searched; zoom in to search elsewhere.",
                "region-limited",
            )
        )
    view = view_of(warm, link, runner, model, source, key, request.channel, part, inside)
    channels = runner.card.class_channels
    heads = []
    levels = sorted(runner.card.levels_trained)
    for level in levels:
        heads.append(view.probabilities(level, inside, levels)[channels])
        link.check()
    unsure = uncertainty(heads if len(heads) > 1 else heads * 2)
    spans = dict(zip(letters, request.region, strict=True))
    spans |= {a: (s.start, s.stop) for a, s in zip(runner.card.axes, inside, strict=True)}
    if sink is not None:
        place = tuple(
            slice(spans[a][0] - start, spans[a][1] - start)
            for a, (start, _) in zip(letters, request.region, strict=True)
        )
        sink[place] = arrange(unsure, runner.card.axes, letters)
    paint = None
    if painted is not None:
        block = np.asarray(painted.data[index_of(painted.axes, _slices(spans))])
        kept = block.transpose([painted.axes.index(a) for a in letters])
        paint = arrange(kept, letters, _order(letters, runner.card.axes)).reshape(unsure.shape) != 0
    return [
        Suggestion(
            tuple(box[a] if a in box else spans[a] for a in letters),
            score,
        )
        for box, score in _boxes(unsure, paint, inside, runner.card.axes, request.count)
    ]


def _slices(spans: dict[str, tuple[int, int]]) -> dict[str, int | slice]:
    return {a: slice(start, stop) for a, (start, stop) in spans.items()}


def _order(letters: str, axes: str) -> str:
    """Return the letters with the model's axes last, in its order."""
    return "".join(a for a in letters if a not in axes) + axes


def _check_painted(painted: Image, image: Image, letters: str) -> None:
    mine = {a: image.sizes[a] for a in letters}
    theirs = painted.sizes
    if mine != dict(theirs):
        said = [" x ".join(f"{a}={n}" for a, n in s.items()) for s in (mine, theirs)]
        raise InputError(
            f"the painted labels must have the image's shape {said[0]}, got {said[1]}; paint on a "
            "layer made for this image."
        )


def _middle(region: Region) -> Region:
    """Return the middle of a region, as much of it as is looked at."""
    sizes = [s.stop - s.start for s in region]
    low, high = 1, max(sizes)
    while low < high:  # the largest side that all axes may have
        cap = (low + high + 1) // 2
        low, high = (
            (cap, high) if math.prod(min(n, cap) for n in sizes) <= LIMIT else (low, cap - 1)
        )
    sizes = [min(n, low) for n in sizes]
    starts = [s.start + (s.stop - s.start - n) // 2 for s, n in zip(region, sizes, strict=True)]
    return tuple(slice(a, a + n) for a, n in zip(starts, sizes, strict=True))


def _boxes(
    unsure: NDArray[np.float32], paint: NDArray[Any] | None, inside: Region, axes: str, count: int
) -> list[tuple[dict[str, tuple[int, int]], float]]:
    """Return boxes in the image and their scores, by the model's axes."""
    side = SIDE[len(axes)]
    near = None
    if paint is not None and paint.any():
        # Paint says something about what is around it.
        near = ndimage.maximum_filter(paint, side // 2 + 1)
    found = []
    # More than are wanted, because those that touch paint are left out.
    for one in next_places(unsure, 4 * count, size=side, painted=near):
        box = tuple(
            slice(max(0, p - side // 2), min(n, p - side // 2 + side))
            for p, n in zip(one.place, unsure.shape, strict=True)
        )
        if paint is not None and paint[box].any():
            continue
        score = float(unsure[box].mean())
        named = {
            a: (b.start + r.start, b.stop + r.start)
            for a, b, r in zip(axes, box, inside, strict=True)
        }
        found.append((named, score))
    found.sort(key=lambda row: -row[1])
    return found[:count]
