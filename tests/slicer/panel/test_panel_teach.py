"""The lower half of the panel: classes, fine-tuning, places to paint, and project folders."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panel_helpers import pump
from pythonqt import FileDialog
from slicer_helpers import Patient, paint, vessel_strokes, vessels
from UNetPPLib import Segments, Volumes


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
    ui.budgetSpin.value = 600  # until the strokes are learned, however long it takes here
    ui.finetuneButton.click()
    assert ui.finetuneButton.text == "Stop"
    task = widget.teach.task
    learned = lambda: task.path and max(task.scores.values()) > 0.5  # noqa: E731
    pump(widget, lambda: seen.append(ui.statusLabel.text) or learned(), 300)
    ui.finetuneButton.click()
    pump(widget, lambda: not widget.teach.running)
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
