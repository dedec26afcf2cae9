"""A slider that knows four levels and "auto", and rests on those that a model has.

Knows Qt alone.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QAbstractSlider, QSlider, QStyle, QStyleOptionSlider

from napari_unetpp.widget.labels import fade_when_off

LEVELS = (1, 2, 3, 4)
AUTO = 5
"""The stop after the last level: each tile at the level that it needs."""

STOPS = (*LEVELS, AUTO)

_Action = QAbstractSlider.SliderAction
_BACKWARDS: tuple[Any, ...] = (_Action.SliderSingleStepSub.value, _Action.SliderPageStepSub.value)
_FORWARDS: tuple[Any, ...] = (_Action.SliderSingleStepAdd.value, _Action.SliderPageStepAdd.value)


def level_at(stop: int) -> int | str:
    """Return the level that a stop of the slider stands for: 1 to 4, or "auto"."""
    return "auto" if stop == AUTO else stop


class StopSlider(QSlider):
    """A slider with the stops 1 to 4, and one for "auto", that rests on trained levels only.

    A click goes to the nearest stop. A value that was not trained becomes the nearest one that
    was, wherever it came from, and ``settled`` fires once for each level that it comes to rest on.
    """

    settled = Signal(int)

    def __init__(self) -> None:
        super().__init__(Qt.Orientation.Horizontal)
        self._trained: tuple[int, ...] = LEVELS
        self._resting = LEVELS[-1]
        self.setRange(LEVELS[0], LEVELS[-1])
        self.setSingleStep(1)
        self.setPageStep(1)
        self.setTickInterval(1)
        self.setValue(self._resting)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumHeight(28)
        fade_when_off(self)
        self.actionTriggered.connect(self._adjust)
        self.valueChanged.connect(self._settle)

    @property
    def trained(self) -> tuple[int, ...]:
        """The stops that it may rest on; AUTO is the last of them where there is that."""
        return self._trained

    @property
    def stops(self) -> tuple[int, ...]:
        """All stops that it shows, whether the model has them or not."""
        return STOPS if self.maximum() == AUTO else LEVELS

    def set_trained(self, trained: tuple[int, ...]) -> None:
        """Say which stops there are; the value moves to the nearest of them."""
        self._trained = tuple(sorted(trained)) or LEVELS
        value = self.nearest(self.value())
        self.setMaximum(AUTO if AUTO in self._trained else LEVELS[-1])
        self.setValue(value)
        self.update()

    def nearest(self, value: int) -> int:
        """Return the stop that is nearest of those there are; the cheaper one of two."""
        return min(self._trained, key=lambda level: (abs(level - value), level))

    def stop_x(self, level: int) -> float:
        """Return where the middle of the handle is at a level."""
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        option.sliderPosition = level
        handle = self._sub_rect(option)
        return handle.x() + handle.width() / 2

    def handle_width(self) -> int:
        """Return the width of the handle in the style of the moment."""
        option = QStyleOptionSlider()
        self.initStyleOption(option)
        return self._sub_rect(option).width()

    def sizeHint(self) -> QSize:
        """Return a size with room for the ticks below the groove."""
        return QSize(120, self.minimumHeight())

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        """Go to the stop that was clicked."""
        if event is None or event.button() != Qt.MouseButton.LeftButton:
            super().mousePressEvent(event)
            return
        self.setSliderDown(True)
        self._go(event.pos())

    def mouseMoveEvent(self, event: QMouseEvent | None) -> None:
        """Follow a drag from stop to stop."""
        if event is not None and self.isSliderDown():
            self._go(event.pos())

    def mouseReleaseEvent(self, event: QMouseEvent | None) -> None:
        """End a drag."""
        if self.isSliderDown():
            self.setSliderDown(False)
        else:
            super().mouseReleaseEvent(event)

    def paintEvent(self, event: QPaintEvent | None) -> None:
        """Draw the slider in the style of the moment, and a tick under each trained stop."""
        super().paintEvent(event)
        painter = QPainter(self)
        colour = self.palette().color(QPalette.ColorRole.WindowText)
        bottom = self.height() - 1
        for level in self.stops:
            painter.setOpacity(0.7 if level in self._trained else 0.25)
            painter.setPen(QPen(colour, 1))
            x = round(self.stop_x(level))
            painter.drawLine(x, bottom - 4, x, bottom)

    def _sub_rect(self, option: QStyleOptionSlider) -> QRect:
        style = self.style()
        assert style is not None
        return style.subControlRect(
            QStyle.ComplexControl.CC_Slider, option, QStyle.SubControl.SC_SliderHandle, self
        )

    def _go(self, position: QPoint) -> None:
        lowest, highest = self.stops[0], self.stops[-1]
        first, last = self.stop_x(lowest), self.stop_x(highest)
        share = (position.x() - first) / max(1.0, last - first)
        stop = lowest + round(share * (highest - lowest))
        self.setValue(self.nearest(stop))

    def _adjust(self, action: int) -> None:
        """Let a step of the keyboard jump over stops that were not trained."""
        value = self.value()
        if action in _FORWARDS:
            self.setSliderPosition(min((t for t in self._trained if t > value), default=value))
        elif action in _BACKWARDS:
            self.setSliderPosition(max((t for t in self._trained if t < value), default=value))
        elif self.sliderPosition() not in self._trained:
            self.setSliderPosition(self.nearest(self.sliderPosition()))

    def _settle(self, value: int) -> None:
        if value not in self._trained:
            self.setValue(self.nearest(value))
        elif value != self._resting:
            self._resting = value
            self.settled.emit(value)
