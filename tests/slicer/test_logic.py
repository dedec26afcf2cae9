"""The module's logic on real MRML, with the real engine and the bundled CT model.

The CT is one that the model was not trained on. The first result, in the CT's own geometry, is
the plain one that the others are held against.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from napari_unetpp.core.errors import InputError, UNetPPError
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import EngineError, ModelRequest

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

import slicer
from slicer_helpers import LEVEL, Patient, Plain, add_organs, dice, labels_of
from UNetPPLib import Predictions, Segments, Volumes
from UNetPPLib.Logic import UNetPPLogic
from UNetPPLib.Parameters import Parameters
from UNetPPLib.Segmenting import SegmentOptions
from UNetPPLib.Session import Session, slicer_python


def test_organs_lie_where_the_truth_is(plain: Plain, patient: Patient) -> None:
    assert set(plain.result["segments"]) == {
        "brainstem", "spinal cord", "right parotid", "left parotid", "oesophagus", "larynx",
        "mandible",
    }  # fmt: skip
    # Left and right are told apart by orientation alone.
    for value, least in ((1, 0.6), (3, 0.5), (4, 0.5), (7, 0.6)):
        assert dice(plain.labels, patient.truth, value) > least, value
    assert plain.result["level"] == LEVEL


def test_a_batch_waits_and_fills_the_segmentation(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient, plain: Plain
) -> None:
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    segmentation = add_organs(scene)
    said: list[str] = []
    result = logic.segment(
        volume, segmentation, model="ct-head-neck", level=LEVEL, progress=said.append
    )
    np.testing.assert_array_equal(labels_of(segmentation, result, volume), plain.labels)
    inside = segmentation.GetSegmentation()
    assert inside.GetSegmentIdBySegmentName("mandible") == result["segments"]["mandible"]
    assert said[-1].startswith("done: ")
    assert "HU + 1024" in said[-1]
    assert "torch" not in sys.modules or "torch" in _LOADED_BEFORE


_LOADED_BEFORE = set(sys.modules)


def test_a_region_of_interest_and_a_slab_equal_the_whole_there(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient, plain: Plain
) -> None:
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    middle = tuple(n // 2 for n in patient.ct.shape)
    from UNetPPLib.Regions import to_ras

    for region in ("roi", "slab"):
        if region == "roi":
            node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
            node.SetCenter(*to_ras(volume, middle))
            node.SetSize(60.0, 70.0, 40.0)
        else:
            node = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
            node.SetOrientationToAxial()
            node.JumpSlice(*to_ras(volume, middle))
        segmentation = add_organs(scene)
        result = logic.segment(volume, segmentation, level=LEVEL, region=node)
        box = logic.region(volume, node)
        assert box is not None
        spot = tuple(slice(*span) for span in box)
        expected = np.zeros_like(plain.labels)
        expected[spot] = plain.labels[spot]
        assert (expected > 0).any()
        np.testing.assert_array_equal(labels_of(segmentation, result, volume), expected)


def test_the_scene_is_saved_and_loaded_with_parameters_and_provenance(
    logic: UNetPPLogic,
    add_ct: Callable[..., Any],
    scene: Any,
    patient: Patient,
    tmp_path: Path,
) -> None:
    volume, segmentation = add_ct(patient.ct, patient.ijk_to_ras), add_organs(scene)
    logic.segment(volume, segmentation, level=1, threshold=0.4)
    parameters = Parameters.of(scene)
    parameters.input_volume, parameters.output_segmentation = volume, segmentation
    parameters.level, parameters.region, parameters.classes = 2, "slab", {"S_1": "background"}
    folder = tmp_path / "scène à nous"
    folder.mkdir()
    for node, kind, name in (
        (volume, "vtkMRMLVolumeArchetypeStorageNode", "CT.nrrd"),
        (segmentation, "vtkMRMLSegmentationStorageNode", "organs.seg.nrrd"),
    ):
        storage = scene.AddNewNodeByClass(kind)
        storage.SetFileName(str(folder / name))
        node.SetAndObserveStorageNodeID(storage.GetID())
        assert storage.WriteData(node)
    scene.SetURL(str(folder / "scene.mrml"))
    assert scene.Commit()
    scene.Clear(0)
    assert scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None
    scene.SetURL(str(folder / "scene.mrml"))
    assert scene.Connect()
    again = Parameters.of(scene)
    assert (again.level, again.region, again.classes) == (2, "slab", {"S_1": "background"})
    loaded = again.output_segmentation
    found = loaded.GetSegmentation().GetSegmentIdBySegmentName("mandible")
    assert Segments.tag_of(loaded, found, "UNetPP.level") == "1"
    assert Segments.tag_of(loaded, found, "UNetPP.threshold") == "0.4"
    assert len(Segments.tag_of(loaded, found, "UNetPP.sha256")) == 64
    np.testing.assert_array_equal(Volumes.read(again.input_volume).array, patient.ct)


# What goes wrong


def begin(logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, model: str = "") -> Any:
    """Begin a run that takes long."""
    large = add_ct(np.random.default_rng(0).integers(-900, 900, (96, 96, 96)).astype(np.int16),
                   np.diag([-3.0, -3.0, 3.0, 1.0]))  # fmt: skip
    return logic.start_segment(large, add_organs(scene), SegmentOptions(model or "ct-head-neck"))


@pytest.mark.parametrize("what", ["volume", "segmentation", "scene"])
def test_what_is_needed_is_taken_away_in_mid_run(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, what: str
) -> None:
    task = begin(logic, add_ct, scene)
    logic.session.wait(lambda: task.job.state == "running", 60)
    if what == "scene":
        scene.Clear(0)
        assert "the scene was closed" in task.status
    else:
        node = getattr(task, what)
        name = node.GetName()
        scene.RemoveNode(node)
        assert f"{name} was removed" in task.status
    assert task.state == "cancelled"
    if what == "volume":
        assert task.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    logic.session.poll()
    assert task.state == "cancelled"


def test_cancel_leaves_the_scene_as_it_was(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any
) -> None:
    task = begin(logic, add_ct, scene)
    logic.session.wait(lambda: task.job.state == "running", 60)
    task.cancel()
    assert logic.session.wait(lambda: not task.running, 30)
    assert (task.state, task.status) == ("cancelled", "cancelled; nothing was written.")
    assert task.segmentation.GetSegmentation().GetNumberOfSegments() == 0


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_worker_that_is_killed_is_told_and_started_again(
    logic: UNetPPLogic,
    add_ct: Callable[..., Any],
    scene: Any,
    patient: Patient,
    plain: Plain,
) -> None:
    task = begin(logic, add_ct, scene)
    assert logic.session.wait(lambda: task.job.state == "running", 60)
    time.sleep(0.2)
    os.kill(logic.session.engine.worker_pid, signal.SIGKILL)
    assert logic.session.wait(lambda: not task.running, 30)
    assert task.state == "failed"
    assert "SIGKILL" in task.status
    assert task.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    volume, segmentation = add_ct(patient.ct, patient.ijk_to_ras), add_organs(scene)
    result = logic.segment(volume, segmentation, level=LEVEL)
    np.testing.assert_array_equal(labels_of(segmentation, result, volume), plain.labels)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space")
def test_out_of_memory_is_a_message(add_ct: Callable[..., Any], scene: Any) -> None:
    engine = Engine()
    session = Session(lambda: engine)
    try:
        engine.load(ModelRequest("ct-head-neck")).wait(120)
        # A real limit: small things still find room, the windows of the network do not.
        worker = psutil.Process(engine.worker_pid)
        worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + 100 * 2**20,) * 2)
        task = begin(UNetPPLogic(session), add_ct, scene)
        assert session.wait(lambda: not task.running, 120)
        assert task.state == "failed"
        assert isinstance(task.error, (EngineError, MemoryError))
        assert "memory" in task.status
        assert task.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    finally:
        session.close()


def test_a_result_that_cannot_be_written_leaves_the_scene_as_it_was(
    logic: UNetPPLogic,
    add_ct: Callable[..., Any],
    scene: Any,
    patient: Patient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    volume, segmentation = add_ct(patient.ct, patient.ijk_to_ras), add_organs(scene)
    monkeypatch.setattr(Predictions, "put", full)
    with pytest.raises(MemoryError):
        logic.segment(volume, segmentation, level=1)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_what_does_not_fit_is_said_before_anything_runs(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, tmp_path: Path
) -> None:
    volume, segmentation = add_ct(), add_organs(scene)
    with pytest.raises(InputError, match="load a CT"):
        logic.segment(None, segmentation)
    with pytest.raises(InputError, match="choose one, or create one"):
        logic.segment(volume, None)
    with pytest.raises(InputError, match="did you mean ct-head-neck"):
        logic.segment(volume, segmentation, model="ct-head-nek")
    with pytest.raises(UNetPPError, match="no model file"):
        logic.segment(volume, segmentation, model=str(tmp_path / "modèle perdu.safetensors"))
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_a_model_in_a_folder_with_spaces_and_accents(
    logic: UNetPPLogic,
    add_ct: Callable[..., Any],
    scene: Any,
    patient: Patient,
    plain: Plain,
    tmp_path: Path,
) -> None:
    from napari_unetpp.core.model.cards import resolve

    model = tmp_path / "mes modèles é" / "tête et cou.safetensors"
    model.parent.mkdir()
    model.write_bytes(resolve("ct-head-neck").read_bytes())
    volume, segmentation = add_ct(patient.ct, patient.ijk_to_ras), add_organs(scene)
    result = logic.segment(volume, segmentation, model=str(model), level=LEVEL)
    np.testing.assert_array_equal(labels_of(segmentation, result, volume), plain.labels)


def test_the_worker_runs_on_pythonslicer_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slicer_python() == sys.executable
    home = tmp_path / "Slicer 5.10 café"
    python = home / "bin" / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")

    class App:
        slicerHome = str(home)

    monkeypatch.setattr(slicer, "app", App(), raising=False)
    assert slicer_python() == str(python)
