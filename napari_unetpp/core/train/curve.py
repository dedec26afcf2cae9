"""The curve of a training as a picture: loss, and held-out score of every level.

Knows the history that `core.train.training` keeps, and matplotlib's file back end; no window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from napari_unetpp.core.data.io.atomic import replacing

# Colours that stay apart for colour-blind people and in print (Okabe and Ito).
LEVEL_COLOURS = {"1": "#56B4E9", "2": "#009E73", "3": "#E69F00", "4": "#D55E00"}


def draw_curve(history: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Write loss and scores against steps as a PNG; replaces the file at once.

    Parameters
    ----------
    history : sequence of mapping
        Rows with ``step``, ``loss`` and ``scores`` (level to metric to value).
    path : Path
        Ends in ``.png``.
    title : str
        Name of the model.
    """
    # The file back end only, never pyplot: nothing global, no window, any thread.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    steps = [row["step"] for row in history]
    left.plot(steps, [row["loss"] for row in history], color="#333333", marker="o", markersize=3)
    left.set(xlabel="step", ylabel="loss, sum over the heads", ylim=(0, None))
    levels = sorted({level for row in history for level in row["scores"]})
    for level in levels:
        rows = [row for row in history if level in row["scores"]]
        values = [row["scores"][level]["dice_per_image"] for row in rows]
        right.plot(
            [row["step"] for row in rows],
            values,
            color=LEVEL_COLOURS.get(level, "#999999"),
            marker="o",
            markersize=3,
            label=f"L{level}  {values[-1]:.3f}",
        )
    right.set(xlabel="step", ylabel="Dice per image, held out", ylim=(0, 1))
    if levels:
        right.legend(loc="lower right", frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    with replacing(path) as staged:
        figure.savefig(staged, dpi=130)
