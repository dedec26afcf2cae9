"""Small things that only show: texts that never widen a panel, a dot, tooltips that wrap.

Colours come from the palette, which follows napari's theme; the three signal colours have the
contrast for both. This module knows nothing of images, models or napari.
"""

from __future__ import annotations

from html import escape
from math import ceil
from typing import Literal

from qtpy.QtCore import QEvent, QObject, QPointF, QRectF, QSize, Qt
from qtpy.QtGui import (
    QColor,
    QPainter,
    QPaintEvent,
    QPalette,
    QPen,
    QResizeEvent,
    QTextLayout,
    QTextOption,
)
from qtpy.QtWidgets import QFrame, QGraphicsOpacityEffect, QLabel, QSizePolicy, QWidget

Kind = Literal["none", "good", "plain", "info", "busy", "warning", "error"]

#: Contrast of 3 : 1 and more on napari's dark and light background alike.
SIGNAL_COLOURS = {"good": "#3f9142", "warning": "#b9770e", "error": "#d04a43"}

_MUTED = 0.72


def tip(text: str) -> str:
    """Return a tooltip that Qt wraps: plain text longer than a line would never end."""
    return text if len(text) < 60 else f"<qt>{escape(text, quote=False)}</qt>"


class TextLabel(QLabel):
    """One line that elides, or several that break even inside a long path.

    ``text()`` stays whole; what is cut is in the tooltip. Nothing it shows can make its parent
    wider, as a plain QLabel would.
    """

    def __init__(self, text: str = "", *, wrap: bool = False, muted: bool = False) -> None:
        super().__init__(text)
        self._wrap = wrap
        self._muted = muted
        self._reason = ""
        self.setTextFormat(Qt.TextFormat.PlainText)
        policy = QSizePolicy(
            QSizePolicy.Policy.Ignored if wrap else QSizePolicy.Policy.Preferred,
            QSizePolicy.Policy.Preferred,
        )
        policy.setHeightForWidth(wrap)
        self.setSizePolicy(policy)

    def show_text(self, text: str, tooltip: str = "") -> None:
        """Show a text; its tooltip is the one given, else the text where that is cut."""
        self.setText(text)
        self._reason = tooltip
        self.setAccessibleDescription(tooltip)
        self._update_tooltip()

    def set_muted(self, muted: bool) -> None:
        """Draw the text fainter: what is of less weight, yet readable."""
        self._muted = muted
        self.update()

    @property
    def muted(self) -> bool:
        """Whether the text is drawn fainter."""
        return self._muted

    def hasHeightForWidth(self) -> bool:
        """Return whether the text wraps."""
        return self._wrap

    def heightForWidth(self, width: int) -> int:
        """Return the height that the wrapped text takes at this width."""
        if not self._wrap:
            return super().heightForWidth(width)
        spare = self.size() - self.contentsRect().size()
        layout = self._lines(width - spare.width())
        height = sum(layout.lineAt(k).height() for k in range(layout.lineCount()))
        return max(self.fontMetrics().height(), ceil(height)) + spare.height()

    def minimumSizeHint(self) -> QSize:
        """Return a size whose width leaves room for a letter or two."""
        metrics = self.fontMetrics()
        short = min(metrics.horizontalAdvance("mm…"), super().sizeHint().width())
        return QSize(short, metrics.height())

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the text elided or wrapped."""
        painter = QPainter(self)
        painter.setOpacity(_MUTED if self._muted and self.isEnabled() else 1.0)
        room = self.contentsRect()
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        if self._wrap:
            self._lines(room.width()).draw(painter, QPointF(room.topLeft()))
            return
        right = Qt.TextElideMode.ElideRight
        text = self.fontMetrics().elidedText(self.text(), right, room.width())
        painter.drawText(room, int(self.alignment()), text)

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        """Offer what is cut as a tooltip."""
        super().resizeEvent(event)
        self._update_tooltip()

    def _lines(self, width: int) -> QTextLayout:
        """Return the text in lines; a word is broken only where it is longer than a line."""
        layout = QTextLayout(self.text().replace("\n", "\u2028"), self.font())
        option = QTextOption()
        option.setWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        layout.setTextOption(option)
        layout.beginLayout()
        top = 0.0
        while (line := layout.createLine()).isValid():
            line.setLineWidth(max(1, width))
            line.setPosition(QPointF(0, top))
            top += line.height()
        layout.endLayout()
        return layout

    def _update_tooltip(self) -> None:
        wide = self.fontMetrics().horizontalAdvance(self.text()) > self.contentsRect().width()
        cut = self.text() if wide and not self._wrap else ""
        self.setToolTip(tip("\n".join(part for part in (cut, self._reason) if part)))


class StateDot(QWidget):
    """A small sign before a line: filled, a ring, or a sign of warning or error."""

    def __init__(self, kind: Kind = "none") -> None:
        super().__init__()
        self._kind: Kind = kind
        self.setFixedSize(14, 14)

    @property
    def kind(self) -> Kind:
        """What the dot shows."""
        return self._kind

    def set_kind(self, kind: Kind) -> None:
        """Show another sign; "none" and "info" show nothing."""
        self._kind = kind
        self.update()

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the sign in its colour, or in the text's."""
        if self._kind in ("none", "info"):
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().color(QPalette.ColorRole.WindowText)
        colour = QColor(SIGNAL_COLOURS.get(self._kind, text.name()))
        if self._kind == "busy":
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colour)
            for x in (2.5, 7.0, 11.5):
                painter.drawEllipse(QPointF(x, 7.5), 1.4, 1.4)
            return
        if self._kind in ("good", "plain"):
            painter.setPen(QPen(colour, 1.5))
            painter.setBrush(colour if self._kind == "good" else Qt.BrushStyle.NoBrush)
            painter.drawEllipse(QPointF(7, 7), 4, 4)
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        painter.drawEllipse(QRectF(0.5, 0.5, 13, 13))
        pen = QPen(QColor("white"), 1.8)
        pen.setCapStyle(Qt.PenCapStyle.RoundCap)
        painter.setPen(pen)
        if self._kind == "warning":
            painter.drawLine(QPointF(7, 3.6), QPointF(7, 7.6))
            painter.drawPoint(QPointF(7, 10.4))
        else:
            painter.drawLine(QPointF(4.8, 4.8), QPointF(9.2, 9.2))
            painter.drawLine(QPointF(9.2, 4.8), QPointF(4.8, 9.2))


class _Fader(QObject):
    """Makes a widget faint while it is disabled."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__(widget)
        self._effect = QGraphicsOpacityEffect(widget)
        self._effect.setOpacity(0.55)
        self._effect.setEnabled(not widget.isEnabled())
        widget.setGraphicsEffect(self._effect)
        widget.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        if event is not None and event.type() == QEvent.Type.EnabledChange:
            self._effect.setEnabled(isinstance(watched, QWidget) and not watched.isEnabled())
        return False


def fade_when_off(widget: QWidget) -> None:
    """Make a widget faint while it is off: napari's style does not show that of a slider."""
    _Fader(widget)


class Rule(QFrame):
    """A thin line between two groups, in the faded colour of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(9)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the line."""
        painter = QPainter(self)
        painter.setOpacity(0.25)
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        painter.drawLine(0, 4, self.width(), 4)
