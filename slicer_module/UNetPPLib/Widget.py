"""The panel of the module: the ``.ui``, the scene and the clock, put together.

The two halves of the panel do the work (``SegmentPanel``, ``TeachPanel``). This module keeps
widgets and parameters equal, follows the scene, polls the engine, and sets up what is missing.
"""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin

from UNetPPLib import Setup
from UNetPPLib.Logic import UNetPPLogic
from UNetPPLib.Parameters import Parameters
from UNetPPLib.SegmentPanel import SegmentPanel
from UNetPPLib.TeachPanel import TeachPanel

POLL_MILLISECONDS = 30
SETTLE_MILLISECONDS = 60
"""So long a slice must hold still before the preview follows it."""

MODEL_FILTER = "Models (*.safetensors)"


class UNetPPWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):  # type: ignore[misc]
    """The panel."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: UNetPPLogic | None = None
        self.segment: SegmentPanel | None = None
        self.teach: TeachPanel | None = None
        self.parameters: Parameters | None = None
        self.torch: Setup.TorchState | None = None
        self._probe: Setup.TorchProbe | None = None
        self._showing = False
        self._slices: list[Any] = []

    # Called by Slicer

    def setup(self) -> None:
        """Make the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/UNetPP.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.poll_timer = qt.QTimer()
        self.poll_timer.setInterval(POLL_MILLISECONDS)
        self.poll_timer.connect("timeout()", self.poll)
        self.settle_timer = qt.QTimer()
        self.settle_timer.setSingleShot(True)
        self.settle_timer.setInterval(SETTLE_MILLISECONDS)
        self.settle_timer.connect("timeout()", self._settled)
        self._connect()
        scene = slicer.mrmlScene
        for event, method in (
            (scene.StartCloseEvent, self._scene_closes),
            (scene.EndCloseEvent, self._scene_changed),
            (scene.EndImportEvent, self._scene_changed),
            (scene.NodeAddedEvent, self._nodes_changed),
            (scene.NodeRemovedEvent, self._nodes_changed),
        ):
            self.addObserver(scene, event, method)
        self.start()

    def start(self) -> None:
        """Fill the panel, if the package is there; say what is missing otherwise."""
        names = Setup.missing()
        if names:
            self.ui.statusLabel.text = (
                f"Not set up yet: {', '.join(names)} will be installed with the first Apply, "
                "after asking."
            )
            self.ui.setupButton.text = "Install…"
            self.poll_timer.start()
            return
        self.ui.setupButton.text = "Check"
        self.logic = UNetPPLogic()
        self.segment = SegmentPanel(self.ui, self.logic)
        self.teach = TeachPanel(self.ui, self.logic, self.segment, self.changed)
        self._follow_scene()
        self.probe()
        self.poll_timer.start()

    def enter(self) -> None:
        """Come back to the module."""
        self._follow_scene()
        self._look_soon()

    def exit(self) -> None:
        """Leave the module: the preview goes, runs go on."""
        if self.segment is not None:
            self.segment.preview.hide()

    def cleanup(self) -> None:
        """End with the application, or before the module is loaded anew."""
        self.poll_timer.stop()
        self.settle_timer.stop()
        self.removeObservers()
        if self._probe is not None:
            self._probe.close()
        for half in (self.segment, self.teach):
            if half is not None:
                half.close()
        if self.logic is not None:
            self.logic.close()

    # Set-up

    def set_up(self) -> bool:
        """Install what is missing, after asking; return whether all is there now."""
        names = Setup.missing()
        if not names:
            return True
        if not slicer.util.confirmOkCancelDisplay(Setup.question(names), windowTitle="UNet++"):
            self.ui.statusLabel.text = "Nothing was installed, so nothing can be segmented."
            return False
        self.ui.statusLabel.text = "installing …"
        try:
            Setup.install(names, slicer)
        except Exception as error:  # pip's failures are of many kinds
            self.ui.statusLabel.text = f"The installation failed: {error}"
            return False
        self.start()
        return True

    def probe(self) -> None:
        """Try PyTorch, in a process of its own."""
        if self._probe is None:
            self.ui.deviceLabel.text = "trying PyTorch …"
            self._probe = Setup.TorchProbe()

    def poll(self) -> None:
        """Hear what the engine and the probe have to say; called by the clock."""
        if self._probe is not None:
            state = self._probe.poll()
            if state is not None:
                self._probe, self.torch = None, state
                self.ui.deviceLabel.text = f"{state.text} {state.repair}".strip()
        if self.logic is not None:
            self.logic.session.poll()

    # Between widgets and parameters

    def _connect(self) -> None:
        ui = self.ui
        for selector in (
            ui.inputSelector,
            ui.outputSelector,
            ui.roiSelector,
            ui.paintedSelector,
        ):
            selector.connect("currentNodeChanged(vtkMRMLNode*)", self._touched)
        for box in (
            ui.ensembleCheck,
            ui.autoCheck,
            ui.ownThresholdCheck,
            ui.protectCheck,
            ui.liveCheck,
        ):
            box.connect("toggled(bool)", self._touched)
        for number in (ui.slabSpin, ui.thresholdSlider, ui.budgetSpin):
            number.connect("valueChanged(double)", self._touched)
        ui.levelSlider.connect("valueChanged(int)", self._touched)
        for combo in (ui.modelCombo, ui.regionCombo):
            combo.connect("currentIndexChanged(int)", self._touched)
        for button, method in (
            (ui.applyButton, self.on_apply),
            (ui.undoButton, self.on_undo),
            (ui.modelFileButton, self.on_model_file),
            (ui.setupButton, self.on_setup),
            (ui.finetuneButton, self.on_finetune),
            (ui.revertButton, self.on_revert),
            (ui.saveModelButton, self.on_save_model),
            (ui.nextRegionButton, self.on_next_region),
            (ui.openProjectButton, self.on_open_project),
            (ui.saveProjectButton, self.on_save_project),
        ):
            button.connect("clicked()", method)

    def _touched(self, *_: Any) -> None:
        """Take what the user changed."""
        if self._showing or self.segment is None or self.teach is None or self.parameters is None:
            return
        if slicer.mrmlScene.IsBatchProcessing():  # a scene that is being loaded is no user
            return
        before = (self.parameters.input_volume, self.parameters.model, self.parameters.painted)
        self.segment.take()
        self.teach.take()
        after = (self.parameters.input_volume, self.parameters.model, self.parameters.painted)
        if before != after:
            self.teach.forget_places()
        self.changed()

    def changed(self) -> None:
        """Show what the parameters say, and look again."""
        if self.segment is None or self.teach is None or self._showing:
            return
        self._showing = True
        try:
            self.segment.show()
            self.teach.show()
        finally:
            self._showing = False
        self._look_soon()

    def _follow_scene(self) -> None:
        """Take up the scene's parameters and its slice views."""
        if self.segment is None or self.teach is None or slicer.mrmlScene.IsClosing():
            return
        self.parameters = Parameters.of(slicer.mrmlScene)
        self.segment.parameters = self.teach.parameters = self.parameters
        if self.parameters.input_volume is None:
            self.parameters.input_volume = self.ui.inputSelector.currentNode()
        for node in self._slices:
            self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self._slice_moved)
        self._slices = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        for node in self._slices:
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._slice_moved)
        self.changed()

    def _scene_closes(self, *_: Any) -> None:
        """Let go of all nodes; what goes on ends by itself."""
        for node in self._slices:
            self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self._slice_moved)
        self._slices = []
        self.parameters = None
        if self.segment is not None and self.teach is not None and self.logic is not None:
            self.segment.parameters = self.teach.parameters = None
            self.segment.preview.drop()
            self.segment.preview.node = None
            self.segment.slice_node = None
            self.teach.forget_places()
            self.logic.history.forget()

    def _scene_changed(self, *_: Any) -> None:
        self._follow_scene()

    def _nodes_changed(self, *_: Any) -> None:
        scene = slicer.mrmlScene
        if self.parameters is None or scene.IsBatchProcessing() or self._showing:
            return
        if len(self._slices) != scene.GetNumberOfNodesByClass("vtkMRMLSliceNode"):
            self._follow_scene()
        elif self.segment is not None and self.teach is not None:
            self.segment.show_buttons()
            self.teach.show_buttons()

    def _slice_moved(self, caller: Any, event: Any = None) -> None:
        if self.segment is not None:
            self.segment.slice_node = caller
            self._look_soon()

    def _look_soon(self) -> None:
        if self.parameters is not None:
            self.settle_timer.start()

    def _settled(self) -> None:
        if self.segment is not None:
            self.segment.look()

    # Buttons

    def on_apply(self) -> None:
        """Segment, or cancel."""
        if not self.set_up() or self.segment is None:
            return
        if self.torch is not None and not self.torch.works:
            self.ui.statusLabel.text = f"{self.torch.text} {self.torch.repair}"
            self.probe()  # it may have been repaired
            return
        if self.segment.running:
            self.segment.cancel()
        else:
            self.segment.apply()
            self.changed()

    def on_undo(self) -> None:
        """Take the last prediction back."""
        if self.segment is not None:
            self.segment.undo()

    def on_setup(self) -> None:
        """Install what is missing, or look at PyTorch again."""
        if Setup.missing():
            self.set_up()
        else:
            self.probe()

    def on_model_file(self) -> None:
        """Choose a model file."""
        path = qt.QFileDialog.getOpenFileName(self.parent, "Open a model", "", MODEL_FILTER)
        if path and self.segment is not None and self.parameters is not None:
            with self._told():
                self.segment.models.add_file(str(path))
                self.parameters.model = str(path)
                self.changed()

    def on_finetune(self) -> None:
        """Fine-tune, or stop with the best so far."""
        if self.set_up() and self.teach is not None:
            self.teach.press()

    def on_revert(self) -> None:
        """Go back to the base model."""
        if self.teach is not None:
            self.teach.revert()

    def on_save_model(self) -> None:
        """Save the fine-tuned model."""
        path = qt.QFileDialog.getSaveFileName(self.parent, "Save the model", "", MODEL_FILTER)
        if path and self.teach is not None:
            with self._told():
                self.teach.save_model(str(path))

    def on_next_region(self) -> None:
        """Move to the next place to paint."""
        if self.teach is not None:
            self.teach.next_region()

    def on_open_project(self) -> None:
        """Open a training set."""
        folder = qt.QFileDialog.getExistingDirectory(self.parent, "Open a project folder")
        if folder and self.teach is not None:
            with self._told():
                self.teach.open_project(str(folder))

    def on_save_project(self) -> None:
        """Put volume and paint into a training set."""
        folder = qt.QFileDialog.getExistingDirectory(self.parent, "Choose a project folder")
        if folder and self.teach is not None:
            with self._told():
                self.teach.save_project(str(folder))

    def _told(self) -> _Told:
        """Show errors of the user's kind as a sentence."""
        return _Told(self.ui.statusLabel)


class _Told:
    """Shows an error that a user can act on in place of raising it."""

    def __init__(self, label: Any) -> None:
        self._label = label

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if isinstance(error, (ValueError, OSError, MemoryError)):
            self._label.text = str(error) or "There is not enough memory."
            return True
        return False
