"""Parts of forms: a choice among named values on magicgui's ComboBox.

It adds to magicgui what a panel of fixed width needs: long names that do not widen it, equal
names, groups, choices that are refused with a reason, and setters that stay silent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from magicgui.widgets import ComboBox
from qtpy.QtCore import QEvent, QObject, QSignalBlocker, Qt
from qtpy.QtGui import QStandardItem, QStandardItemModel
from qtpy.QtWidgets import (
    QComboBox,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
)

from napari_unetpp.widget.labels import tip


@dataclass(frozen=True)
class ModelItem:
    """A model to choose: what is shown, what it stands for, its group and its tooltip."""

    label: str
    value: str
    group: str = ""
    tooltip: str = ""


def distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels with a number behind each that came before: magicgui goes by the text."""
    seen: set[str] = set()
    result: list[str] = []
    for label in labels:
        name, number = label, 2
        while name in seen:
            name, number = f"{label} ({number})", number + 1
        seen.add(name)
        result.append(name)
    return result


class _Eliding(QObject):
    """Paints a combo box with its middle left out where the text is too long: Qt cuts the end.

    The end of a file's or a layer's name says more than its middle.
    """

    def __init__(self, combo: QComboBox) -> None:
        super().__init__(combo)
        combo.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        paints = event is not None and event.type() == QEvent.Type.Paint
        if not paints or not isinstance(watched, QComboBox):
            return False
        style = watched.style()
        if style is None:
            return False
        option = QStyleOptionComboBox()
        watched.initStyleOption(option)
        field = style.subControlRect(
            QStyle.ComplexControl.CC_ComboBox,
            option,
            QStyle.SubControl.SC_ComboBoxEditField,
            watched,
        )
        option.currentText = watched.fontMetrics().elidedText(
            option.currentText, Qt.TextElideMode.ElideMiddle, max(0, field.width() - 3)
        )
        painter = QStylePainter(watched)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()
        return True


class Choice:
    """A combo box of magicgui with a silent setter.

    Parameters
    ----------
    name : str
        The objectName of the native combo box.
    spoken : str
        What a screen reader calls it.
    tooltip : str
        What it is for.
    changed : callable
        Called with the value that a person chose.
    """

    def __init__(
        self, name: str, spoken: str, tooltip: str, changed: Callable[[Any], None]
    ) -> None:
        self.widget = ComboBox(choices=())
        # magicgui asks for the choices anew when a parent changes; here they are given.
        moved = getattr(self.widget, "native_parent_changed", None) or self.widget.parent_changed
        moved.disconnect()
        self.native: QComboBox = self.widget.native
        self._eliding = _Eliding(self.native)
        self._tooltip = tooltip
        self._changed = changed
        self._quiet = False
        self.native.setObjectName(name)
        self.native.setAccessibleName(spoken)
        self.native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.native.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.native.setMinimumContentsLength(4)
        self.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.widget.changed.connect(self._on_changed)
        self._describe()

    @property
    def value(self) -> Any:
        """What is chosen; None where nothing is."""
        return self.native.currentData()

    def set_choices(
        self,
        choices: Sequence[tuple[str, Any]],
        current: Any,
        tooltips: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> None:
        """Offer these choices in this order; nothing is chosen where ``current`` is not there."""
        labels = distinct([label for label, _ in choices])
        self._quiet = True
        try:
            with QSignalBlocker(self.native):
                # magicgui keeps the old order of what it finds again.
                self.native.clear()
                self.widget.choices = [
                    (label, value) for label, (_, value) in zip(labels, choices, strict=True)
                ]
                for row, text in enumerate(tooltips):
                    self.native.setItemData(row, tip(text), Qt.ItemDataRole.ToolTipRole)
                self._separate(groups)
                self._select(current)
        finally:
            self._quiet = False
        self._describe()

    def set_value(self, value: Any) -> None:
        """Choose a value without a signal; nothing is chosen where it is not there."""
        with QSignalBlocker(self.native):
            self._select(value)
        self._describe()

    def set_allowed(self, allowed: Sequence[Any], reason: str) -> None:
        """Gray out the choices that are not allowed, each with the reason as its tooltip."""
        model = self.native.model()
        assert isinstance(model, QStandardItemModel)
        for row in range(self.native.count()):
            item: QStandardItem | None = model.item(row)
            value = self.native.itemData(row)
            if item is not None:
                item.setEnabled(value in allowed)
                item.setToolTip("" if value in allowed else tip(reason))
        if self.value not in allowed:
            self.set_value(allowed[0] if allowed else None)

    def set_available(self, available: bool, reason: str = "") -> None:
        """Allow choosing, or say why not."""
        self.native.setEnabled(available)
        self._describe("" if available else reason)

    def _separate(self, groups: Sequence[str]) -> None:
        """Draw a line where one group ends; from the end, since each line moves what follows."""
        for row in range(len(groups) - 1, 0, -1):
            if groups[row] != groups[row - 1]:
                self.native.insertSeparator(row)

    def _select(self, value: Any) -> None:
        for row in range(self.native.count()):
            data = self.native.itemData(row)
            if value is not None and (data is value or data == value):
                self.native.setCurrentIndex(row)
                return
        self.native.setCurrentIndex(-1)

    def _on_changed(self, value: Any) -> None:
        if self._quiet:
            return
        self._describe()
        self._changed(value)

    def _describe(self, reason: str = "") -> None:
        """Put the whole name, which may be cut, and what the control is for into the tooltip."""
        parts = (self.native.currentText(), reason or self._tooltip)
        self.native.setToolTip(tip(" — ".join(part for part in parts if part)))
