"""The upper part of the panel: which image, channel and model, and where the network runs.

A view: it knows no viewer and no engine. Its setters emit nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QVBoxLayout, QWidget

from napari_unetpp.widget.controls import make_button, make_label, make_row
from napari_unetpp.widget.forms import Choice, ModelItem
from napari_unetpp.widget.labels import StateDot, TextLabel, tip

_WHY = "Why it runs there, and what to do"


class ImageForm(QWidget):
    """Image, channel, model and device."""

    image_changed = Signal(object)
    channel_changed = Signal(int)
    model_changed = Signal(str)
    browse_model = Signal()
    sample_clicked = Signal()
    device_clicked = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._channels = 0
        self._empty = False
        self.image = Choice(
            "image_combo",
            "Image",
            "The image to segment; it follows the active layer.",
            self.image_changed.emit,
        )
        self.channel = Choice(
            "channel_combo",
            "Channel",
            "The channel that the model looks at.",
            self.channel_changed.emit,
        )
        self.model = Choice(
            "model_combo",
            "Model",
            "The model to segment with; a model file may be dropped anywhere on this panel.",
            self.model_changed.emit,
        )
        self._browse = make_button(
            "…", "browse_button", "Open a model file", self.browse_model.emit
        )
        self._hint = TextLabel("No image is open.")
        self._sample = make_button(
            "Open a sample",
            "sample_button",
            "Open a sample image to try it on",
            self.sample_clicked.emit,
        )
        self._dot = StateDot("plain")
        self._device = TextLabel()
        self._device.setObjectName("device_label")
        self._device.setAccessibleName("Device")
        self._why = make_button("why?", "device_button", _WHY, self.device_clicked.emit)
        self._lay_out()
        self._show_rows()

    @property
    def focus_order(self) -> list[QWidget]:
        """The controls as the keyboard visits them."""
        choices = [self.image.native, self._sample, self.channel.native, self.model.native]
        return [*choices, self._browse, self._why]

    def set_channels(self, names: Sequence[str], current: int | None) -> None:
        """Offer channels; the row is there only if there are several."""
        self.channel.set_choices([(name, index) for index, name in enumerate(names)], current)
        self._channels = len(names)
        self._show_rows()

    def set_models(self, models: Sequence[ModelItem], current: str) -> None:
        """Offer models; a line separates one group from the next."""
        self.model.set_choices(
            [(item.label, item.value) for item in models],
            current,
            [item.tooltip for item in models],
            [item.group for item in models],
        )

    def set_device(self, text: str, reason: str, good: bool) -> None:
        """Say where the network runs, and why there."""
        self._dot.set_kind("good" if good else "plain")
        self._device.show_text(text, reason)
        self._why.setToolTip(tip(reason or _WHY))

    def set_empty(self, empty: bool) -> None:
        """Offer a sample instead of images."""
        self._empty = empty
        self._show_rows()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(5)
        form = QGridLayout()
        form.setHorizontalSpacing(6)
        form.setVerticalSpacing(5)
        form.setColumnStretch(1, 1)
        form.setColumnMinimumWidth(0, 50)
        self._image_label = make_label("Image", self.image.native)
        self._channel_label = make_label("Channel", self.channel.native)
        form.addWidget(self._image_label, 0, 0)
        form.addWidget(self.image.native, 0, 1, 1, 2)
        form.addWidget(self._hint, 1, 0, 1, 2)
        form.addWidget(self._sample, 1, 2)
        form.addWidget(self._channel_label, 2, 0)
        form.addWidget(self.channel.native, 2, 1, 1, 2)
        form.addWidget(make_label("Model", self.model.native), 3, 0)
        form.addLayout(make_row(self.model.native, self._browse, stretch=0), 3, 1, 1, 2)
        column.addLayout(form)
        column.addLayout(make_row(self._dot, self._device, self._why, stretch=1))

    def _show_rows(self) -> None:
        several = self._channels > 1
        shown: list[tuple[QWidget, bool]] = [
            (self._image_label, not self._empty),
            (self.image.native, not self._empty),
            (self._hint, self._empty),
            (self._sample, self._empty),
            (self._channel_label, several and not self._empty),
            (self.channel.native, several and not self._empty),
        ]
        for widget, visible in shown:
            widget.setVisible(visible)
