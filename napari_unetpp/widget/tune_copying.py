"""The button that copies a fine-tuning as a command, or says what has to be saved for it.

The files are looked into off the GUI thread. Knows layers, project and clipboard; the words of
the command are those of :mod:`napari_unetpp.widget.tune_command`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qtpy.QtWidgets import QApplication

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError, UNetPPError
from napari_unetpp.core.teach.project import Project
from napari_unetpp.core.teach.splits import of_pair, over
from napari_unetpp.core.tune.strokes import Split, load_split, save_split, split_path
from napari_unetpp.widget.background import in_background
from napari_unetpp.widget.members import file_of
from napari_unetpp.widget.painted_layer import pair_name
from napari_unetpp.widget.painting import Painting
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.teach_form import TeachForm
from napari_unetpp.widget.training_set import TrainingSet
from napari_unetpp.widget.tune_command import (
    TuneChoices,
    file_words,
    finetune_command,
    project_words,
    same_labels,
)


class TuneCopying:
    """Copies what Fine-tune would do.

    Parameters
    ----------
    form, selection, painting, training, relay
        The dock's parts.
    """

    def __init__(
        self,
        form: TeachForm,
        selection: Selection,
        painting: Painting,
        training: TrainingSet,
        relay: Relay,
    ) -> None:
        self.form, self.selection, self.painting = form, selection, painting
        self.training, self.relay = training, relay
        form.copy_clicked.connect(self.copy)

    def copy(self) -> None:
        """Copy the command, or say what has to be saved first."""
        form, selection, training = self.form, self.selection, self.training
        if problem := training.problem():
            form.set_status(problem, "warning")
            return
        card, own = selection.card, selection.preferences
        assert card is not None
        choices = TuneChoices(
            selection.model_value,
            card,
            form.training.scratch,
            training.class_names(),
            form.seconds,
            own.device,
            own.precision,
        )
        try:
            words = self._of_files() if training.project is None else self._of_project()
        except UNetPPError as error:
            self._failed(error)
            return

        def work() -> str:
            data, folder = words()
            return finetune_command(data, folder, choices)

        form.set_status("looking into the files …", "busy")
        in_background(self.relay, work, self._copied, self._failed)

    def _copied(self, text: str) -> None:
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        self.form.set_status(f"copied: {text}", "info")

    def _failed(self, error: Exception) -> None:
        self.form.set_status(str(error), "warning")

    def _of_files(self) -> Callable[[], tuple[list[str], Path]]:
        """Return what names the image in hand and its strokes by their own files."""
        selection, layer = self.selection, self.painting.layer
        source, channel = selection.source(), selection.channel
        whole = Image(
            source.data, source.axes, source.spacing, source.unit,
            name=str(selection.layer.name), path=file_of(selection.layer),
        )  # fmt: skip
        painted = self._painted()
        split = of_pair(self.training.split, pair_name(layer))
        card = None if self.form.training.scratch else selection.card

        def work() -> tuple[list[str], Path]:
            words = file_words(whole, painted, card, channel)
            assert whole.path is not None
            assert painted.path is not None
            if split is not None:
                # What is held out here is held out there; parts that are not open stay.
                there = split_path(painted.path)
                kept = load_split(there).to_json() if there.exists() else None
                save_split(there, Split.from_json(over(kept, split)))
            return words, whole.path.absolute().parent

        return work

    def _of_project(self) -> Callable[[], tuple[list[str], Path]]:
        """Return what names the project; the strokes in hand are to be in it as they are."""
        training, layer = self.training, self.painting.layer
        project = training.project
        assert project is not None
        if self.painting.problem():  # nothing in hand to learn from
            return lambda: (project_words(project.folder), project.folder)
        if not training.has(layer):
            raise InputError(
                f"{layer.name} is not in the project {project.folder.name}: press Save below "
                "Training set, and copy again."
            )
        painted, name = self._painted(), pair_name(layer)

        def work() -> tuple[list[str], Path]:
            saved = Project.open(project.folder).pair(name).painted()
            if not same_labels(saved, painted):
                raise InputError(
                    f"{painted.name} was painted on since it was saved: press Save below "
                    "Training set, and copy again."
                )
            return project_words(project.folder), project.folder

        return work

    def _painted(self) -> Image:
        source, layer = self.painting.source(), self.painting.layer
        return Image(source.data, source.axes, name=str(layer.name), path=file_of(layer))
