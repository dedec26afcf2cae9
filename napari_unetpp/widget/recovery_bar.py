"""A line that offers paint which was not saved: one at a time, to restore or to discard.

A view: signals out, setters in; it knows no journal.
"""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QWidget

from napari_unetpp.widget.controls import make_button
from napari_unetpp.widget.labels import StateDot, TextLabel


class RecoveryBar(QWidget):
    """Text, Restore and Discard; it is there only while there is an offer."""

    restore_clicked = Signal()
    discard_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("recovery_bar")
        self._text = TextLabel()
        self._text.setObjectName("recovery_label")
        restore = make_button(
            "Restore",
            "restore_button",
            "Make the painted layer again as it was.",
            self.restore_clicked.emit,
        )
        discard = make_button(
            "Discard",
            "discard_button",
            "Delete what was kept of this painted layer; it cannot be had back.",
            self.discard_clicked.emit,
        )
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 4, 0, 0)
        row.setSpacing(6)
        row.addWidget(StateDot("warning"))
        row.addWidget(self._text, 1)
        row.addWidget(restore)
        row.addWidget(discard)
        self.buttons: list[QWidget] = [restore, discard]
        self.offer("")

    def offer(self, text: str, tooltip: str = "") -> None:
        """Offer something; nothing where the text is empty."""
        self._text.show_text(text, tooltip)
        self.setVisible(bool(text))
