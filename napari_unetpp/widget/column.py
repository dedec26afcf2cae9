"""The dock's column: its sections under each other, with a scroll bar where they are too high.

Knows Qt alone.
"""

from __future__ import annotations

from qtpy.QtCore import QSize, Qt
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget


class Column(QScrollArea):
    """Scrolls downwards only: it is never narrower than what is in it."""

    def __init__(self, *sections: QWidget) -> None:
        super().__init__()
        self.setObjectName("unetpp_column")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        for section in sections:
            column.addWidget(section)
        column.addStretch(1)
        self.setWidget(content)

    def minimumSizeHint(self) -> QSize:
        """Return the width of what is in it, scroll bar included, and a height that is enough."""
        content, bar = self.widget(), self.verticalScrollBar()
        width = content.minimumSizeHint().width() if content is not None else 0
        return QSize(width + (bar.sizeHint().width() if bar is not None else 0), 240)

    def sizeHint(self) -> QSize:
        """Return the size that shows everything."""
        content, bar = self.widget(), self.verticalScrollBar()
        wanted = content.sizeHint() if content is not None else QSize(0, 0)
        return QSize(wanted.width() + (bar.sizeHint().width() if bar is not None else 0),
                     wanted.height())  # fmt: skip
