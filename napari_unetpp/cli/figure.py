"""A figure of images with their segmentations at several levels, side by side.

Draws without any window. This module must not know models, files of images or commands; it
gets planes and colours.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.errors import FileError

_TARGET_SIDE = 640  # small planes are enlarged to about this, so that outlines stay thin
_FILL = 0.22


@dataclass(frozen=True)
class Row:
    """One row of the figure.

    Attributes
    ----------
    title : str
        Of the input.
    plane : ndarray, (Y, X) or (Y, X, 3)
        What is shown, any real dtype; a window of grey values is chosen from percentiles.
    panels : mapping of str to ndarray of int, (Y, X)
        Labels by panel title, in order.
    truth : ndarray of int, (Y, X), optional
        True labels, drawn on the input.
    colors : mapping of int to str
        ``#rrggbb`` by label value; objects get colours of their own where it is empty.
    names : mapping of int to str
        For the legend.
    aspect : float
        Height of a pixel over its width.
    window : (float, float), optional
        Values that become black and white.
    """

    title: str
    plane: NDArray[Any]
    panels: Mapping[str, NDArray[np.integer]]
    truth: NDArray[np.integer] | None = None
    colors: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    aspect: float = 1.0
    window: tuple[float, float] | None = None


def draw(rows: Sequence[Row], path: Path, *, title: str = "") -> Path:
    """Draw the rows and write a PNG; it appears under its name only when it is complete.

    Parameters
    ----------
    rows : sequence of Row
        At least one; all with the same number of panels.
    path : Path
        The file.
    title : str
        Above everything.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 1 + max(len(row.panels) for row in rows)
    heights = [row.plane.shape[0] * row.aspect / row.plane.shape[1] for row in rows]
    width = 3.1
    size = (width * columns, sum(width * h + 0.42 for h in heights) + 0.5)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row)
    if title:
        figure.suptitle(title, fontsize=13)
    _legend(figure, rows)
    return _save(figure, path)


def _draw_row(axes: NDArray[Any], row: Row) -> None:
    gray = to_rgb(row.plane, row.window)
    first = gray
    heading = row.title
    if row.truth is not None and row.truth.any():
        first = overlay(gray, row.truth, row.colors, fill=0.0)
        heading += " (truth outlined)"
    pictures = {heading: first}
    pictures |= {name: overlay(gray, labels, row.colors) for name, labels in row.panels.items()}
    for panel, (name, picture) in zip(axes, pictures.items(), strict=False):
        panel.imshow(picture, aspect=row.aspect, interpolation="antialiased")
        panel.set_title(name, fontsize=9.5)
    for panel in axes:
        panel.set_axis_off()


def _legend(figure: Any, rows: Sequence[Row]) -> None:
    from matplotlib.patches import Patch

    entries = {row.names[k]: row.colors[k] for row in rows for k in row.names}
    if entries:
        handles = [Patch(facecolor=color, label=name) for name, color in entries.items()]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9.5,
            frameon=False,
        )  # fmt: skip


def _save(figure: Any, path: Path) -> Path:
    staged = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.png")
    try:
        figure.savefig(staged, format="png")
        os.replace(staged, path)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written ({error.strerror or error}); check that its folder exists, "
            "may be written to and has room."
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return path


def to_rgb(plane: NDArray[Any], window: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Return a plane as grey or colour picture.

    Parameters
    ----------
    plane : ndarray, (Y, X) or (Y, X, 3)
        Any real dtype.
    window : (float, float), optional
        Values that become 0 and 1; percentiles 0.5 and 99.8 if None. Colours of bytes are
        kept as they are.

    Returns
    -------
    ndarray of float32, (Y, X, 3)
        In [0, 1].
    """
    values = np.asarray(plane, dtype=np.float32)
    if window is None:
        if plane.ndim == 3 and plane.dtype == np.uint8:
            window = (0.0, 255.0)
        else:
            low, high = np.nanpercentile(values, (0.5, 99.8))
            window = (float(low), float(high))
    scaled = (values - window[0]) / max(window[1] - window[0], 1e-9)
    scaled = np.clip(np.nan_to_num(scaled), 0, 1)
    picture: NDArray[np.float32] = scaled[..., :3] if scaled.ndim == 3 else scaled[..., None]
    return np.broadcast_to(picture, (*picture.shape[:2], 3))


def overlay(
    picture: NDArray[np.float32],
    labels: NDArray[np.integer],
    colors: Mapping[int, str],
    *,
    fill: float = _FILL,
) -> NDArray[np.float32]:
    """Return a picture with coloured outlines of labels, and a breath of colour inside.

    Parameters
    ----------
    picture : ndarray of float32, (Y, X, 3)
        In [0, 1].
    labels : ndarray of int, (Y, X)
        0 is left as it is.
    colors : mapping of int to str
        By label; every object gets its own if empty.
    fill : float
        Share of the colour inside.

    Returns
    -------
    ndarray of float32, (Y', X', 3)
        Enlarged by a whole factor where the picture is small.
    """
    from skimage.segmentation import find_boundaries

    factor = max(1, round(_TARGET_SIDE / max(labels.shape)))
    large = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    values = np.repeat(np.repeat(labels, factor, axis=0), factor, axis=1)
    table = _color_table(int(values.max(initial=0)), colors)
    tint = table[values]  # (Y', X', 3)
    inside = (values > 0)[..., None]
    result = np.where(inside, (1 - fill) * large + fill * tint, large)
    edge = find_boundaries(values, mode="inner")  # type: ignore[no-untyped-call]
    thick = edge.copy()
    thick[1:] |= edge[:-1] & (values[1:] > 0)  # two pixels: one is lost when it is scaled down
    thick[:, 1:] |= edge[:, :-1] & (values[:, 1:] > 0)
    thick &= values > 0
    result[thick] = tint[thick]
    return result.astype(np.float32)


def _color_table(count: int, colors: Mapping[int, str]) -> NDArray[np.float32]:
    """Return an RGB colour for each label from 0."""
    from matplotlib.colors import hsv_to_rgb, to_rgb

    if colors:
        table = np.ones((max(count, *colors) + 1, 3), np.float32)
        for value, color in colors.items():
            table[value] = to_rgb(color)
        return table
    # Steps by the golden ratio: neighbours in number, which are neighbours in space, differ.
    hue = np.arange(count + 1) * 0.61803398875 % 1.0
    saturation = np.where(np.arange(count + 1) % 2, 0.95, 0.7)
    hsv = np.stack([hue, saturation, np.ones_like(hue)], axis=-1)
    return np.asarray(hsv_to_rgb(hsv), dtype=np.float32)
