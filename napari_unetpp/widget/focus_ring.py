"""A ring around the control that the keyboard is at: napari's style shows none."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QPoint, QRect, QRectF, Qt
from qtpy.QtGui import QFocusEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QWidget

_BY_KEYBOARD = (
    Qt.FocusReason.TabFocusReason,
    Qt.FocusReason.BacktabFocusReason,
    Qt.FocusReason.ShortcutFocusReason,
)


class FocusRing(QWidget):
    """Lies over a panel, lets the mouse through, and frames the control that has the focus.

    A click shows no ring: who clicks knows where.
    """

    def __init__(self, panel: QWidget, controls: list[QWidget]) -> None:
        super().__init__(panel)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.hide()
        for control in controls:
            control.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Follow the focus."""
        if not isinstance(watched, QWidget) or event is None:
            return False
        if isinstance(event, QFocusEvent):
            if event.gotFocus() and event.reason() in _BY_KEYBOARD:
                self._frame(watched)
            else:
                self.hide()
        elif event.type() in (QEvent.Type.Resize, QEvent.Type.Move) and watched.hasFocus():
            if self.isVisible():
                self._frame(watched)
        elif event.type() == QEvent.Type.Hide and watched.hasFocus():
            self.hide()
        return False

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the ring in the colour of the text."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setOpacity(0.85)
        painter.setPen(QPen(self.palette().color(QPalette.ColorRole.WindowText), 1.5))
        painter.drawRoundedRect(QRectF(self.rect()).adjusted(1, 1, -1, -1), 3, 3)

    def _frame(self, control: QWidget) -> None:
        panel = self.parentWidget()
        if panel is None:
            return
        corner = control.mapTo(panel, QPoint(0, 0))
        self.setGeometry(QRect(corner, control.size()).adjusted(-3, -2, 3, 2))
        self.raise_()
        self.show()
