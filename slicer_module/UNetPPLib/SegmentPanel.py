"""The upper half of the panel: volume, model, level, region, output, Apply, live.

Knows the widgets of the ``.ui``, the parameters and the logic; it computes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib.ModelChoice import FiguresText, ModelChoice
from UNetPPLib.Parameters import REGIONS, Parameters
from UNetPPLib.Preview import Preview
from UNetPPLib.Segmenting import level_name

if TYPE_CHECKING:
    from napari_unetpp.core.config import ModelCard
    from napari_unetpp.widget.figures import Figures
    from UNetPPLib.Logic import UNetPPLogic
    from UNetPPLib.Segmenting import Level, SegmentTask
    from UNetPPLib.Tasks import Task

_AUTO = (
    "Each tile runs the first two levels, and the deepest one only where they disagree. "
    "The live preview shows the deepest level."
)
_AUTO_UNCALIBRATED = "This model was not calibrated for it: how much they may disagree is a guess."
_AUTO_TOO_FEW = "This model has no more than two levels, so there is nothing to choose between."


class SegmentPanel:
    """Runs what the upper half of the panel says.

    Parameters
    ----------
    ui : namespace
        Widgets by name.
    logic : UNetPPLogic
        Does the work.
    """

    def __init__(self, ui: Any, logic: UNetPPLogic) -> None:
        self.ui, self.logic = ui, logic
        self.models = ModelChoice(ui.modelCombo)
        self.parameters: Parameters | None = None
        self.figures: Figures | None = None
        self.task: SegmentTask | None = None
        self.preview = Preview(logic.session, self._live_says, self._measured)
        self.slice_node: Any = None
        self._made: Any = None  # a segmentation that Apply made and nothing is in yet
        self._key: Any = None

    # What is chosen

    @property
    def level(self) -> Level:
        """The level to run at: the slider's, or the deepest before it that the model has."""
        assert self.parameters is not None
        if self.parameters.ensemble:
            return "ensemble"
        if self.parameters.auto and not self._auto_problem():
            return "auto"
        return self._deepest(self.parameters.level)

    def _deepest(self, limit: int) -> int:
        """Return the deepest level up to a limit that the model has."""
        try:
            trained = sorted(self.card().levels_trained)
        except (ValueError, OSError):
            return limit
        reached = [k for k in trained if k <= limit]
        return reached[-1] if reached else trained[0]

    def _auto_problem(self) -> str:
        """Return why the model cannot choose its levels itself; empty if it can."""
        try:
            levels = len(self.card().levels_trained)
        except (ValueError, OSError):
            return ""  # told where the model is chosen
        return "" if levels > 2 else _AUTO_TOO_FEW

    @property
    def threshold(self) -> float | None:
        """The threshold, None for the model's own."""
        assert self.parameters is not None
        return self.parameters.threshold if self.parameters.own_threshold else None

    def card(self) -> ModelCard:
        """Return the card of the chosen model."""
        assert self.parameters is not None
        return self.models.card(self.parameters.model)

    def show(self) -> None:
        """Bring the widgets to what the parameters say."""
        ui, parameters = self.ui, self.parameters
        if parameters is None:
            return
        ui.inputSelector.setCurrentNode(parameters.input_volume)
        ui.outputSelector.setCurrentNode(parameters.output_segmentation)
        ui.roiSelector.setCurrentNode(parameters.roi)
        ui.levelSlider.value = parameters.level
        level = self.level
        ui.levelSlider.enabled = isinstance(level, int)
        ui.levelLabel.text = "all" if level == "ensemble" else level_name(level)
        ui.ensembleCheck.checked = parameters.ensemble
        ui.autoCheck.checked = level == "auto"
        ui.regionCombo.setCurrentIndex(REGIONS.index(parameters.region))
        ui.slabSpin.value = parameters.slab
        ui.slabSpin.visible = parameters.region == "slab" or parameters.live
        ui.roiSelector.enabled = parameters.region == "roi"
        ui.thresholdSlider.enabled = parameters.own_threshold
        ui.ownThresholdCheck.checked = parameters.own_threshold
        ui.protectCheck.checked = parameters.protect
        ui.liveCheck.checked = parameters.live
        self.show_model()
        if parameters.own_threshold:
            ui.thresholdSlider.value = parameters.threshold
        self.show_buttons()

    def show_model(self) -> None:
        """Show the chosen model and what is known of its levels."""
        from napari_unetpp.widget.figures import Figures

        assert self.parameters is not None
        model = self.parameters.model
        self.models.fill(model)
        if self.figures is None:
            self.figures = Figures(FiguresText(self.ui.figuresLabel))
        try:
            card = self.card()
        except (ValueError, OSError) as error:
            self.ui.figuresLabel.text = str(error)
            self._key = None
            return
        key = (model, card.version, card.parent)
        if key != self._key:
            self._key = key
            self.figures.choose(card, key)
        if not self.parameters.own_threshold:
            self.ui.thresholdSlider.value = card.threshold
        softmax = card.network.activation == "softmax"
        self.ui.ownThresholdCheck.enabled = not softmax
        calibrated = card.auto_tolerance is not None
        problem = self._auto_problem()
        self.ui.autoCheck.enabled = not problem
        self.ui.autoCheck.toolTip = problem or (
            _AUTO if calibrated else f"{_AUTO} {_AUTO_UNCALIBRATED}"
        )

    def take(self) -> None:
        """Bring the parameters to what the widgets say."""
        ui, parameters = self.ui, self.parameters
        if parameters is None:
            return
        with parameters.changing():
            parameters.input_volume = ui.inputSelector.currentNode()
            parameters.output_segmentation = ui.outputSelector.currentNode()
            parameters.roi = ui.roiSelector.currentNode()
            parameters.level = int(ui.levelSlider.value)
            ensemble, auto = bool(ui.ensembleCheck.checked), bool(ui.autoCheck.checked)
            if ensemble and auto:  # the one that was chosen last
                ensemble = not parameters.ensemble
                auto = not ensemble
            parameters.ensemble, parameters.auto = ensemble, auto
            parameters.region = REGIONS[ui.regionCombo.currentIndex]
            parameters.slab = float(ui.slabSpin.value)
            parameters.own_threshold = bool(ui.ownThresholdCheck.checked)
            if parameters.own_threshold:
                parameters.threshold = float(ui.thresholdSlider.value)
            parameters.protect = bool(ui.protectCheck.checked)
            parameters.live = bool(ui.liveCheck.checked)
            if ui.modelCombo.currentIndex >= 0:
                parameters.model = self.models.value

    # Apply and Cancel

    @property
    def running(self) -> bool:
        """Whether a run goes on."""
        return self.task is not None and self.task.running

    def problem(self) -> str:
        """Return why nothing can be run, in one sentence; empty if something can."""
        from UNetPPLib import Segments, Volumes

        parameters = self.parameters
        if parameters is None:
            return "The scene is being loaded."
        volume = parameters.input_volume
        found = Volumes.problem_of(volume)
        if found:
            return found
        if parameters.output_segmentation is not None:
            found = Segments.problem_of(parameters.output_segmentation, volume)
            if found:
                return found
        try:
            self.card()
            self._region()
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    def _region(self) -> Any:
        parameters = self.parameters
        assert parameters is not None
        volume = parameters.input_volume
        if parameters.region == "roi":
            if parameters.roi is None:
                from UNetPPLib.Regions import roi_region
                from UNetPPLib.Volumes import read

                return roi_region(volume, read(volume), None)
            return self.logic.region(volume, parameters.roi)
        if parameters.region == "slab":
            return self.logic.region(volume, self._slice(), parameters.slab)
        return None

    def _slice(self) -> Any:
        """Return the slice view that was moved last, or the first one."""
        scene = slicer.mrmlScene
        if self.slice_node is None or self.slice_node.GetScene() is not scene:
            self.slice_node = scene.GetFirstNodeByClass("vtkMRMLSliceNode")
        if self.slice_node is None:
            from UNetPPLib.Volumes import refusal

            raise refusal("There is no slice view: choose a layout that has one.")
        return self.slice_node

    def apply(self) -> None:
        """Begin a run, or say why there is none."""
        from UNetPPLib.Segmenting import SegmentOptions

        if self.running:
            return
        self.take()
        found = self.problem()
        if found:
            self.say(found)
            return
        parameters = self.parameters
        assert parameters is not None
        self.preview.drop()
        volume = parameters.input_volume
        self._made = None
        if parameters.output_segmentation is None:
            self._made = self.logic.new_segmentation(volume)
            parameters.output_segmentation = self._made
        options = SegmentOptions(
            parameters.model, self.level, self.threshold, self._region(), parameters.protect
        )
        try:
            self.task = self.logic.start_segment(volume, parameters.output_segmentation, options)
        except (ValueError, OSError, MemoryError) as error:
            self.say(str(error) or "There is not enough memory for the result.")
            self._drop_made()
            return
        self.task.listeners.append(self._changed)
        self._changed(self.task)

    def cancel(self) -> None:
        """End the run; the scene stays as it was."""
        if self.task is not None:
            self.task.cancel()

    def undo(self) -> None:
        """Take the last prediction back."""
        assert self.parameters is not None
        if self.logic.undo(self.parameters.output_segmentation):
            self.say("the last prediction was taken back.")
        self.show_buttons()

    def _changed(self, task: Task) -> None:
        if task is not self.task:
            return
        self.say(task.status)
        bar = self.ui.progressBar
        bar.maximum = task.total
        bar.value = task.done
        if not task.running:
            if task.state == "done" and self.figures is not None:
                result = task.result
                self.figures.measured(
                    result["level"], result["seconds"], result["megapixels"], self._key
                )
                self._made = None
            else:
                self._drop_made()
            self.task = None
        self.show_buttons()

    def _drop_made(self) -> None:
        """Take an output away that was made for a run which gave nothing."""
        made, self._made = self._made, None
        if made is None or made.GetScene() is None:
            return
        if made.GetSegmentation().GetNumberOfSegments() == 0:
            made.GetScene().RemoveNode(made)

    def show_buttons(self) -> None:
        """Show what can be pressed now, and why something cannot."""
        ui, parameters = self.ui, self.parameters
        running = self.running
        ui.applyButton.text = "Cancel" if running else "Apply"
        found = "" if running else self.problem()
        # It stays enabled: pressed, it says what is missing.
        ui.applyButton.toolTip = found or ("Stop." if running else "Segment the volume.")
        ui.progressBar.visible = running
        output = None if parameters is None else parameters.output_segmentation
        ui.undoButton.enabled = not running and self.logic.history.can_undo(output)
        ui.undoButton.toolTip = (
            "Take the last prediction back."
            if ui.undoButton.enabled
            else "There is no prediction to take back in this segmentation."
        )
        ui.estimateLabel.text = "" if found else self.estimate()

    def estimate(self) -> str:
        """Return about how long a run takes, in words; empty if nothing is known."""
        parameters = self.parameters
        if parameters is None or self.figures is None or parameters.input_volume is None:
            return ""
        from UNetPPLib.Volumes import read

        try:
            region = self._region()
            shape = [b - a for a, b in region] if region else read(parameters.input_volume).shape
        except (ValueError, OSError):
            return ""
        voxels = 1
        for n in shape:
            voxels *= n
        return self.figures.estimate(self.level, voxels)

    def say(self, text: str) -> None:
        """Show a sentence."""
        self.ui.statusLabel.text = text

    # Live

    def look(self) -> None:
        """Bring the live preview to the slice that is on screen."""
        parameters = self.parameters
        if parameters is None or not parameters.live or parameters.input_volume is None:
            self.preview.hide()
            return
        if self.running:
            return
        volume = parameters.input_volume
        try:
            region = self.logic.region(volume, self._slice(), parameters.slab)
            assert region is not None
            # A slab is one look, with nothing to choose between: it goes as deep as it can.
            level = self._deepest(4) if self.level == "auto" else self.level
            self.preview.update(volume, region, parameters.model, level, self.threshold)
        except (ValueError, OSError) as error:
            self.preview.drop()
            self.say(f"live: {error}")

    def _live_says(self, text: str, working: bool) -> None:
        if not self.running:
            self.say(text)

    def _measured(self, level: Level, seconds: float, megavoxels: float) -> None:
        """Leave times of previews out: they are of the whole volume, and kept."""

    def close(self) -> None:
        """Let go of what is on its way."""
        self.preview.hide()
        if self.task is not None:
            self.task.stop("the module was closed")
