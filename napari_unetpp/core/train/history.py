"""The scores of a training so far: in its checkpoint, and as a table for people."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.train.checkpoint import STATE_FILE, load_state


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the scores so far from a training's folder: step, seconds, loss, scores."""
    history: list[dict[str, Any]] = load_state(folder / STATE_FILE).progress["history"]
    return history


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the scores so far as ``history.csv``, one row for a scoring and level."""
    path = folder / "history.csv"
    with replacing(path) as staged, staged.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "loss", "level", "metric", "value"])
        for row in history:
            lead = [row["step"], f"{row['seconds']:.1f}", f"{row['loss']:.5f}"]
            if not row["scores"]:
                writer.writerow([*lead, "", "", ""])
            for level, metrics in row["scores"].items():
                for metric, value in metrics.items():
                    writer.writerow([*lead, level, metric, f"{value:.5f}"])
