"""The lower half of the panel: paint, fine-tune, compare, save, and where to paint next.

Knows the widgets of the ``.ui``, the parameters and the logic; it computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import qt

from UNetPPLib import Painted, Projects, Segments
from UNetPPLib.Parameters import BACKGROUND, Parameters
from UNetPPLib.Teaching import TuneOptions, report_rows, source_of, verdict

if TYPE_CHECKING:
    from napari_unetpp.engine.protocol import PaintedSource
    from UNetPPLib.Logic import UNetPPLogic
    from UNetPPLib.SegmentPanel import SegmentPanel
    from UNetPPLib.Tasks import Task
    from UNetPPLib.Teaching import SuggestTask, TuneTask

UNUSED = ""


class TeachPanel:
    """Runs what the lower half of the panel says.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    logic : UNetPPLogic
        Does the work.
    segment : SegmentPanel
        The upper half, whose model is fine-tuned.
    changed : callable
        Called when a class was chosen.
    """

    def __init__(
        self, ui: Any, logic: UNetPPLogic, segment: SegmentPanel, changed: Callable[[], None]
    ) -> None:
        self.ui, self.logic, self.segment = ui, logic, segment
        self._said_changed = changed
        self.parameters: Parameters | None = None
        self.task: TuneTask | None = None
        self.suggesting: SuggestTask | None = None
        self._more: list[PaintedSource] = []
        self._places: list[Any] = []
        self._rows: list[str] = []
        self._filled: Any = None
        self._shown_path = ""
        ui.classTable.setColumnCount(2)
        ui.classTable.setHorizontalHeaderLabels(["painted segment", "class"])

    @property
    def running(self) -> bool:
        """Whether a fine-tuning goes on."""
        return self.task is not None and self.task.running

    # What is chosen

    def show(self) -> None:
        """Bring the widgets to what the parameters say."""
        parameters = self.parameters
        if parameters is None:
            return
        self.ui.paintedSelector.setCurrentNode(parameters.painted)
        self.ui.budgetSpin.value = parameters.budget
        self.show_classes()
        self.show_buttons()

    def take(self) -> None:
        """Bring the parameters to what the widgets say."""
        parameters = self.parameters
        if parameters is None:
            return
        with parameters.changing():
            before = parameters.painted
            parameters.painted = self.ui.paintedSelector.currentNode()
            parameters.budget = float(self.ui.budgetSpin.value)
            if parameters.painted is not before:
                parameters.split = {}
                parameters.classes = {}

    def classes(self) -> dict[str, str]:
        """Return which painted segment is which class, by segment id.

        A segment that nobody chose a class for goes by its name; one that is not used has none.
        """
        parameters = self.parameters
        if parameters is None or parameters.painted is None:
            return {}
        guessed = self.logic.guess_classes(parameters.painted, parameters.model)
        chosen = {**guessed, **parameters.classes}
        there = set(Segments.ids_of(parameters.painted))
        return {i: str(n) for i, n in chosen.items() if i in there and n}

    def show_classes(self) -> None:
        """Fill the table of segments and classes, if it is not what it should be."""
        parameters, table = self.parameters, self.ui.classTable
        if parameters is None:
            return
        painted = parameters.painted
        try:
            known = [c.name for c in self.segment.card().classes]
        except (ValueError, OSError):
            return
        segments = []
        if painted is not None:
            inside = painted.GetSegmentation()
            segments = [
                (i, inside.GetSegment(i).GetName())
                for i in Segments.ids_of(painted)
                if i in parameters.classes or not Segments.is_prediction(painted, i)
            ]
        chosen = self.classes()
        state = (segments, known, chosen)
        if state == self._filled:
            return
        self._filled = state
        self._rows = [i for i, _ in segments]
        table.setRowCount(len(segments))
        for row, (segment_id, name) in enumerate(segments):
            item = qt.QTableWidgetItem(name)
            item.setFlags(qt.Qt.ItemIsEnabled)
            table.setItem(row, 0, item)
            combo = qt.QComboBox()
            combo.addItem("not used", UNUSED)
            options = [BACKGROUND, *known]
            now = chosen.get(segment_id, UNUSED)
            options += [n for n in dict.fromkeys((name, now)) if n and n not in options]
            for option in options:
                new = option not in known and option != BACKGROUND
                combo.addItem(f"new class: {option}" if new else option, option)
            combo.setCurrentIndex(max(0, combo.findData(now)))
            combo.connect("currentIndexChanged(int)", lambda _, r=row: self._chosen(r))
            table.setCellWidget(row, 1, combo)

    def _chosen(self, row: int) -> None:
        parameters = self.parameters
        if parameters is None:
            return
        combo = self.ui.classTable.cellWidget(row, 1)
        value = str(combo.itemData(combo.currentIndex) or UNUSED)
        parameters.classes = {**parameters.classes, self._rows[row]: value}
        self._said_changed()

    # Fine-tuning

    def problem(self) -> str:
        """Return why there is nothing to fine-tune on; empty if there is."""
        parameters = self.parameters
        if parameters is None or parameters.input_volume is None:
            return "There is no volume: load a CT, or choose one."
        found = Painted.problem_of(parameters.painted, parameters.input_volume)
        if found:
            return found
        if not self.classes():
            return "No painted segment has a class: choose one for each in the table."
        return ""

    def press(self) -> None:
        """Begin to fine-tune, or stop with the best so far."""
        if self.running:
            assert self.task is not None
            self.task.cancel()
            return
        self.take()
        found = self.problem()
        if found:
            self.segment.say(found)
            return
        parameters = self.parameters
        assert parameters is not None
        options = TuneOptions(
            parameters.model,
            self.classes(),
            seconds=parameters.budget,
            split=parameters.split or None,
        )
        volume, painted = parameters.input_volume, parameters.painted
        own = Painted.pair_name(painted, volume)
        try:
            self.task = self.logic.start_finetune(
                volume, painted, options, [p for p in self._more if p.name != own]
            )
        except (ValueError, OSError, MemoryError) as error:
            self.segment.say(str(error) or "There is not enough memory.")
            return
        self._shown_path = ""
        self.task.listeners.append(self._changed)
        self._changed(self.task)

    def _changed(self, task: Task) -> None:
        if task is not self.task:
            return
        self.segment.say(task.status)
        bar = self.ui.progressBar
        bar.visible = task.running
        bar.maximum = task.total
        bar.value = task.done
        assert self.task is not None
        parameters = self.parameters
        if task.running and self.task.scores:
            self._show_scores(self.task)
        if not task.running:
            done, self.task = self.task, None
            if done.split and parameters is not None:
                with parameters.changing():  # whatever became of it: held out stays held out
                    parameters.split = dict(done.split)
            if done.state == "done" and parameters is not None:
                self._finished(done)
        self.show_buttons()

    def _show_scores(self, task: TuneTask) -> None:
        text = ", ".join(
            f"L{k} {task.base_scores[k]:.2f} → {v:.2f}"
            if k in task.base_scores
            else f"L{k} {v:.2f}"
            for k, v in sorted(task.scores.items())
        )
        self.ui.reportLabel.text = f"held-out IoU so far: {text}"

    def _finished(self, task: TuneTask) -> None:
        parameters = self.parameters
        assert parameters is not None
        outcome = task.result
        rows = "".join(
            f"<tr><td>{level}</td><td>&nbsp;{before} → {after}</td>"
            f"<td>&nbsp;{seconds} s/Mvox</td></tr>"
            for level, before, after, seconds in report_rows(outcome.report)
        )
        self.ui.reportLabel.text = (
            f"<table><tr><td></td><td>&nbsp;held-out IoU</td><td></td></tr>{rows}</table>"
            f"{verdict(outcome.report)}"
        )
        with parameters.changing():
            if outcome.path:
                if not parameters.base:
                    parameters.base = parameters.model
                parameters.model = outcome.path
        self._said_changed()

    def revert(self) -> None:
        """Go back to the model that the fine-tuning began with; its draft stays on disk."""
        parameters = self.parameters
        if parameters is None or not parameters.base:
            return
        with parameters.changing():
            parameters.model, parameters.base = parameters.base, ""
        self.ui.reportLabel.text = "back to the base model."
        self._said_changed()

    def save_model(self, path: str) -> str:
        """Save the chosen model as a file; return where it is."""
        from napari_unetpp.widget.drafts import save_copy

        parameters = self.parameters
        assert parameters is not None
        saved = str(save_copy(parameters.model, path))
        self.segment.models.add_file(saved)
        parameters.model = saved
        self._said_changed()
        self.segment.say(f"the model was saved as {saved}.")
        return saved

    def show_buttons(self) -> None:
        """Show what can be pressed now, and why something cannot."""
        ui, parameters = self.ui, self.parameters
        ui.finetuneButton.text = "Stop" if self.running else "Fine-tune"
        found = "" if self.running else self.problem()
        ui.finetuneButton.toolTip = found or (
            "Stop with the best so far." if self.running else "Fine-tune on what is painted."
        )
        tuned = parameters is not None and bool(parameters.base)
        ui.revertButton.enabled = tuned and not self.running
        ui.saveModelButton.enabled = tuned and not self.running
        for button in (ui.revertButton, ui.saveModelButton):
            if not tuned:
                button.toolTip = "There is no fine-tuned model yet."
        if tuned:
            ui.revertButton.toolTip = "Go back to the model that the fine-tuning began with."
            ui.saveModelButton.toolTip = "Save the fine-tuned model as a file."

    # Where to paint next

    def next_region(self) -> None:
        """Move the slices to the next place that is worth painting."""
        parameters = self.parameters
        if parameters is None or parameters.input_volume is None:
            self.segment.say("There is no volume: load a CT, or choose one.")
            return
        if self._places:
            self._jump()
            return
        if self.suggesting is not None and self.suggesting.running:
            return
        try:
            self.suggesting = self.logic.start_suggest(
                parameters.input_volume, parameters.painted, parameters.model, self.classes()
            )
        except (ValueError, OSError, MemoryError) as error:
            self.segment.say(str(error))
            return
        self.suggesting.listeners.append(self._suggested)
        self.segment.say(self.suggesting.status)

    def _suggested(self, task: Task) -> None:
        if task is not self.suggesting or task.running:
            return
        self.suggesting = None
        self.segment.say(task.status)
        if task.state == "done":
            self._places = list(task.result)
            if self._places:
                self._jump()

    def _jump(self) -> None:
        parameters = self.parameters
        assert parameters is not None
        if parameters.input_volume is None:
            self._places = []
            return
        place = self._places.pop(0)
        self.logic.jump(parameters.input_volume, place.box)
        self.segment.say(
            f"paint here: the model is unsure by {place.score:.2f}; "
            f"{len(self._places)} more places."
        )

    def forget_places(self) -> None:
        """Drop what was suggested: model, volume or paint are others now."""
        self._places = []

    # Project folders

    def open_project(self, folder: str) -> None:
        """Bring a training set into the scene."""
        parameters = self.parameters
        assert parameters is not None
        project, pairs = Projects.load(folder)
        self._more = []
        from napari_unetpp.engine.protocol import PaintedSource

        for pair in project.pairs():
            self._more.append(
                PaintedSource(
                    pair.name, source_of(pair.image()), source_of(pair.painted()), pair.channel
                )
            )
        with parameters.changing():
            if project.base and project.base != "scratch":
                parameters.model = project.base
            if pairs:
                parameters.input_volume = pairs[-1].volume
                parameters.painted = pairs[-1].segmentation
                parameters.classes = dict(pairs[-1].classes)
            split = project.split()
            parameters.split = split.to_json() if split.shapes else {}
        self._said_changed()
        self.segment.say(f"{len(pairs)} pairs of {project.folder.name} are in the scene.")

    def save_project(self, folder: str) -> None:
        """Put the volume and its paint into a training set."""
        parameters = self.parameters
        assert parameters is not None
        found = self.problem()
        if found:
            self.segment.say(found)
            return
        project = Projects.save(
            folder,
            parameters.input_volume,
            parameters.painted,
            self.classes(),
            parameters.base or parameters.model,
            parameters.split or None,
        )
        self.segment.say(f"saved: {len(project.pairs())} pairs are in {project.folder.name}.")

    def close(self) -> None:
        """Let go of what is on its way."""
        for task in (self.task, self.suggesting):
            if task is not None:
                task.stop("the module was closed")
