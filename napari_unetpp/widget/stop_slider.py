"""A slider that knows four stops and rests on those that a model was trained for.

Knows Qt alone.
"""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QMouseEvent, QPainter, QPaintEvent, QPalette, QPen
from qtpy.QtWidgets import QAbstractSlider, QSlider, QStyle, QStyleOptionSlider

from napari_unetpp.widget.labels import fade_when_off

LEVELS = (1, 2, 3, 4)

_Action = QAbstractSlider.SliderAction
_BACKWARDS: tuple[Any, ...] = (_Action.SliderSingleStepSub.value, _Action.SliderPageStepSub.value)
_FORWARDS: tuple[Any, ...] = (_Action.SliderSingleStepAdd.value, _Action.SliderPageStepAdd.value)


class StopSlider(QSlider):
    """A slider with the stops 1 to 4 that rests on trained levels only.

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
        """The levels that it may rest on."""
        return self._trained

    def set_trained(self, trained: tuple[int, ...]) -> None:
        """Say which stops there are; the value moves to the nearest of them."""
        self._trained = tuple(sorted(trained)) or LEVELS
        self.setValue(self.nearest(self.value()))
        self.update()

    def nearest(self, value: int) -> int:
        """Return the trained level that is nearest; the cheaper one of two."""
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
        for level in LEVELS:
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
        first, last = self.stop_x(LEVELS[0]), self.stop_x(LEVELS[-1])
        share = (position.x() - first) / max(1.0, last - first)
        stop = LEVELS[0] + round(share * (LEVELS[-1] - LEVELS[0]))
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
