"""The level slider: stops with their names, scores and times under each other.

Four levels, and "auto" where the figures name it. A view: it shows what it is told and says what a
person chose. It knows no model and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtGui import QFontMetrics, QMouseEvent, QResizeEvent, QShowEvent
from qtpy.QtWidgets import QGridLayout, QSizePolicy, QWidget

from napari_unetpp.widget.figures_table import LevelFigures, Row, table
from napari_unetpp.widget.labels import TextLabel, tip
from napari_unetpp.widget.level_words import level_name
from napari_unetpp.widget.stop_slider import AUTO, LEVELS, STOPS, StopSlider, level_at

_SLIDER_TIP = (
    "How deep the network goes: L1 is there at once, L4 is best. "
    "A level that is already computed is shown without computing."
)
_AUTO = "auto: each tile at the level it needs"
_AUTO_TIP = (
    "Each tile runs at the first two levels, and at the deepest one where these disagree more "
    "than the model's tolerance allows."
)
_UNCALIBRATED = (
    "The model's card has no tolerance for auto, so a careful one is used; it was not calibrated "
    "on images of this kind."
)


class _Track(QWidget):
    """Holds the slider so that its stops lie under the middles of equal columns."""

    def __init__(self, slider: StopSlider) -> None:
        super().__init__()
        self._slider = slider
        slider.setParent(self)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(160, self._slider.sizeHint().height())

    def minimumSizeHint(self) -> QSize:
        return QSize(96, self._slider.sizeHint().height())

    def resizeEvent(self, event: QResizeEvent | None) -> None:
        self.arrange()

    def arrange(self) -> None:
        """Put the slider's stops under the middles of as many columns."""
        count = len(self._slider.stops)
        column = self.width() / count
        handle = self._slider.handle_width()
        left = round(column / 2 - handle / 2)
        width = round((count - 1) * column + handle)
        self._slider.setGeometry(left, 0, width, self.height())


class _StopName(TextLabel):
    """The name of a stop; a click goes there."""

    clicked = Signal()

    def mousePressEvent(self, event: QMouseEvent | None) -> None:
        if event is not None and event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit()


class LevelSlider(QWidget):
    """Four stops and "auto" with their names, and under each its score and its time.

    Attributes
    ----------
    slider : StopSlider
        The slider itself, values 1 to 4 and AUTO, objectName ``level_slider``.
    """

    level_changed = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._quiet = False
        self.slider = StopSlider()
        self.slider.setObjectName("level_slider")
        self.slider.setAccessibleName("Level")
        self.slider.settled.connect(self._settled)
        self._names = {stop: _StopName(level_name(level_at(stop))) for stop in STOPS}
        self._track = _Track(self.slider)
        self._hint = TextLabel(wrap=True, muted=True)
        self._hint.setObjectName("auto_hint")
        self._calibrated = True
        self._rows = [self._make_row() for _ in range(2)]
        self._build()
        self.set_levels(LEVELS, {})

    @property
    def level(self) -> int:
        """The stop that is chosen: a level, 1 to 4, or AUTO."""
        return self.slider.value()

    def set_level(self, level: int) -> None:
        """Choose a stop without a signal; one that is not there becomes the nearest."""
        self._quiet = True
        try:
            self.slider.setValue(self.slider.nearest(level))
        finally:
            self._quiet = False

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show which levels there are, and what they are worth and cost; no signal.

        "auto" is a stop where it is among the figures.
        """
        auto = figures.get("auto")
        self._calibrated = auto is None or auto.calibrated
        self._quiet = True
        try:
            self.slider.set_trained((*trained, *([AUTO] if auto is not None else [])))
        finally:
            self._quiet = False
        for stop, name in self._names.items():
            self._show_name(stop, name)
        levels = [level_at(stop) for stop in STOPS]
        there = [level_at(stop) for stop in self.slider.trained]
        for labels, row in zip(self._rows, table(levels, there, figures), strict=True):
            self._show_row(labels, row)
        self._show_auto(auto is not None)
        self._mark()

    def showEvent(self, event: QShowEvent | None) -> None:
        """Make room for the names in the font that they have now."""
        super().showEvent(event)
        self._make_room()

    def set_available(self, available: bool, reason: str = "") -> None:
        """Allow choosing a level, or say why there is nothing to choose."""
        self.slider.setEnabled(available)
        self.slider.setToolTip(tip(_SLIDER_TIP if available else reason))
        self._mark()

    def _build(self) -> None:
        self._grid = grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setHorizontalSpacing(2)
        grid.setVerticalSpacing(1)
        middle = Qt.AlignmentFlag.AlignCenter
        for stop, name in self._names.items():
            grid.setColumnStretch(stop, 1)
            name.setAlignment(middle)
            name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            name.clicked.connect(lambda stop=stop: self._clicked(stop))
            grid.addWidget(name, 0, stop)
        self._ends = TextLabel("fast", muted=True), TextLabel("best", muted=True)
        grid.addWidget(self._ends[0], 1, 0)
        grid.addWidget(self._track, 1, 1, 1, len(STOPS))
        grid.addWidget(self._ends[1], 1, AUTO + 1)
        for line, labels in enumerate(self._rows, start=2):
            for column, label in enumerate(labels):
                if 0 < column < len(labels) - 1:
                    label.setAlignment(middle)
                    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
                grid.addWidget(label, line, column)
        grid.addWidget(self._hint, 2 + len(self._rows), 0, 1, AUTO + 2)
        self.slider.setToolTip(tip(_SLIDER_TIP))

    @staticmethod
    def _make_row() -> list[TextLabel]:
        return [TextLabel() for _ in range(len(STOPS) + 2)]

    def _show_name(self, stop: int, label: TextLabel) -> None:
        there, level = stop in self.slider.trained, level_name(level_at(stop))
        label.setEnabled(there)
        text = f"Go to {level}." if there else f"{level} was not trained in this model."
        if stop == AUTO:
            text = _AUTO_TIP if self._calibrated else f"{_AUTO_TIP} {_UNCALIBRATED}"
        label.show_text(level, text)

    def _show_auto(self, there: bool) -> None:
        """Show the column of "auto" and the line about it, or neither."""
        for label in (self._names[AUTO], *(row[AUTO] for row in self._rows), self._hint):
            label.setVisible(there)
        self._grid.setColumnStretch(AUTO, 1 if there else 0)
        # Beyond the last level is no better one then.
        self._ends[1].show_text("" if there else "best")
        self._grid.removeWidget(self._track)
        self._grid.addWidget(self._track, 1, 1, 1, len(self.slider.stops))
        self._make_room()
        self._track.arrange()

    def _make_room(self) -> None:
        """Keep the columns as wide as "auto", the longest name; they are of one width."""
        name = self._names[AUTO]
        name.ensurePolished()  # the stylesheet's font, not the application's
        font = name.font()
        font.setBold(True)
        frame = name.width() - name.contentsRect().width()
        there = AUTO in self.slider.trained
        room = QFontMetrics(font).horizontalAdvance("auto") + frame + 1 if there else 0
        # Five columns leave none to spare beside the longest header and note.
        self._grid.setHorizontalSpacing(0 if there else 2)
        for stop in STOPS:
            self._grid.setColumnMinimumWidth(stop, room)

    @staticmethod
    def _show_row(labels: list[TextLabel], row: Row) -> None:
        labels[0].show_text(row.header)
        for label, cell in zip(labels[1:-1], row.cells, strict=True):
            label.show_text(cell.text, cell.tooltip)
            label.setAccessibleName(cell.tooltip)
            label.set_muted(cell.muted)
        labels[-1].show_text(row.note, row.note_tooltip)
        labels[-1].set_muted(row.note_muted)

    def _clicked(self, stop: int) -> None:
        if self.slider.isEnabled() and stop in self.slider.trained:
            self.slider.setFocus(Qt.FocusReason.MouseFocusReason)
            self.slider.setValue(stop)

    def _settled(self, level: int) -> None:
        self._mark()
        if not self._quiet:
            self.level_changed.emit(level)

    def _mark(self) -> None:
        """Set the chosen stop's column in bold, and say what "auto" is where it is chosen."""
        chosen = self.level if self.slider.isEnabled() else None
        self.slider.setAccessibleDescription(level_name(level_at(self.level)))
        for stop, name in self._names.items():
            for label in (name, *(row[stop] for row in self._rows)):
                font = label.font()
                font.setBold(stop == chosen)
                label.setFont(font)
        auto = chosen == AUTO
        text = _AUTO + ("" if self._calibrated else " (not calibrated)")
        last = level_name(max((s for s in self.slider.trained if s != AUTO), default=LEVELS[-1]))
        self._hint.show_text(
            text if auto else f"{last} is best, auto as deep as needed",
            "" if auto and self._calibrated else (_UNCALIBRATED if auto else _AUTO_TIP),
        )
