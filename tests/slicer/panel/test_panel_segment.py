"""The upper half of the panel: level, Apply, Cancel, Undo, and the live preview.

With the real engine and the bundled CT model on a small CT; a few nodes stand for the views.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_helpers import choose_level, pump
from pythonqt import FileDialog
from slicer_helpers import Patient
from UNetPPLib import Segments


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


def test_auto_takes_each_tile_as_deep_as_it_needs(
    widget: Any, ct: Any, scene: Any, small_base: str
) -> None:
    ui = widget.ui
    choose_level(widget, 2)
    ui.autoCheck.checked = True
    assert (widget.segment.level, ui.levelLabel.text) == ("auto", "auto")
    assert not ui.levelSlider.enabled
    assert "was not calibrated" in ui.autoCheck.toolTip
    # Auto and the ensemble take turns.
    ui.ensembleCheck.checked = True
    assert (widget.segment.level, ui.levelLabel.text) == ("ensemble", "all")
    assert not ui.autoCheck.checked
    ui.autoCheck.checked = True
    assert not ui.ensembleCheck.checked
    ui.applyButton.click()
    pump(widget, lambda: not widget.segment.running)
    assert "at auto (1 at L" in ui.statusLabel.text
    assert "of 1 tiles) in " in ui.statusLabel.text
    found = widget.parameters.output_segmentation
    mandible = found.GetSegmentation().GetSegmentIdBySegmentName("mandible")
    assert Segments.tag_of(found, mandible, "UNetPP.level") == "auto"
    # A model of two levels has nothing to choose between.
    FileDialog.answers = [small_base]
    ui.modelFileButton.click()
    assert not ui.autoCheck.enabled
    assert "no more than two levels" in ui.autoCheck.toolTip
    assert (widget.segment.level, ui.levelLabel.text) == (2, "L2")


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
