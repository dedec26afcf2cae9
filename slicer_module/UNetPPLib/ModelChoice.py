"""The models of the panel's list: bundled, used lately, fine-tuned, files chosen now.

The list is napari's own, so that a file that was opened or fine-tuned there is offered here, and
the other way round. Knows cards and the panel's combo box; no MRML node, no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_unetpp.core.config import ModelCard
    from napari_unetpp.widget.figures_table import LevelFigures
    from napari_unetpp.widget.models import ModelList

FIRST = "ct-head-neck"


class ModelChoice:
    """A combo box of models, whose data are names and paths.

    Parameters
    ----------
    combo : QComboBox
        Filled and read.
    """

    def __init__(self, combo: Any) -> None:
        self.combo = combo
        self._list: ModelList | None = None

    @property
    def models(self) -> ModelList:
        """The list, once the package is there."""
        if self._list is None:
            from napari_unetpp.widget.models import ModelList

            self._list = ModelList()
        return self._list

    def fill(self, chosen: str) -> None:
        """Offer what there is, and choose one; a file that is not in the list is added to it."""
        entries = [(e.label, e.value, e.tooltip) for e in self.models.entries()]
        # Volumes first: a CT is what is open here.
        entries.sort(key=lambda e: e[1] != FIRST)
        if chosen and chosen not in [value for _, value, _ in entries]:
            entries.append((_title(chosen), chosen, chosen))
        self.combo.blockSignals(True)
        self.combo.clear()
        for k, (label, value, tooltip) in enumerate(entries):
            self.combo.addItem(
                _title(value) if value == chosen and _is_draft(value) else label, value
            )
            self.combo.setItemData(k, tooltip, 3)  # Qt::ToolTipRole
        self.combo.setCurrentIndex(max(0, self.combo.findData(chosen)))
        self.combo.blockSignals(False)

    @property
    def value(self) -> str:
        """What is chosen: a name or a path."""
        return str(self.combo.itemData(self.combo.currentIndex) or FIRST)

    def card(self, value: str) -> ModelCard:
        """Return the card of a model."""
        return self.models.card(value)

    def add_file(self, path: str) -> ModelCard:
        """Offer a file, now and later; raises what it is that is wrong with it."""
        return self.models.add_file(path)


class FiguresText:
    """Scores and times of the levels as a small table of text.

    Parameters
    ----------
    label : QLabel
        Shows it.
    """

    def __init__(self, label: Any) -> None:
        self.label = label

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        """Show what is known of each level."""
        from napari_unetpp.widget.figures_table import ensemble_text, table

        levels = tuple(sorted(k for k in trained))
        head = "".join(f"<th align='right'>&nbsp;L{k}&nbsp;</th>" for k in levels)
        body = ""
        for row in table(levels, trained, figures):
            cells = "".join(
                f"<td align='right'>&nbsp;{_html(c.text)}&nbsp;</td>" for c in row.cells
            )
            body += f"<tr><td>{_html(row.header)}</td>{cells}<td>&nbsp;{_html(row.note)}</td></tr>"
        tail = ""
        for level in ("ensemble", "auto"):
            more = ensemble_text(figures.get(level)).text
            tail += f"<br>{level}: {_html(more)}" if more else ""
        self.label.text = f"<table><tr><td></td>{head}<td></td></tr>{body}</table>{tail}"


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _is_draft(value: str) -> bool:
    from napari_unetpp.widget.drafts import is_draft

    return is_draft(value)


def _title(value: str) -> str:
    from pathlib import Path

    from napari_unetpp.widget.drafts import draft_label

    return draft_label(value) if _is_draft(value) else Path(value).stem
