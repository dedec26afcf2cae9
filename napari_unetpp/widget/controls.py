"""Making the controls of a form: each with its objectName, its spoken name and its tooltip.

Knows Qt alone.
"""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QWidget

from napari_unetpp.widget.labels import tip


def name_control(widget: QWidget, name: str, spoken: str, tooltip: str) -> None:
    """Give a control its objectName, what a screen reader calls it, and its tooltip."""
    widget.setObjectName(name)
    widget.setAccessibleName(spoken)
    widget.setToolTip(tip(tooltip))


def make_button(text: str, name: str, tooltip: str, clicked: Callable[[], None]) -> QPushButton:
    """Return a button; one whose text is no word is called by its tooltip."""
    button = QPushButton(text)
    name_control(button, name, text if text[:1].isupper() else tooltip, tooltip)
    # The signal carries whether the button is checked, which a slot without arguments refuses.
    button.clicked.connect(lambda: clicked())
    return button


def make_label(text: str, buddy: QWidget) -> QLabel:
    """Return the label of a control."""
    label = QLabel(text)
    label.setIndent(0)
    label.setBuddy(buddy)
    return label


def make_row(*widgets: QWidget, stretch: int = -1) -> QHBoxLayout:
    """Return a row; the widget with the number ``stretch`` takes what is left."""
    row = QHBoxLayout()
    row.setSpacing(6)
    for index, widget in enumerate(widgets):
        row.addWidget(widget, int(index == stretch))
    return row
