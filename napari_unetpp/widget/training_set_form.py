"""What few need of Teach: several images in a project folder, and a start from nothing.

A view: signals out, setters in; it knows no project and no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QListWidget, QVBoxLayout, QWidget

from napari_unetpp.widget.controls import make_button, make_label, make_row, name_control
from napari_unetpp.widget.fold import Fold
from napari_unetpp.widget.forms import Choice
from napari_unetpp.widget.labels import tip

CHOSEN, SCRATCH = "chosen", "scratch"

_TOOLTIP = "Several images, and a start from nothing."
_START = "What a fine-tuning begins with."
_START_TIPS = (
    "The chosen model, whose classes stay.",
    "A new network that knows your classes alone; it needs more paint and more time.",
)
_SAVE = "Keep this image, its strokes and those of the training set in a project folder."
_OPEN = "Open a project folder: its images and strokes become the training set."
_CLOSE = "Close the project: fine-tune on the image in hand alone. Its files stay."
_SHOW = "Open the chosen image and its strokes in the viewer."
_REMOVE = "Take the chosen image out of the training set; its files stay."
_NONE = "Choose an image of the training set first."
_LIST = "Images whose strokes a fine-tuning learns from, besides the one that is chosen above."


class TrainingSetForm(Fold):
    """A fold with the start of a fine-tuning, and the images of the project."""

    open_clicked = Signal()
    save_clicked = Signal()
    show_clicked = Signal(str)
    remove_clicked = Signal(str)

    def __init__(self) -> None:
        super().__init__("Training set", _TOOLTIP)
        self._shown: tuple[tuple[str, ...], str, tuple[str, ...]] | None = None
        self.setObjectName("training_set_group")
        self.start = Choice("start_combo", "Start", _START, lambda _: None)
        self.start.set_choices(
            [("the chosen model", CHOSEN), ("nothing (from scratch)", SCRATCH)], CHOSEN, _START_TIPS
        )
        self._list = QListWidget()
        name_control(self._list, "training_set_list", "Images of the training set", _LIST)
        self._list.setFixedHeight(4 * self.fontMetrics().height() + 8)
        self._list.itemSelectionChanged.connect(self._update)
        self._open = make_button("Open…", "open_project_button", _OPEN, self.open_clicked.emit)
        self._save = make_button("Save as…", "save_project_button", _SAVE, self.save_clicked.emit)
        self._show = make_button("Show", "show_pair_button", _SHOW, self._show_one)
        self._remove = make_button("Remove", "remove_pair_button", _REMOVE, self._remove_one)
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(5)
        label = make_label("Start from", self.start.native)
        column.addLayout(make_row(label, self.start.native, stretch=1))
        column.addWidget(self._list)
        column.addLayout(make_row(self._open, self._save, self._show, self._remove))
        self.addWidget(content)
        self.set_images([], "")
        self._update()

    @property
    def focus_order(self) -> list[QWidget]:
        """The controls as the keyboard visits them."""
        buttons = [self._open, self._save, self._show, self._remove]
        return [self.toggleButton(), self.start.native, self._list, *buttons]

    @property
    def scratch(self) -> bool:
        """Whether a new network is wanted."""
        return bool(self.start.value == SCRATCH)

    def set_images(self, names: Sequence[str], project: str, problems: Sequence[str] = ()) -> None:
        """Show the images of a project; a problem is why one cannot be used, or empty."""
        shown = (tuple(names), project, tuple(problems))
        if shown == self._shown:
            return  # this is told at every stroke, and whoever reads the list is not disturbed
        self._shown, current = shown, self.current
        self._list.clear()
        for number, name in enumerate(names):
            self._list.addItem(name)
            item = self._list.item(number)
            problem = problems[number] if number < len(problems) else ""
            if item is not None and problem:
                item.setText(f"{name} (missing)")
                item.setToolTip(tip(problem))
            if item is not None:
                item.setData(256, name)
                if name == current:
                    self._list.setCurrentItem(item)
        images = "1 image" if len(names) == 1 else f"{len(names)} images"
        self.set_title(f"Training set: {images}" if project else "Training set")
        self.toggleButton().setToolTip(tip(f"Project {project}" if project else _TOOLTIP))
        self._update()

    def set_project(self, is_open: bool, reason: str) -> None:
        """Say whether a project is open, and why nothing can be put into it; empty if it can."""
        self._open.setText("Close" if is_open else "Open…")
        self._open.setToolTip(tip(_CLOSE if is_open else _OPEN))
        self._save.setText("Save" if is_open else "Save as…")
        self._save.setEnabled(not reason)
        self._save.setToolTip(tip(reason or _SAVE))

    @property
    def current(self) -> str:
        """Name of the image that is chosen; empty where none is."""
        items = self._list.selectedItems()
        return str(items[0].data(256)) if items else ""

    def _update(self) -> None:
        for button, text in ((self._show, _SHOW), (self._remove, _REMOVE)):
            button.setEnabled(bool(self.current))
            button.setToolTip(tip(text if self.current else _NONE))

    def _show_one(self) -> None:
        self.show_clicked.emit(self.current)

    def _remove_one(self) -> None:
        self.remove_clicked.emit(self.current)
