"""The section Teach: puts its form and its parts together for one viewer.

Nothing is decided here but what needs several parts: which buttons are on, saving a model, and
paint that an earlier session left.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.model.cards import SUFFIX
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.engine.client import Engine
from napari_unetpp.widget.background import in_background
from napari_unetpp.widget.drafts import forget_draft, is_draft, save_copy
from napari_unetpp.widget.focus_ring import FocusRing
from napari_unetpp.widget.fold import Fold
from napari_unetpp.widget.journalling import Journalling, Offer
from napari_unetpp.widget.painted_layer import own_classes, write_classes
from napari_unetpp.widget.painting import Painting
from napari_unetpp.widget.panel import Panel
from napari_unetpp.widget.recovery_bar import RecoveryBar
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.screen import without_channels
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.suggesting import Suggesting
from napari_unetpp.widget.teach_form import TeachForm
from napari_unetpp.widget.training_set import TrainingSet
from napari_unetpp.widget.tune_copying import TuneCopying
from napari_unetpp.widget.tuning import Tuning

if TYPE_CHECKING:
    from collections.abc import Callable

    import napari

TITLE = "Teach: paint a little, fine-tune in seconds"
_TOOLTIP = "Paint a few strokes where the model is wrong, and let it learn from them."
_NO_TUNED = "Nothing is fine-tuned yet."
_NO_DRAFT = "The chosen model lies in a file already; fine-tune it first."
_TUNING = "A fine-tuning goes on: wait for its end, or stop it."


class TeachSection(QWidget):
    """The fold with the form, the line that offers lost paint above it, and the logic.

    Parameters
    ----------
    viewer, panel, selection, engine, relay
        The dock's parts.
    most_pixels : callable
        Returns how many pixels of what is on screen may be looked at.

    Attributes
    ----------
    form, painting, training, tuning, copying, suggesting, journalling
        Its parts.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        panel: Panel,
        selection: Selection,
        engine: Engine,
        relay: Relay,
        most_pixels: Callable[[], int],
    ) -> None:
        super().__init__()
        self.setObjectName("teach_section")
        self.selection, self.relay = selection, relay
        self.form = form = TeachForm()
        self.painting = Painting(viewer, form, selection, relay)
        self.training = TrainingSet(viewer, form, selection, self.painting, relay)
        self.tuning = Tuning(
            form,
            panel,
            selection,
            engine,
            relay,
            self.training.problem,
            self.training.pairs,
            self.training.class_names,
            lambda: self.training.split,
            self.training.learned,
        )
        self.copying = TuneCopying(form, selection, self.painting, self.training, relay)
        self.suggesting = Suggesting(
            viewer, form, selection, self.painting, engine, relay, most_pixels
        )
        self.journalling = Journalling(viewer, on_problem=self._cannot_keep)
        self._offers: list[Offer] = []
        self._taught: tuple[Any, ...] = ()  # what the fine-tuning that goes on learns from
        self._lay_out()
        self.painting.made.append(self._keep)
        self.painting.listeners.append(self.review)
        self.tuning.listeners.append(self.review)
        self.training.mark = self.journalling.mark
        self.training.saved.append(self.journalling.saved)
        form.save_clicked.connect(self.save_model)
        self.bar.restore_clicked.connect(self._restore)
        self.bar.discard_clicked.connect(self._discard)
        viewer.layers.events.removed.connect(self._removed)
        self._viewer = viewer

    def start(self) -> None:
        """Show what is there, and look for paint that was lost."""
        self.painting.start()
        QTimer.singleShot(0, self._look_for_paint)

    def close_parts(self) -> None:
        """Stop following the viewer; unsaved paint and models stay on the disk."""
        self._viewer.layers.events.removed.disconnect(self._removed)
        self.tuning.close()
        self.suggesting.close()
        self.painting.close()
        self.journalling.close()

    def review(self) -> None:
        """Say of each button whether it can be pressed, and why not."""
        form, tuning = self.form, self.tuning
        if not tuning.running:
            self._taught = ()
        elif not self._taught:
            self._taught = (self.selection.layer, self.painting.layer)
        problem = self.training.problem()
        form.set_can_finetune(problem)
        form.set_can_copy(problem)
        form.set_hint("" if tuning.running else problem or self.painting.hint())
        if not tuning.tuned:
            form.set_revert("Revert to base", "", _NO_TUNED)
        elif tuning.reverts:
            base = self.selection.models.label(tuning.base)
            form.set_revert("Revert to base", f"Work with {base} again, as before.", "")
        else:
            form.set_revert("Back to fine-tuned", "Work with the fine-tuned model again.", "")
        busy = _TUNING if tuning.running else ""
        form.set_save(busy or ("" if is_draft(self.selection.model_value) else _NO_DRAFT))
        form.set_suggestions(self.suggesting.problem())

    # The model

    def save_model(self) -> None:
        """Ask for a file, and keep the fine-tuned model in it."""
        draft = self.selection.model_value
        if not is_draft(draft):
            self.form.set_status(_NO_DRAFT, "warning")
            return
        card = self.selection.card
        name = f"{card.name if card is not None else 'model'}{SUFFIX}"
        target, _ = QFileDialog.getSaveFileName(
            self, "Save the fine-tuned model", name, f"UNet++ models (*{SUFFIX})"
        )
        if target:
            in_background(
                self.relay,
                lambda: save_copy(draft, target),
                lambda path: self._model_saved(draft, str(path)),
                lambda error: self.form.set_status(str(error), "error"),
            )

    def _model_saved(self, draft: str, path: str) -> None:
        self.tuning.saved(draft, path)
        if not self.tuning.running:  # one that goes on may learn from the draft
            self.selection.models.forget(draft)
            forget_draft(draft)
        self.selection.refresh_models()
        self.form.set_status(f"saved as {path}", "info")

    # Paint

    def _keep(self, layer: Any, image: Any) -> None:
        """Have a painted layer kept on the disk while it is painted."""
        rows = [row for row in self.painting.classes() if row.value > 1 and row.known]
        try:
            info = LayerInfo(
                str(layer.name),
                without_channels(self.selection.axes),
                str(image.name),
                None if image.source.path is None else str(image.source.path),
                self.selection.channel,
                tuple(ClassInfo(row.name, row.colour) for row in rows),
            )
            self.journalling.follow(layer, info)
        except UNetPPError as error:
            self.form.set_status(str(error), "warning")

    def _cannot_keep(self, sentence: str) -> None:
        if sentence:
            self.form.set_status(sentence, "error")

    def _look_for_paint(self) -> None:
        in_background(
            self.relay, self.journalling.offers, self._offer, lambda error: self._offer([])
        )

    def _offer(self, offers: list[Offer]) -> None:
        self._offers = offers
        if not offers:
            self.bar.offer("")
            return
        more = f" (1 of {len(offers)})" if len(offers) > 1 else ""
        self.bar.offer(f"Unsaved: {offers[0].text}{more}", f"{offers[0].text}{more}")

    def _restore(self) -> None:
        offer = self._offers[0]
        try:
            layer = self.journalling.restore(offer)
        except UNetPPError as error:
            self.form.set_status(str(error), "error")
        else:
            # The journal's are those of its first stroke; classes were added since.
            if not own_classes(layer):
                write_classes(layer, [c.name for c in offer.recovered.info.classes])
            self.painting.choose(layer)
            self.fold.expand()
            self.form.set_status(f"restored {layer.name}", "info")
        self._offer(self._offers[1:])

    def _discard(self) -> None:
        offer = self._offers[0]
        try:
            self.journalling.discard(offer)
        except UNetPPError as error:
            self.form.set_status(str(error), "error")
        self._offer(self._offers[1:])

    def _removed(self, event: Any) -> None:
        if any(event.value is layer for layer in self._taught):
            self.tuning.note(f"{event.value.name} was removed; the model learned from what it was")

    def _lay_out(self) -> None:
        self.bar = RecoveryBar()
        self.fold = Fold(TITLE, _TOOLTIP)
        self.fold.setObjectName("teach_group")
        self.fold.addWidget(self.form)
        column = QVBoxLayout(self)
        column.setContentsMargins(8, 0, 8, 6)
        column.setSpacing(2)
        column.addWidget(self.bar)
        column.addWidget(self.fold)
        order = [*self.bar.buttons, self.fold.toggleButton(), *self.form.focus_order]
        for first, second in pairwise(order):
            QWidget.setTabOrder(first, second)
        self._ring = FocusRing(self, order)
