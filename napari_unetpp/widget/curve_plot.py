"""The curve of a fine-tuning: loss, and held-out score of each level, over seconds.

Drawn with Qt's painter, because neither napari nor superqt brings a plot of lines. Levels have
their names at the ends of their lines, so that no legend and no colour is needed to tell them
apart. A view: it knows numbers and no engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPalette, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_unetpp.widget.controls import name_control

COLOURS = {
    "dark": {1: "#e69f00", 2: "#cc79a7", 3: "#2bb98a", 4: "#56b4e9"},
    "light": {1: "#a85500", 2: "#94487a", 3: "#00714f", 4: "#00609a"},
}
"""Okabe and Ito's, made lighter or darker until they stand out on napari's themes."""

_TIP = (
    "How well each level does on the strokes that are held out, and the loss (dotted, on its own "
    "scale), over seconds. The ring is the state that is kept."
)
_MOST = 600
"""Points of the loss that are kept; of more, every second one goes."""


class CurvePlot(QWidget):
    """Loss and scores of one fine-tuning."""

    def __init__(self) -> None:
        super().__init__()
        name_control(self, "curve_plot", "Curve of the fine-tuning", _TIP)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.start(30.0)

    def start(self, budget: float) -> None:
        """Begin an empty plot that reaches to a number of seconds."""
        self.budget = max(budget, 1.0)
        self.losses: list[tuple[float, float]] = []
        self.scores: dict[int, list[tuple[float, float]]] = {}
        self.best: float | None = None
        self._mean = math.nan
        self.setAccessibleDescription("")
        self.update()

    def add_loss(self, seconds: float, loss: float) -> None:
        """Add a step; what is drawn is a running mean, for single batches differ much."""
        if not math.isfinite(loss):
            return
        self._mean = loss if math.isnan(self._mean) else 0.85 * self._mean + 0.15 * loss
        self.losses.append((seconds, self._mean))
        if len(self.losses) > _MOST:
            del self.losses[1:-1:2]
        self.update()

    def add_scores(self, seconds: float, scores: Mapping[int, float], best: bool) -> None:
        """Add the held-out scores of a state; `best` says that it is kept."""
        for level, score in scores.items():
            self.scores.setdefault(level, []).append((seconds, score))
        if best and scores:
            self.best = seconds
        told = ", ".join(f"L{k} {row[-1][1]:.2f}" for k, row in sorted(self.scores.items()))
        self.setAccessibleDescription(f"after {seconds:.0f} s: {told}" if told else "")
        self.update()

    def sizeHint(self) -> QSize:
        """Return a size that leaves room for four names above each other."""
        return QSize(280, 8 * self.fontMetrics().height())

    def minimumSizeHint(self) -> QSize:
        """Return the least size that can be read."""
        return QSize(160, self.sizeHint().height())

    @property
    def colours(self) -> dict[int, str]:
        """The colour of each level in the theme of the moment."""
        dark = self.palette().color(QPalette.ColorRole.Window).lightness() < 128
        return COLOURS["dark" if dark else "light"]

    def range(self) -> tuple[float, float]:
        """Return the lowest and the highest score of the axis."""
        values = [score for row in self.scores.values() for _, score in row]
        if not values:
            return 0.0, 1.0
        low = max(0.0, math.floor(min(values) * 10 - 0.3) / 10)
        high = min(1.0, math.ceil(max(values) * 10 + 0.3) / 10)
        return low, max(high, low + 0.2)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw axes, loss and scores."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(self.palette().color(QPalette.ColorRole.WindowText))
        metrics = self.fontMetrics()
        left, right = metrics.horizontalAdvance("0.00 "), metrics.horizontalAdvance("loss") + 12
        above, below = metrics.height() // 2, metrics.height() + 2
        area = QRectF(self.rect()).adjusted(left, above, -right, -below)
        end = max([self.budget, *(float(math.ceil(s)) for s, _ in self.losses[-1:])])
        self._draw_axes(painter, area, end)
        names: list[tuple[float, str, QColor, float]] = []
        if self.losses:
            names.append(self._draw_loss(painter, area, end))
        for level, row in sorted(self.scores.items()):
            names.append(self._draw_score(painter, area, end, level, row))
        self._draw_names(painter, area, names)
        if not self.scores and not self.losses:
            painter.setOpacity(0.72)
            painter.drawText(area, int(Qt.AlignmentFlag.AlignCenter), "reading the paint …")

    def _draw_axes(self, painter: QPainter, area: QRectF, end: float) -> None:
        low, high = self.range()
        for value in (low, (low + high) / 2, high):
            y = self._y(area, value)
            painter.setOpacity(0.18)
            painter.drawLine(QPointF(area.left(), y), QPointF(area.right(), y))
            painter.setOpacity(0.72)
            box = QRectF(0, y - 10, area.left() - 4, 20)
            flags = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            painter.drawText(box, int(flags), f"{value:.2f}")
        for share in (0.0, 0.5, 1.0):
            x = area.left() + share * area.width()
            seconds = share * end
            text = f"{seconds:.0f} s" if share == 1.0 else f"{seconds:.1f}".removesuffix(".0")
            wide = self.fontMetrics().horizontalAdvance(text)
            painter.drawText(QPointF(x - wide * share, self.height() - 3), text)
        painter.setOpacity(1.0)

    def _draw_loss(
        self, painter: QPainter, area: QRectF, end: float
    ) -> tuple[float, str, QColor, float]:
        values = [loss for _, loss in self.losses]
        low, span = min(values), (max(values) - min(values)) or 1.0
        points = [
            QPointF(
                area.left() + seconds / end * area.width(),
                area.bottom() - (0.04 + 0.92 * (loss - low) / span) * area.height(),
            )
            for seconds, loss in self.losses
        ]
        colour = self.palette().color(QPalette.ColorRole.WindowText)
        painter.setOpacity(0.6)
        painter.setPen(QPen(colour, 1.2, Qt.PenStyle.DotLine))
        painter.drawPolyline(QPolygonF(points))
        painter.setOpacity(1.0)
        return points[-1].y(), "loss", colour, 0.72

    def _draw_score(
        self,
        painter: QPainter,
        area: QRectF,
        end: float,
        level: int,
        row: list[tuple[float, float]],
    ) -> tuple[float, str, QColor, float]:
        colour = QColor(self.colours.get(level, self.colours[4]))
        points = [
            QPointF(area.left() + seconds / end * area.width(), self._y(area, score))
            for seconds, score in row
        ]
        painter.setPen(QPen(colour, 1.8))
        painter.drawPolyline(QPolygonF(points))
        painter.setBrush(colour)
        for point in points:
            painter.drawEllipse(point, 1.8, 1.8)
        painter.setBrush(Qt.BrushStyle.NoBrush)
        for (seconds, _), point in zip(row, points, strict=True):
            if seconds == self.best:
                painter.drawEllipse(point, 4.5, 4.5)
        return points[-1].y(), f"L{level}", colour, 1.0

    def _draw_names(
        self, painter: QPainter, area: QRectF, names: list[tuple[float, str, QColor, float]]
    ) -> None:
        """Write the names at the right, moved apart where lines end close to each other."""
        step = self.fontMetrics().height() * 0.82
        wanted = sorted(names, key=lambda row: row[0])
        for y, (_, text, colour, opacity) in zip(
            spread([row[0] for row in wanted], step, 0.0, area.bottom() + step / 2),
            wanted,
            strict=True,
        ):
            painter.setPen(colour)
            painter.setOpacity(opacity)
            box = QRectF(area.right() + 9, y - step, self.width() - area.right() - 9, 2 * step)
            painter.drawText(box, int(Qt.AlignmentFlag.AlignVCenter), text)
        painter.setOpacity(1.0)

    def _y(self, area: QRectF, score: float) -> float:
        low, high = self.range()
        return area.bottom() - (score - low) / (high - low) * area.height()


def spread(places: list[float], step: float, low: float, high: float) -> list[float]:
    """Return ascending places at least a step apart, as near to the given ones as they can be."""
    found: list[float] = []
    for place in places:
        found.append(max(place, low, found[-1] + step) if found else max(place, low))
    over = high
    for k in range(len(found) - 1, -1, -1):
        found[k] = min(found[k], over)
        over = found[k] - step
    return found
