"""A group that folds away, on superqt's QCollapsible, in the colours of the theme of the moment.

superqt draws its arrows once, in the colour of the text at that time, which a change of theme
makes unreadable; here they are part of the title.
"""

from __future__ import annotations

from qtpy.QtGui import QIcon
from superqt import QCollapsible

from napari_unetpp.widget.labels import tip

_FLAT = (
    "QPushButton {text-align: left; background: transparent; border: none; padding: 3px 0px}"
    "QPushButton:focus, QPushButton:hover {text-decoration: underline}"
)


class Fold(QCollapsible):
    """A title; a click or the space bar shows or hides what is below it."""

    def __init__(self, title: str, tooltip: str) -> None:
        super().__init__(title, None, QIcon(), QIcon())
        self._title = title
        self.setDuration(0)
        button = self.toggleButton()
        button.setStyleSheet(_FLAT)
        button.setToolTip(tip(tooltip))
        button.setAccessibleName(title)
        button.toggled.connect(self._show_arrow)
        for layout in (self.layout(), self.content().layout()):
            if layout is not None:
                layout.setContentsMargins(0, 0, 0, 0)
                layout.setSpacing(0)
        self._show_arrow(False)

    def expand(self, animate: bool = False) -> None:
        """Show what is inside."""
        super().expand(animate)
        self._show_arrow(True)

    def collapse(self, animate: bool = False) -> None:
        """Hide what is inside."""
        super().collapse(animate)
        self._show_arrow(False)

    def set_title(self, title: str) -> None:
        """Call it something else."""
        self._title = title
        self.toggleButton().setAccessibleName(title)
        self._show_arrow(self.isExpanded())

    def _show_arrow(self, expanded: bool) -> None:
        self.setText(f"{'▾' if expanded else '▸'} {self._title}")
