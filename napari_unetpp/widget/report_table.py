"""What a fine-tuning brought: a table by level, before and after, and the time of each level.

A view over the JSON report of a fine-tuning; the words are made by functions without Qt, so
that they are tested without a window. Knows no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_unetpp.widget.controls import name_control
from napari_unetpp.widget.figures_table import UNKNOWN, seconds_text

_TIP = (
    "IoU on the strokes that are held out, mean over background and classes, of the base and of "
    "the fine-tuned model; seconds for a megapixel, measured here. Bold: the cheapest level "
    "within 0.01 of the best."
)
Row = tuple[str, str, str, str]


def rows(report: Mapping[str, Any]) -> list[Row]:
    """Return (level, before, after, seconds) as texts; no numbers where nothing is held out."""
    found = []
    for level, row in sorted(report["levels"].items(), key=lambda item: int(item[0])):
        found.append(
            (
                f"L{level}",
                _score(row["before"]),
                _score(row["after"]),
                seconds_text(row["seconds_per_megapixel"]),
            )
        )
    return found


def verdict(report: Mapping[str, Any]) -> str:
    """Return in one sentence what the figures say; why there are none, where there are none."""
    if all(row["after"] is None for row in report["levels"].values()):
        return "Too little paint to hold anything out: there is no score."
    if report["base_kept"]:
        return "The base was better on the held-out strokes, so it stays."
    level = report["cheapest"]
    if level is None:
        return ""
    row = report["levels"][str(level)]
    return f"Cheapest within 0.01 of the best: L{level} ({row['after']:.2f})."


def _score(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}"


class ReportTable(QTableWidget):
    """Levels downwards; before, after and time to the right."""

    def __init__(self) -> None:
        super().__init__(0, 4)
        name_control(self, "report_table", "What the fine-tuning brought", _TIP)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        plain_table(self)
        header = self.horizontalHeader()
        if header is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)

    def show_report(self, report: Mapping[str, Any] | None, unit: str = "Mpx") -> None:
        """Fill the table; None empties it."""
        self.setRowCount(0)
        self.setHorizontalHeaderLabels(["", "before", "after", f"s/{unit}"])
        if report is None:
            return
        found = rows(report)
        self.setRowCount(len(found))
        for line, texts in enumerate(found):
            for column, text in enumerate(texts):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                font = item.font()
                font.setBold(texts[0] == f"L{report['cheapest']}")
                item.setFont(font)
                self.setItem(line, column, item)
        fit_rows(self, len(found))
        self.setAccessibleDescription("; ".join(f"{a}: {b} to {c}" for a, b, c, _ in found))


def plain_table(table: QTableWidget) -> None:
    """Take away what a small table in a panel does not need."""
    vertical = table.verticalHeader()
    if vertical is not None:
        vertical.hide()
        vertical.setMinimumSectionSize(1)
    header = table.horizontalHeader()
    if header is not None:
        header.setMinimumSectionSize(20)
        header.setSectionsClickable(False)
        header.setHighlightSections(False)
    table.setShowGrid(False)
    table.setTabKeyNavigation(False)
    table.setWordWrap(False)
    table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)


def fit_rows(table: QTableWidget, most: int) -> None:
    """Make a table as high as its rows, at most so many of them."""
    line = table.fontMetrics().height() + 5
    for row in range(table.rowCount()):
        table.setRowHeight(row, line)
    header = table.horizontalHeader()
    top = header.sizeHint().height() if header is not None and not header.isHidden() else 0
    shown = max(1, min(table.rowCount(), most))
    table.setFixedHeight(top + shown * line + 2 * table.frameWidth() + 2)
