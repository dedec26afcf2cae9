"""What of a layer is on screen: the region that a live prediction looks at.

Reads the viewer's camera and sliders and the layer's transforms; computes nothing of the
pixels. Fast enough to run on every event of the camera. Knows no engine and no Qt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.axes import SAMPLES
from napari_unetpp.engine.protocol import LayerSource
from napari_unetpp.widget.layer_image import layer_source, level_data, level_factors
from napari_unetpp.widget.placing import data_to_world

Bounds = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class OnScreen:
    """A part of a layer that the canvas shows.

    Attributes
    ----------
    source : LayerSource
        The layer's pixels at the level that napari shows of it.
    region : tuple of (int, int)
        (start, stop) in pixels of `source` for each of its axes but C and S, in their order;
        everything but Y and X has length 1.
    downsampling : tuple of float
        For each axis of `region`: pixels of full resolution that one of `source` covers.
    clipped : bool
        Whether the screen shows more than was allowed, and this is its middle.
    """

    source: LayerSource
    region: Bounds
    downsampling: tuple[float, ...]
    clipped: bool = False

    @property
    def axes(self) -> str:
        """The axes of `region`."""
        return without_channels(self.source.axes)


def camera_of(viewer: Any) -> Any:
    """Return the viewer's camera; napari before 0.9 has no scene that holds it."""
    return getattr(viewer, "scene", viewer).camera


def without_channels(axes: str) -> str:
    """Return the axes but C and S."""
    return "".join(a for a in axes if a not in "C" + SAMPLES)


def on_screen(
    viewer: Any, layer: Any, axes: str, *, model_axes: str, max_pixels: int
) -> OnScreen | str:
    """Return what the canvas shows of a layer, at the sliders' position.

    Parameters
    ----------
    viewer : napari viewer
        Its camera, canvas and dims are read.
    layer : napari Image layer
        Any scale, translate, rotate, shear and affine, plain or multiscale.
    axes : str
        A letter for each axis of its array.
    model_axes : {"YX", "ZYX"}
        Of the model; a 3D model needs a Z axis, and its region is the displayed slice too.
    max_pixels : int
        Largest region; the middle of a larger one is taken.

    Returns
    -------
    OnScreen or str
        Or the reason why there is nothing to predict, in one line.
    """
    place = _place(viewer, layer, axes, model_axes)
    if isinstance(place, str):
        return place
    level = int(layer.data_level) if layer.multiscale else 0
    factors = level_factors(layer, axes, level)
    shape = tuple(int(n) for n in level_data(layer, level).shape)
    rows, columns = place.displayed
    corners = place.corners
    ranges = dict(place.position)
    for k, step in enumerate(factors):
        if k in ranges:
            # napari's own rule for the slice of a level, halves to even.
            ranges[k] = int(np.clip(np.round(place.exact[k] / step), 0, shape[k] - 1))
    steps = np.array([factors[rows], factors[columns]])
    seen = _clip((corners + 0.5) / steps - 0.5, (shape[rows], shape[columns]))
    if seen is None:
        return f"{layer.name} is out of view: pan or zoom to it."
    (top, bottom), (left, right), clipped = _middle(seen, max_pixels)
    bounds = {k: (n, n + 1) for k, n in ranges.items()}
    bounds |= {rows: (top, bottom), columns: (left, right)}
    wanted = [k for k, letter in enumerate(axes) if letter not in "C" + SAMPLES]
    return OnScreen(
        layer_source(layer, axes, level),
        tuple(bounds[k] for k in wanted),
        tuple(factors[k] for k in wanted),
        clipped,
    )


def slice_region(
    viewer: Any, layer: Any, axes: str, out_axes: str, model_axes: str = "YX"
) -> Bounds | str:
    """Return the region of the slice (2D model) or volume (3D) that the sliders are at.

    Parameters
    ----------
    viewer, layer, axes
        See :func:`on_screen`; any axes may be displayed.
    out_axes : str
        Axes of the result; C is left out of the region.
    model_axes : {"YX", "ZYX"}
        The whole extent is taken along these.

    Returns
    -------
    tuple of (int, int) or str
        (start, stop) in pixels of full resolution for each axis of `out_axes` but C, or the
        reason why there is none.
    """
    if layer not in viewer.layers:
        return f"{layer.name} is not in this viewer any more: choose an image."
    if model_axes == "ZYX" and "Z" not in axes:
        return _NO_Z.format(name=layer.name, axes=axes)
    shape = level_data(layer).shape
    displayed, position, _ = _slice_of(viewer, layer, data_to_world(layer))
    bounds = []
    for letter in without_channels(out_axes):
        k = axes.index(letter)
        if letter in model_axes:
            bounds.append((0, int(shape[k])))
        elif k in displayed:
            return f"no single slice is on screen: the view goes along {letter}; choose everything."
        elif not 0 <= position[k] < shape[k]:
            return f"{layer.name} has nothing at this place of the {letter} slider: move it."
        else:
            bounds.append((position[k], position[k] + 1))
    return tuple(bounds)


def run_region(shown: OnScreen, shape: Sequence[int], out_axes: str) -> Bounds:
    """Return what is on screen as the region of a run at full resolution.

    Parameters
    ----------
    shown : OnScreen
        From :func:`on_screen`.
    shape : sequence of int
        Of the layer at full resolution, for each axis of ``shown.source.axes``.
    out_axes : str
        Axes of the result; C is left out.

    Returns
    -------
    tuple of (int, int)
        (start, stop) for each axis of `out_axes` but C.
    """
    bounds = {}
    for letter, (start, stop), step in zip(
        shown.axes, shown.region, shown.downsampling, strict=True
    ):
        length = int(shape[shown.source.axes.index(letter)])
        if letter in "YX":
            first, last = math.floor(start * step), min(length, math.ceil(stop * step))
        else:
            first = min(length - 1, round(start * step))
            last = first + 1
        bounds[letter] = (first, last)
    return tuple(bounds[a] for a in without_channels(out_axes))


_NO_Z = "{name} ({axes}) has no Z axis and the model is 3D: choose other axes or a 2D model."


@dataclass(frozen=True)
class _Place:
    """Where the canvas lies in a layer: displayed axes, the corners, and the slice."""

    displayed: tuple[int, int]
    corners: NDArray[np.float64]  # (4, 2), level 0 pixels along the displayed axes, in a ring
    position: dict[int, int]
    exact: dict[int, float]


def _place(viewer: Any, layer: Any, axes: str, model_axes: str) -> _Place | str:
    if layer not in viewer.layers:
        return f"{layer.name} is not in this viewer any more: choose an image."
    if viewer.dims.ndisplay != 2:
        return "there is no plane on screen: switch 3D display off."
    if model_axes == "ZYX" and "Z" not in axes:
        return _NO_Z.format(name=layer.name, axes=axes)
    matrix = data_to_world(layer)
    displayed, position, exact = _slice_of(viewer, layer, matrix)
    letters = {axes[k] for k in displayed}
    if letters != {"Y", "X"}:
        shown = "".join(axes[k] for k in displayed)
        return f"the view shows {shown} of {layer.name}, not Y and X: change the order of axes."
    hidden = list(position)
    size = float(np.abs(matrix[:-1, :-1]).max())
    across = np.abs(matrix[np.ix_(displayed, hidden)]), np.abs(matrix[np.ix_(hidden, displayed)])
    if any(part.size and part.max() > 1e-6 * size for part in across):
        return f"{layer.name} is tilted out of the screen's plane: live needs it flat."
    shape = level_data(layer).shape
    for k, n in position.items():
        # Along the channels too: napari draws nothing there, but a channel is chosen apart.
        if axes[k] != "C" and not 0 <= n < shape[k]:
            return f"{layer.name} has nothing at this place of the {axes[k]} slider: move it."
    scale = unit_scale(viewer, layer)
    center, half = _canvas(viewer)
    ring = center + half * np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)])
    ring = ring * scale[displayed]
    grid = matrix[np.ix_(displayed, displayed)]
    corners = np.linalg.solve(grid, (ring - matrix[displayed, -1]).T).T
    wanted = {k: n for k, n in position.items() if axes[k] != "C"}
    return _Place((displayed[0], displayed[1]), corners, wanted, exact)


def _slice_of(
    viewer: Any, layer: Any, matrix: NDArray[np.float64]
) -> tuple[list[int], dict[int, int], dict[int, float]]:
    """Return the displayed axes of a layer, and where it is sliced along the others."""
    dims = viewer.dims
    missing = dims.ndim - layer.ndim
    order = [d - missing for d in dims.order if d >= missing]
    displayed = [d - missing for d in dims.displayed if d >= missing]
    hidden = [k for k in order if k not in displayed]
    if not hidden:
        return displayed, {}, {}
    inverse = np.linalg.inv(matrix)
    point = np.asarray(dims.point, dtype=np.float64)[-layer.ndim :] * unit_scale(viewer, layer)
    # Only the sliced axes' part of the inverse, as napari slices.
    place = inverse[np.ix_(hidden, hidden)] @ point[hidden] + inverse[hidden, -1]
    place = np.nan_to_num(place)
    exact = {k: float(p) for k, p in zip(hidden, place, strict=True)}
    return displayed, {k: int(np.round(p)) for k, p in exact.items()}, exact


def _canvas(viewer: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the centre and half the size of what a viewbox shows, in the world."""
    camera = camera_of(viewer)
    canvas = getattr(viewer, "canvas", None)  # napari before 0.9 has none
    size = viewer._canvas_size if canvas is None else canvas.viewbox_size(viewer.layers)
    half = np.asarray(size, dtype=np.float64) / (2 * camera.zoom)
    return np.asarray(camera.center[-2:], dtype=np.float64), half


def unit_scale(viewer: Any, layer: Any) -> NDArray[np.float64]:
    """Return how many of the layer's units one of the viewer's is, for each axis."""
    world = getattr(viewer.dims, "units", None)
    scale = np.ones(layer.ndim)
    if world is None or len(world) < layer.ndim:
        return scale
    for k, (one, own) in enumerate(zip(world[-layer.ndim :], layer.units, strict=True)):
        if one != own:
            scale[k] = _ratio(one, own)
    return scale


@lru_cache(maxsize=256)
def _ratio(one: Any, own: Any) -> float:
    if one.dimensionality != own.dimensionality:
        return 1.0
    return float((1.0 * one).to(own).magnitude)


def _clip(ring: NDArray[np.float64], shape: tuple[int, int]) -> Bounds | None:
    """Return the pixels of an array that a convex polygon touches, as a bounding box.

    The polygon is cut at the array's four borders (Sutherland and Hodgman), so that a corner
    of a turned canvas far from the array does not make the box larger.
    """
    points = [(float(y), float(x)) for y, x in ring]
    for axis, length in enumerate(shape):
        for sign, border in ((1.0, -0.5), (-1.0, length - 0.5)):
            points = _cut(points, axis, sign, border)
            if not points:
                return None
    bounds = []
    for axis, length in enumerate(shape):
        low, high = min(p[axis] for p in points), max(p[axis] for p in points)
        start, stop = max(0, math.floor(low + 0.5)), min(length, math.ceil(high + 0.5))
        if stop <= start:
            return None
        bounds.append((start, stop))
    return tuple(bounds)


def _cut(
    points: list[tuple[float, float]], axis: int, sign: float, border: float
) -> list[tuple[float, float]]:
    """Return the part of a polygon where sign * (coordinate - border) is not negative."""
    kept = []
    for k, point in enumerate(points):
        before = points[k - 1]
        here, there = sign * (point[axis] - border), sign * (before[axis] - border)
        if (here >= 0) != (there >= 0):
            t = there / (there - here)
            kept.append(
                (before[0] + t * (point[0] - before[0]), before[1] + t * (point[1] - before[1]))
            )
        if here >= 0:
            kept.append(point)
    return kept


def _middle(bounds: Bounds, most: int) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """Return the middle of a region with at most `most` pixels and the same shape."""
    (top, bottom), (left, right) = bounds
    rows, columns = bottom - top, right - left
    if rows * columns <= most:
        return bounds[0], bounds[1], False
    shrink = math.sqrt(most / (rows * columns))
    high = min(rows, max(1, math.floor(rows * shrink)))
    wide = min(columns, max(1, most // high))
    if wide == columns:
        high = min(rows, max(1, most // wide))
    else:
        wide = max(1, min(wide, math.floor(columns * shrink)))
        high = min(rows, max(1, most // wide))
        wide = max(1, min(columns, most // high))
    top, left = top + (rows - high) // 2, left + (columns - wide) // 2
    return (top, top + high), (left, left + wide), True
