"""The training set: the image in hand, and those of a project folder.

Opens, fills and closes a project; its files are read and written off the GUI thread. Knows the
project's format through :mod:`napari_unetpp.core.teach`, form and layers; no engine process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtWidgets import QFileDialog

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.teach.project import Project
from napari_unetpp.core.teach.projectfile import FILE
from napari_unetpp.core.teach.splits import joined, moved
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.engine.protocol import SCRATCH, PaintedSource
from napari_unetpp.widget.background import in_background
from napari_unetpp.widget.drafts import is_draft
from napari_unetpp.widget.members import (
    Member,
    Read,
    count_of,
    file_of,
    looks_of,
    read_members,
)
from napari_unetpp.widget.painted_layer import (
    is_own,
    own_classes,
    pair_name,
    told_project,
    write_classes,
    write_pair,
)
from napari_unetpp.widget.painting import Painting
from napari_unetpp.widget.relay import Relay
from napari_unetpp.widget.selection import Selection
from napari_unetpp.widget.teach_form import TeachForm
from napari_unetpp.widget.training_set_form import CHOSEN

if TYPE_CHECKING:
    import napari


class TrainingSet:
    """What a fine-tuning learns from.

    Parameters
    ----------
    viewer, form, selection, painting, relay
        The dock's parts.

    Attributes
    ----------
    project : Project, optional
        The one that is open.
    members : list of Member
        Its pairs.
    split : dict, optional
        Which strokes are held out, of everything that was tuned on in this session or is in
        the project.
    mark : callable
        Told a painted layer whose paint is about to be read, returns what the listeners of
        `saved` need to know of it: someone may paint on while it is saved.
    saved : list of callable
        Called with a painted layer, where its paint was saved, and its mark.
    """

    def __init__(
        self,
        viewer: napari.Viewer,
        form: TeachForm,
        selection: Selection,
        painting: Painting,
        relay: Relay,
    ) -> None:
        self.viewer, self.form, self.selection = viewer, form, selection
        self.painting, self.relay = painting, relay
        self.project: Project | None = None
        self.members: list[Member] = []
        self.split: dict[str, Any] | None = None
        self.mark: Callable[[Any], int | None] = lambda layer: None
        self.saved: list[Callable[[Any, str, int | None], None]] = []
        self._busy = False
        training = form.training
        training.open_clicked.connect(self.open_or_close)
        training.save_clicked.connect(self.save)
        training.show_clicked.connect(self.show)
        training.remove_clicked.connect(self.remove)
        painting.listeners.append(self.refresh)
        painting.made.append(self._take_classes)

    # What is learned from

    def problem(self) -> str:
        """Return why there is nothing to learn from; empty if there is."""
        problem, others = self.painting.problem(), self._others()
        no_paint = self.painting.layer is None or self.painting.counts == {}
        if not (others and no_paint and self.selection.card is not None):
            return problem
        usable = any(m.image is not None for m in others)
        return "" if usable else _sentence(others[0].problem)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, without background; the project's come last."""
        names, told = self.painting.class_names(), tuple(self._classes())
        if self.painting.layer is not None:
            return names  # it has the project's classes already, if it is one of ours
        if self.form.training.scratch:
            return told or names
        return names + told[len(names) :]

    def pairs(self) -> tuple[list[PaintedSource], list[str]]:
        """Return images with their paint, and a sentence for each that is left out.

        Raises
        ------
        UNetPPError
            If the paint in hand does not fit its image.
        """
        found, notes = [], []
        if not self.painting.problem():
            source = self.selection.source()
            found.append(
                PaintedSource(self._name(), source, self.painting.source(), self.selection.channel)
            )
        for member in self._others():
            pair = member.source()
            if pair is None:
                notes.append(member.problem)
            else:
                found.append(pair)
        return found, notes

    def learned(self, split: dict[str, Any]) -> None:
        """Keep how the strokes were split, in the project too."""
        self.split = joined(self.split, split)
        project = self.project
        if project is not None:
            self._do(lambda: project.save_split(Split.from_json(split)), lambda _: None)

    def _others(self) -> list[Member]:
        """Return the project's pairs but the one that is in hand: its layer may be newer."""
        layer = self.painting.layer
        own = pair_name(layer) if layer is not None and self.has(layer) else ""
        return [m for m in self.members if m.name != own]

    def has(self, layer: Any) -> bool:
        """Whether a layer's pair is in the open project: a name alone may be another image's."""
        return self.project is not None and told_project(layer) == str(self.project.folder)

    def _name(self) -> str:
        """Return the name of the pair in hand; its layer keeps it."""
        layer, members = self.painting.layer, {m.name for m in self.members}
        wanted = pair_name(layer)
        if wanted and (wanted not in members or self.has(layer)):
            return wanted
        taken = members | {pair_name(x) for x in self.painting.candidates()}
        wanted = wanted or str(self.selection.layer.name)
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted} {number}", number + 1
        write_pair(layer, name)
        return name

    # The project

    def open_or_close(self) -> None:
        """Open a project folder, or close the one that is open."""
        if self.project is not None:
            self.project, self.members = None, []
            self.form.set_status("the project is closed; its files stay.", "info")
            self.painting.refresh()
            return
        folder = QFileDialog.getExistingDirectory(self.form, "Open a project folder")
        if folder:
            self.open(folder)

    def open(self, folder: str | os.PathLike[str]) -> None:
        """Open a project folder."""
        self.form.set_status("opening the project …", "busy")

        def opened(read: Read) -> None:
            self._show(read)
            note = self._choose_base(read[0].base)
            text = f"opened {read[0].folder.name}: {count_of(read[1])}.{note}"
            self.form.set_status(text, "warning" if note else "info")

        self._do(lambda: read_members(Project.open(folder)), opened)

    def _choose_base(self, base: str) -> str:
        """Begin with what the project begins with; return a sentence if that is not there."""
        if not base:
            return ""
        self.form.training.start.set_value(SCRATCH if base == SCRATCH else CHOSEN)
        self.painting.refresh()
        if base in (SCRATCH, self.selection.model_value):
            return ""
        models = self.selection.models
        try:
            if base not in {m.value for m in models.entries()}:
                models.add_file(base)
        except UNetPPError:
            return f" Its model {base} is not there: choose another one."
        self.selection.choose_model(base)
        self.selection.refresh_models()
        return ""

    def save(self) -> None:
        """Put the image in hand and its paint into the project; ask for a folder if need be."""
        if problem := self._unsavable():
            self.form.set_status(problem, "warning")
            return
        folder = None if self.project is None else self.project.folder
        if folder is None:
            chosen = QFileDialog.getExistingDirectory(self.form, "Folder for the project")
            if not chosen:
                return
            folder = Path(chosen)
        self.save_to(folder)

    def save_to(self, folder: Path) -> None:
        """Put the image in hand and its paint into the project of a folder, which is made."""
        layer, image = self.painting.layer, self.selection.layer
        name, source, mark = self._name(), self.selection.source(), self.mark(layer)
        told = told_project(layer)
        painted = self.painting.source()
        whole = Image(
            source.data, source.axes, source.spacing, source.unit, source.affine,
            name=str(image.name), path=file_of(image),
        )  # fmt: skip
        channel = self.selection.channel
        rows = [row for row in self.painting.classes() if row.value > 1 and row.known]
        classes = tuple(ClassInfo(row.name, row.colour) for row in rows)
        model = SCRATCH if self.form.training.scratch else self.selection.model_value
        split = None if self.split is None else Split.from_json(self.split)

        def work() -> tuple[str, Read]:
            there = (folder / FILE).exists()
            project = Project.open(folder) if there else Project.create(folder)
            mine = told == str(project.folder)  # another image may have the same name
            if mine and any(pair.name == name for pair in project.pairs()):
                title = project.update(name, painted.data, painted_axes=painted.axes).name
            else:
                title = project.add(
                    whole, painted.data, painted_axes=painted.axes, name=name, channel=channel,
                    split=split,
                ).name  # fmt: skip
            # What others painted in the project has its classes still.
            project.set_classes(classes + project.classes[len(classes) :])
            if not is_draft(model):
                project.set_base(model)
            return title, read_members(project)

        def done(result: tuple[str, Any]) -> None:
            title, read = result
            write_pair(layer, title, str(read[0].folder))
            self.split = moved(self.split, name, title)
            self._show(read)
            place = str(read[0].pair(title).painted_path)
            for listener in self.saved:
                listener(layer, place, mark)
            self.form.set_status(f"saved in {read[0].folder}: {count_of(read[1])}.", "info")

        self.form.set_status("saving into the project …", "busy")
        self._do(work, done)

    def remove(self, name: str) -> None:
        """Take a pair out of the project; its image stays where it is."""
        project = self.project
        if project is None:
            return

        def work() -> Read:
            project.remove(name)
            return read_members(project)

        def done(read: Read) -> None:
            for layer in self.painting.candidates():
                if self.has(layer) and pair_name(layer) == name:
                    write_pair(layer, name)  # another pair may get the name
            self._show(read)
            self.form.set_status(f"{name} is taken out: {count_of(read[1])}.", "info")

        self._do(work, done)

    def show(self, name: str) -> None:
        """Open an image of the project and its paint as layers."""
        member = next((m for m in self.members if m.name == name), None)
        if member is None or member.image is None or member.painted is None:
            self.form.set_status(member.problem if member else "", "warning")
            return
        image, painted = member.image, member.painted
        folder = "" if self.project is None else str(self.project.folder)

        def done(strokes: Any) -> None:
            from napari_unetpp.widget.painted_layer import paint_on

            picture = self.viewer.add_image(image.data, **looks_of(image, name))
            self.selection.choose_layer(picture)
            if self.selection.axes != image.axes:
                self.selection.choose_axes(image.axes)
            layer = paint_on(picture, self.selection.axes, strokes, painted.axes, f"paint: {name}")
            write_pair(layer, name, folder)
            self._take_classes(layer, picture)
            self.viewer.add_layer(layer)
            self.painting.choose(layer)
            layer.mode = "paint"

        self._do(lambda: np.array(painted.data), done)

    def _take_classes(self, layer: Any, image: Any) -> None:
        """Have a layer name the project's classes that it does not know."""
        mine = own_classes(layer)
        if is_own(layer) and (more := self._classes()[len(mine) :]):
            write_classes(layer, [*mine, *more])
            self.painting.refresh()

    def _classes(self) -> list[str]:
        return [] if self.project is None else [c.name for c in self.project.classes]

    def _show(self, read: Read) -> None:
        self.project, self.members, split = read
        layer = self.painting.layer
        if layer is not None and (name := pair_name(layer)):
            # Before the strokes of the project's pair of that name come.
            self.split = moved(self.split, name, self._name())
        if layer is not None:
            self._take_classes(layer, self.selection.layer)
        if split is not None:
            self.split = joined(self.split, split)
        self.painting.refresh()

    def _unsavable(self) -> str:
        if self._busy:
            return "The project is being read or written: wait a moment."
        return self.painting.problem()

    def refresh(self) -> None:
        """Show the project as it is."""
        training, project = self.form.training, self.project
        training.set_images(
            [m.name for m in self.members],
            "" if project is None else project.folder.name,
            [m.problem for m in self.members],
        )
        training.set_project(project is not None, self._unsavable())

    def _do(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def ended(result: Any) -> None:
            self._busy = False
            done(result)
            self.refresh()

        def failed(error: Exception) -> None:
            self._busy = False
            self.form.set_status(str(error), "error")
            self.refresh()

        self._busy = True
        in_background(self.relay, work, ended, failed)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
