"""The classes of a painted layer: value, colour, name, and how many pixels are painted.

A view: a row that is chosen, a name that is written, are said in signals; it knows no layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtpy.QtCore import QSignalBlocker, Qt, Signal
from qtpy.QtGui import QColor, QPixmap
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_unetpp.widget.controls import name_control
from napari_unetpp.widget.report_table import fit_rows, plain_table

_TIP = "What each painted value means. Click a row to paint with it; 0 is not labelled."
_NAME_TIP = "Double-click to rename."
_FIXED_TIP = "The model's own class; its name is the model's."
_LOST_TIP = "This value is painted, but no class has it: add classes, or repaint it."
MOST_ROWS = 6


@dataclass(frozen=True)
class ClassRow:
    """A painted value: what it means, its colour as ``#rrggbb``, and whether it can be renamed.

    ``known`` is False for a value that is painted though no class has it.
    """

    value: int
    name: str
    colour: str
    own: bool = False
    known: bool = True


def count_text(count: int) -> str:
    """Return a number of pixels in five characters or fewer."""
    if count < 10_000:
        return str(count)
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.3g}M"


class ClassTable(QTableWidget):
    """One row for background and for each class."""

    chosen = Signal(int)
    renamed = Signal(int, str)

    def __init__(self) -> None:
        super().__init__(0, 3)
        name_control(self, "class_table", "Classes to paint", _TIP)
        self.rows: list[ClassRow] = []
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        plain_table(self)
        header = self.horizontalHeader()
        if header is not None:
            header.hide()
            fixed = QHeaderView.ResizeMode.ResizeToContents
            header.setSectionResizeMode(fixed)
            header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        self.itemSelectionChanged.connect(self._choose)
        self.itemChanged.connect(self._rename)
        fit_rows(self, MOST_ROWS)

    def show_rows(self, rows: Sequence[ClassRow]) -> None:
        """Show these classes; the row that is chosen stays chosen where it is still there."""
        if list(rows) == self.rows:
            return
        current = self.current
        with QSignalBlocker(self):
            self.rows = list(rows)
            self.setRowCount(len(rows))
            for line, row in enumerate(rows):
                for column, item in enumerate(self._items(row)):
                    self.setItem(line, column, item)
            fit_rows(self, MOST_ROWS)
        self.set_current(current)

    def set_counts(self, counts: Mapping[int, int] | None) -> None:
        """Show painted pixels; None where they are not counted."""
        with QSignalBlocker(self):
            for line, row in enumerate(self.rows):
                item = self.item(line, 2)
                if item is None:
                    continue
                if counts is None:
                    item.setText("")
                    item.setToolTip("Not counted: the layer is very large.")
                else:
                    count = counts.get(row.value, 0)
                    item.setText(count_text(count))
                    item.setToolTip(f"{count} painted pixels")

    @property
    def current(self) -> int | None:
        """The value that is chosen."""
        chosen = sorted({index.row() for index in self.selectedIndexes()})
        return self.rows[chosen[0]].value if chosen and chosen[0] < len(self.rows) else None

    def set_current(self, value: int | None) -> None:
        """Choose a value without a signal; none where it has no row."""
        with QSignalBlocker(self):
            lines = [line for line, row in enumerate(self.rows) if row.value == value]
            if lines:
                self.selectRow(lines[0])
            else:
                self.clearSelection()

    @staticmethod
    def _items(row: ClassRow) -> list[QTableWidgetItem]:
        swatch = QPixmap(12, 12)
        swatch.fill(QColor(row.colour))
        value = QTableWidgetItem(str(row.value))
        value.setData(Qt.ItemDataRole.DecorationRole, swatch)
        name = QTableWidgetItem(row.name)
        count = QTableWidgetItem("")
        count.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        editable = Qt.ItemFlag.ItemIsEditable
        for item in (value, name, count):
            item.setFlags(item.flags() & ~editable)
        if row.own:
            name.setFlags(name.flags() | editable)
        name.setToolTip(_NAME_TIP if row.own else _FIXED_TIP if row.known else _LOST_TIP)
        if row.value == 1:
            name.setToolTip("What is none of the classes; paint it too.")
        return [value, name, count]

    def _choose(self) -> None:
        if (value := self.current) is not None:
            self.chosen.emit(value)

    def _rename(self, item: QTableWidgetItem | None) -> None:
        if item is None or item.column() != 1:
            return
        row = self.rows[item.row()]
        text = item.text().strip()
        if not text or text == row.name:
            with QSignalBlocker(self):
                item.setText(row.name)
            return
        self.renamed.emit(row.value, text)
