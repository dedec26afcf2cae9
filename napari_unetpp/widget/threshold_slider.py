"""A slider of fractions that the keyboard moves too.

superqt's labelled slider of fractions shows and takes a number beside the groove, but ignores
the arrow keys and takes part in the focus order twice.
"""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeyEvent
from qtpy.QtWidgets import QAbstractSlider, QLineEdit
from superqt import QLabeledDoubleSlider

_STEP = 0.01
_PAGE = 0.1
_MOVES = {
    Qt.Key.Key_Left: -_STEP,
    Qt.Key.Key_Down: -_STEP,
    Qt.Key.Key_Right: _STEP,
    Qt.Key.Key_Up: _STEP,
    Qt.Key.Key_PageDown: -_PAGE,
    Qt.Key.Key_PageUp: _PAGE,
    Qt.Key.Key_Home: -1.0,
    Qt.Key.Key_End: 1.0,
}


class ThresholdSlider(QLabeledDoubleSlider):
    """0 to 1 in steps of 0.01, with its value beside it."""

    def __init__(self, name: str) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self.setRange(0.0, 1.0)
        self.setSingleStep(_STEP)  # type: ignore[arg-type]  # superqt's stub says int
        self.setPageStep(_PAGE)  # type: ignore[arg-type]
        self.setDecimals(2)
        self.setValue(0.5)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAccessibleName(name)
        for groove in self.findChildren(QAbstractSlider):
            groove.setAccessibleName(name)
            groove.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
            groove.setFocusProxy(self)
        for number in self.findChildren(QLineEdit):
            number.setAccessibleName(f"{name}, as a number")

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Move by a step, a page or to an end."""
        move = None if event is None else _MOVES.get(Qt.Key(event.key()))
        if move is None:
            super().keyPressEvent(event)
        else:
            value = round(float(self.value()) + move, 2)
            self.setValue(min(1.0, max(0.0, value)))
