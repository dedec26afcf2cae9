"""The shipped ``UNetPP.py`` and ``UNetPP.ui``: what a person sees and presses.

With the real engine and the bundled CT model on a small CT; a few nodes stand for the views.
"""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from pythonqt import FileDialog, ScriptedLoadableModuleWidget, qt
from slicer_helpers import Patient, paint, vessel_strokes, vessels
from UNetPPLib import Segments, Session, Setup, Volumes
from UNetPPLib.Parameters import Parameters
from UNetPPLib.Widget import UNetPPWidget


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "réglages"))


@pytest.fixture(scope="module", autouse=True)
def worker() -> Iterator[None]:
    """Keep one worker for the tests of the module."""
    yield
    Session.shared_session().close()


@pytest.fixture
def widget(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the panel on an empty scene, with the slice views that a layout brings."""
    for name, orientation in (("Red", "Axial"), ("Green", "Coronal")):
        node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        getattr(node, f"SetOrientationTo{orientation}")()
    made = UNetPPWidget()
    made.setup()
    # The worker outlives the panel here; its end is a test of its own.
    monkeypatch.setattr(made.logic, "close", lambda: None)
    yield made
    made.cleanup()


def pump(widget: Any, until: Callable[[], bool], seconds: float = 90.0) -> None:
    """Let the event loop and the panel's clock run until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, widget.ui.statusLabel.text
        qt.QApplication.processEvents()
        time.sleep(0.005)


def choose_level(widget: Any, level: int) -> None:
    widget.ui.levelSlider.value = level
    assert widget.parameters.level == level


@pytest.fixture
def ct(widget: Any, add_ct: Callable[..., Any], patient: Patient) -> Any:
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    widget.ui.inputSelector.setCurrentNode(volume)
    return volume


def test_the_module_is_what_slicer_looks_for() -> None:
    import importlib

    module = importlib.import_module("UNetPP")

    class Parent:
        pass

    entry = module.UNetPP(Parent())
    assert entry.parent.title == "UNet++ Segmentation"
    assert issubclass(module.UNetPPWidget, ScriptedLoadableModuleWidget)
    assert module.UNetPPLogic.__name__ == "UNetPPLogic"
    assert hasattr(module.UNetPPTest, "runTest")


def test_loading_the_module_loads_neither_torch_nor_numpy() -> None:
    """Slicer's start-up time is everybody's; slicer-core itself loads NumPy nowhere."""
    code = """
import json, sys
sys.path[:0] = {path!r}
import types
import pythonqt
import slicer, slicer.util
before = set(sys.modules)
pythonqt.install()
import UNetPP
print(json.dumps(sorted({{m.partition(".")[0] for m in set(sys.modules) - before}})))
"""
    root = Path(__file__).resolve().parents[3]
    path = [str(root / "slicer_module"), str(root / "tests" / "slicer" / "standin")]
    done = subprocess.run(
        [sys.executable, "-c", code.format(path=path)],
        capture_output=True, encoding="utf-8", check=True, timeout=60,
    )  # fmt: skip
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "UNetPPLib" in loaded
    assert (
        loaded & {"torch", "numpy", "scipy", "napari_unetpp", "appose", "napari", "qtpy"} == set()
    )


def test_an_empty_scene_says_what_to_do(widget: Any) -> None:
    widget.ui.applyButton.click()
    assert widget.ui.statusLabel.text == "There is no volume: load a CT, or choose one."
    assert widget.ui.applyButton.toolTip == "There is no volume: load a CT, or choose one."
    widget.ui.finetuneButton.click()
    assert "load a CT" in widget.ui.statusLabel.text


def test_figures_and_estimate_are_beside_the_slider(widget: Any, ct: Any) -> None:
    text = widget.ui.figuresLabel.text
    assert all(f"L{k}" in text for k in (1, 2, 3, 4))
    assert "0.63" in text  # the card's Dice at L4
    assert "held out" in text
    deep = widget.ui.estimateLabel.text
    assert deep
    choose_level(widget, 1)
    assert widget.ui.levelLabel.text == "L1"
    assert widget.ui.estimateLabel.text == "under 1 s"


def test_apply_fills_a_new_segmentation_and_undo_takes_it_back(
    widget: Any, ct: Any, scene: Any
) -> None:
    choose_level(widget, 1)
    seen: list[str] = []
    widget.ui.applyButton.click()
    assert widget.ui.applyButton.text == "Cancel"
    assert widget.ui.progressBar.isVisibleTo(widget.parent)
    widget.segment.task.listeners.append(lambda _: seen.append(widget.ui.statusLabel.text))
    pump(widget, lambda: not widget.segment.running)
    assert widget.ui.applyButton.text == "Apply"
    assert widget.ui.statusLabel.text.startswith("done: ")
    assert any("tile" in text for text in seen)
    output = widget.parameters.output_segmentation
    assert output.GetName() == "CT segmentation"
    assert output.GetSegmentation().GetSegmentIdBySegmentName("mandible")
    assert "here" in widget.ui.figuresLabel.text  # a time that was measured on this machine
    assert widget.ui.undoButton.enabled
    widget.ui.undoButton.click()
    assert output.GetSegmentation().GetNumberOfSegments() == 0
    assert not widget.ui.undoButton.enabled


def test_cancel_leaves_no_empty_segmentation_behind(
    widget: Any, add_ct: Callable[..., Any], scene: Any
) -> None:
    noise = np.random.default_rng(0).integers(-900, 900, (96, 96, 96)).astype(np.int16)
    widget.ui.inputSelector.setCurrentNode(add_ct(noise, np.diag([-3.0, -3.0, 3.0, 1.0])))
    choose_level(widget, 4)
    widget.ui.applyButton.click()
    task = widget.segment.task
    pump(widget, lambda: task.job.state == "running")
    widget.ui.applyButton.click()
    pump(widget, lambda: not widget.segment.running)
    assert widget.ui.statusLabel.text == "cancelled; nothing was written."
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_a_volume_that_is_deleted_in_mid_run_is_told(
    widget: Any, add_ct: Callable[..., Any], scene: Any
) -> None:
    noise = np.random.default_rng(0).integers(-900, 900, (96, 96, 96)).astype(np.int16)
    volume = add_ct(noise, np.diag([-3.0, -3.0, 3.0, 1.0]))
    widget.ui.inputSelector.setCurrentNode(volume)
    widget.ui.applyButton.click()
    task = widget.segment.task
    pump(widget, lambda: task.job.state == "running")
    scene.RemoveNode(volume)
    assert "CT was removed" in widget.ui.statusLabel.text
    assert widget.ui.applyButton.text == "Apply"
    pump(widget, lambda: task.job.finished)


def test_closing_the_scene_empties_the_panel_and_a_new_one_fills_it(
    widget: Any, ct: Any, scene: Any, add_ct: Callable[..., Any]
) -> None:
    choose_level(widget, 2)
    scene.Clear(0)
    assert widget.ui.inputSelector.currentNode() is None
    assert widget.parameters.level == 4  # the new scene's own
    widget.ui.applyButton.click()
    assert "There is no volume" in widget.ui.statusLabel.text
    volume = add_ct()
    assert widget.ui.inputSelector.currentNode() is volume


def test_parameters_come_back_with_the_scene(
    widget: Any, ct: Any, scene: Any, tmp_path: Path
) -> None:
    ui = widget.ui
    choose_level(widget, 3)
    ui.regionCombo.setCurrentIndex(2)
    ui.slabSpin.value = 17.5
    ui.protectCheck.checked = False
    ui.ownThresholdCheck.checked = True
    ui.thresholdSlider.value = 0.3
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "CT.nrrd"))
    ct.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.WriteData(ct)
    scene.SetURL(str(tmp_path / "scène.mrml"))
    assert scene.Commit()
    scene.Clear(0)
    assert ui.levelSlider.value == 4
    scene.SetURL(str(tmp_path / "scène.mrml"))
    assert scene.Connect()
    widget.enter()
    assert (ui.levelSlider.value, ui.regionCombo.currentIndex) == (3, 2)
    assert ui.slabSpin.value == 17.5
    assert not ui.protectCheck.checked
    assert ui.thresholdSlider.value == pytest.approx(0.3)
    assert ui.inputSelector.currentNode().GetName() == "CT"


def test_the_live_preview_follows_the_slice_from_kept_levels(
    widget: Any, ct: Any, scene: Any, patient: Patient
) -> None:
    choose_level(widget, 2)
    red = scene.GetFirstNode("Red", "vtkMRMLSliceNode")
    from UNetPPLib.Regions import to_ras

    z, y, x = patient.ct.shape
    red.JumpSlice(*to_ras(ct, (z // 2, y // 2, x // 2)))
    seen: list[str] = []
    widget.ui.liveCheck.checked = True
    preview = widget.segment.preview
    pump(widget, lambda: seen.append(widget.ui.statusLabel.text) or preview.shown == 2)
    node = preview.node
    assert node.GetHideFromEditors()
    assert not node.GetSaveWithScene()
    found = np.zeros(patient.ct.shape, np.uint8)
    names = [c.name for c in widget.segment.card().classes]
    for value, name in enumerate(names, start=1):
        found[Segments.segment_array(node, name, ct)] = value
    inside = np.flatnonzero((found > 0).any((1, 2)))
    region = widget.logic.region(ct, red, widget.parameters.slab)
    assert region[0][0] <= inside[0]
    assert inside[-1] < region[0][1]
    # It is what a run gives there, but for what the end of the window moves by a hair.
    organs = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    result = widget.logic.segment(ct, organs, level=2)
    for value, segment_id in enumerate(result["segments"].values(), start=1):
        whole = Segments.segment_array(organs, segment_id, ct)
        spot = slice(*region[0])
        assert np.mean(whole[spot] != (found[spot] == value)) < 1e-3
    # Another slice computes nothing new.
    pump(widget, lambda: not preview.working)
    nodes = widget.logic.session.engine.stats().wait(30)["nodes"]
    preview.shown = None
    red.JumpSlice(*to_ras(ct, (z // 2 + 9, y // 2, x // 2)))
    pump(widget, lambda: preview.shown == 2)
    pump(widget, lambda: not preview.working)
    assert widget.logic.session.engine.stats().wait(30)["nodes"] == nodes
    widget.ui.liveCheck.checked = False
    pump(widget, lambda: preview.node is None)
    assert scene.GetFirstNodeByName("UNet++ preview") is None


def add_paint(scene: Any, ct: Any, patient: Patient) -> tuple[Any, dict[str, str]]:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "strokes")
    Segments.make_ready(node, ct)
    ids = {n: node.GetSegmentation().AddEmptySegment("", n) for n in ("background", "jaw", "x")}
    rows = np.zeros(patient.ct.shape, bool)
    rows[::6, ::4] = True
    paint(node, ids["background"], ct, rows & (patient.truth == 0) & (patient.ct > 600))
    paint(node, ids["jaw"], ct, rows & (patient.truth == 7))
    paint(node, ids["x"], ct, rows & (patient.truth == 1))
    return node, ids


def test_classes_are_chosen_for_segments_by_id(
    widget: Any, ct: Any, scene: Any, patient: Patient
) -> None:
    node, ids = add_paint(scene, ct, patient)
    widget.ui.paintedSelector.setCurrentNode(node)
    table = widget.ui.classTable
    assert table.rowCount == 3
    assert [table.item(r, 0).text() for r in range(3)] == ["background", "jaw", "x"]
    combo = table.cellWidget(1, 1)
    assert combo.currentText == "new class: jaw"
    combo.setCurrentIndex(combo.findData("mandible"))
    other = table.cellWidget(2, 1)
    other.setCurrentIndex(0)
    assert widget.teach.classes() == {ids["background"]: "background", ids["jaw"]: "mandible"}
    # A new name and another order change nothing.
    node.GetSegmentation().GetSegment(ids["jaw"]).SetName("Kiefer")
    node.GetSegmentation().SetSegmentIndex(ids["x"], 0)
    assert widget.teach.classes() == {ids["background"]: "background", ids["jaw"]: "mandible"}


def test_the_loop_paint_fine_tune_compare_revert_save(
    widget: Any, add_ct: Callable[..., Any], scene: Any, small_base: str, tmp_path: Path
) -> None:
    array, _ = vessels()
    volume = add_ct(array, np.diag([-1.0, -1.0, 1.0, 1.0]))
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "strokes")
    Segments.make_ready(node, volume)
    ui = widget.ui
    ui.inputSelector.setCurrentNode(volume)
    FileDialog.answers = [small_base]
    ui.modelFileButton.click()
    for name, stroke in vessel_strokes().items():
        found = node.GetSegmentation().AddEmptySegment("", name)
        paint(node, found, volume, stroke)
    ui.paintedSelector.setCurrentNode(node)
    combo = ui.classTable.cellWidget(1, 1)
    combo.setCurrentIndex(combo.findData("vessel"))
    assert not ui.saveModelButton.enabled
    assert ui.saveModelButton.toolTip == "There is no fine-tuned model yet."
    seen: list[str] = []
    for seconds in (5, 60):  # the second one for a machine that is busy
        ui.budgetSpin.value = seconds
        ui.finetuneButton.click()
        assert ui.finetuneButton.text == "Stop"
        pump(widget, lambda: seen.append(ui.statusLabel.text) or not widget.teach.running, 180)
        if widget.parameters.base:
            break
    assert any(text.startswith("step ") for text in seen)
    assert ui.statusLabel.text.startswith("fine-tuned in ")
    assert "→" in ui.reportLabel.text
    assert ui.finetuneButton.text == "Fine-tune"
    assert widget.parameters.split
    tuned = widget.parameters.model
    assert widget.parameters.base == small_base
    assert ui.modelCombo.currentText == "small (fine-tuned)"

    # With the slider: the figures are the new model's, and it segments.
    ui.applyButton.click()
    pump(widget, lambda: not widget.segment.running)
    assert "1 of 1 classes found" in ui.statusLabel.text

    FileDialog.answers = [str(tmp_path / "mon modèle")]
    ui.saveModelButton.click()
    saved = tmp_path / "mon modèle.safetensors"
    assert saved.read_bytes() == Path(tuned).read_bytes()
    assert widget.parameters.model == str(saved)
    ui.revertButton.click()
    assert widget.parameters.model == small_base
    assert ui.modelCombo.currentText == "small"
    assert not ui.revertButton.enabled


def test_a_full_disk_is_told_and_nothing_half_written_is_left(
    widget: Any, ct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    FileDialog.answers = [str(tmp_path / "m.safetensors")]
    widget.parameters.base = "ct-head-neck"
    from napari_unetpp.core.model.cards import resolve

    widget.parameters.model = str(resolve("ct-head-neck"))
    widget.changed()
    widget.ui.saveModelButton.click()
    assert "No space left on device" in widget.ui.statusLabel.text
    assert [p for p in tmp_path.rglob("*.safetensors*") if p.is_file()] == []


def test_the_next_place_to_paint_is_jumped_to(widget: Any, ct: Any, scene: Any) -> None:
    red = scene.GetFirstNode("Red", "vtkMRMLSliceNode")
    before = red.GetSliceOffset()
    widget.ui.nextRegionButton.click()
    pump(widget, lambda: widget.ui.statusLabel.text.startswith("paint here"))
    assert red.GetSliceOffset() != before
    again = widget.ui.statusLabel.text
    widget.ui.nextRegionButton.click()
    assert widget.ui.statusLabel.text != again


def test_a_project_is_saved_and_opened(
    widget: Any, ct: Any, scene: Any, patient: Patient, tmp_path: Path
) -> None:
    node, _ = add_paint(scene, ct, patient)
    widget.ui.paintedSelector.setCurrentNode(node)
    FileDialog.answers = [str(tmp_path / "dossier é")]
    widget.ui.saveProjectButton.click()
    assert widget.ui.statusLabel.text == "saved: 1 pairs are in dossier é."
    scene.Clear(0)
    FileDialog.answers = [str(tmp_path / "dossier é")]
    widget.ui.openProjectButton.click()
    assert widget.ui.statusLabel.text == "1 pairs of dossier é are in the scene."
    np.testing.assert_array_equal(Volumes.read(widget.parameters.input_volume).array, patient.ct)
    assert sorted(widget.teach.classes().values()) == ["background", "jaw", "x"]
    FileDialog.answers = [str(tmp_path / "nowhere")]
    widget.ui.openProjectButton.click()
    assert "nowhere" in widget.ui.statusLabel.text


def test_a_model_file_is_opened_or_refused_in_words(widget: Any, ct: Any, tmp_path: Path) -> None:
    from napari_unetpp.core.model.cards import resolve

    own = tmp_path / "à moi.safetensors"
    own.write_bytes(resolve("ct-head-neck").read_bytes())
    FileDialog.answers = [str(own)]
    widget.ui.modelFileButton.click()
    assert widget.parameters.model == str(own)
    assert widget.ui.modelCombo.currentText == "à moi"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a model")
    FileDialog.answers = [str(broken)]
    widget.ui.modelFileButton.click()
    assert widget.parameters.model == str(own)
    assert "broken" in widget.ui.statusLabel.text


def test_the_first_apply_asks_before_it_installs(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    installed: list[Any] = []
    there = False
    monkeypatch.setattr(Setup, "missing", lambda: [] if there else ["PyTorch", "appose"])
    monkeypatch.setattr(Setup, "install", lambda names, _: installed.append(names))
    answer = False

    def ask(text: str, **_: Any) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask, raising=False)
    made = UNetPPWidget()
    made.setup()
    assert "will be installed with the first Apply" in made.ui.statusLabel.text
    assert asked == []
    made.ui.applyButton.click()
    assert "PyTorch, appose" in asked[0]
    assert installed == []
    assert made.ui.statusLabel.text == "Nothing was installed, so nothing can be segmented."
    answer = True
    monkeypatch.setattr(Setup, "install", lambda names, _: (installed.append(names), yes()))

    def yes() -> None:
        nonlocal there
        there = True

    made.ui.applyButton.click()
    assert installed == [["PyTorch", "appose"]]
    assert made.segment is not None  # the panel is alive now
    monkeypatch.setattr(made.logic, "close", lambda: None)
    made.cleanup()


def test_torch_is_tried_elsewhere_and_told(widget: Any) -> None:
    pump(widget, lambda: widget.torch is not None)
    assert widget.torch.works
    assert widget.ui.deviceLabel.text.startswith("PyTorch 2.")
    assert "torch" not in sys.modules
    widget.torch = Setup.TorchState(False, "PyTorch does not load.", "Repair it.")
    widget.ui.applyButton.click()
    assert widget.ui.statusLabel.text == "PyTorch does not load. Repair it."


def test_parameters_that_a_file_got_wrong_are_the_defaults(scene: Any) -> None:
    parameters = Parameters.of(scene)
    node = parameters.node
    for name, text in (("level", "9"), ("region", "moon"), ("slab", "nan"), ("classes", "[1]"),
                       ("protect", "perhaps")):  # fmt: skip
        node.SetParameter(name, text)
    assert (parameters.level, parameters.region, parameters.slab) == (4, "whole", 10.0)
    assert (parameters.classes, parameters.protect) == ({}, True)
    with pytest.raises(ValueError, match="7"):
        parameters.level = 7
    with pytest.raises(ValueError, match="vtkMRMLVolumeNode"):
        parameters.input_volume = node
    assert Parameters.of(scene).node is node
