"""A scene without the application, and what tests put into it.

There is no Slicer application here. ``slicer-core`` brings its scene, nodes, storage and module
logics; :func:`bootstrap` puts them where the application would.
"""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from numpy.typing import NDArray

#: Axes that are turned about all three directions, with spacings of a clinical CT.
OBLIQUE = np.array(
    [
        [0.86, -0.42, 0.35, 12.0],
        [0.45, 0.78, -0.66, -30.0],
        [0.02, 0.31, 2.90, 44.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
SHEARED = np.array(
    [[2.0, 0.5, 0.0, 5.0], [0.0, 3.0, 0.2, 6.0], [0.3, 0.0, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]]
)


def bootstrap() -> Any:
    """Make a scene and the module logics that ``slicer.util`` wants; return the scene."""
    scene = slicer.mrmlScene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    application.GetColorLogic().SetMRMLScene(scene)
    application.GetColorLogic().AddDefaultColorNodes()
    application.SetModuleLogic("Colors", application.GetColorLogic())
    slicer.modules = types.ModuleType("slicer.modules")
    for name, kind in (
        ("Volumes", slicer.vtkSlicerVolumesLogic),
        ("Segmentations", slicer.vtkSlicerSegmentationsModuleLogic),
        ("Sequences", slicer.vtkSlicerSequencesLogic),
    ):
        logic = kind()
        logic.SetMRMLScene(scene)
        logic.SetMRMLApplicationLogic(application)
        application.SetModuleLogic(name, logic)
        module = types.SimpleNamespace(logic=lambda logic=logic: logic)
        setattr(slicer.modules, name.lower(), module)
    slicer.test_application_logic = application
    return scene


@dataclass(frozen=True)
class Patient:
    """A real CT with its organs: arrays (Z, Y, X) and IJK to RAS."""

    ct: NDArray[np.int16]
    truth: NDArray[np.uint8]
    ijk_to_ras: NDArray[np.float64]


def paint(segmentation: Any, segment_id: str, volume: Any, mask: NDArray[Any]) -> Any:
    """Paint into a segment as the Segment Editor's Paint effect does; return the editor's logic."""
    from vtk.util.numpy_support import vtk_to_numpy

    scene = segmentation.GetScene()
    editor = scene.GetFirstNodeByClass("vtkMRMLSegmentEditorNode")
    if editor is None:
        editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetOverwriteMode(editor.OverwriteNone)
    logic = slicer.vtkSlicerSegmentEditorLogic()
    logic.SetMRMLScene(scene)
    logic.SetMRMLApplicationLogic(slicer.test_application_logic)
    logic.SetSegmentEditorNode(editor)
    logic.SetSegmentationNode(segmentation)
    logic.SetSourceVolumeNode(volume)
    logic.SetCurrentSegmentID(segment_id)
    logic.UpdateReferenceGeometryImage()
    logic.UpdateSelectedSegmentLabelmap()
    logic.UpdateMaskLabelmap()
    logic.SaveStateForUndo()
    logic.ResetModifierLabelmapToDefault()
    modifier = logic.GetModifierLabelmap()
    voxels = vtk_to_numpy(modifier.GetPointData().GetScalars())
    voxels.reshape(modifier.GetDimensions()[::-1])[:] = mask
    modifier.Modified()
    logic.ModifySegmentByLabelmap(
        segmentation, segment_id, modifier, logic.ModificationModeAdd, False, False
    )
    return logic


_SMALL = """
import sys
import torch
from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.model.modelfile import save_model
from napari_unetpp.core.nn.network import NestedUNet
network = NetworkConfig(ndim=3, filters=(4, 6, 8), norm="batch")
card = ModelCard("small", network, (ClassInfo("vessel", "#ff8a65"),), axes="ZYX",
                 orientation="SPL", levels_trained=(1, 2))
torch.manual_seed(7)
save_model(sys.argv[1], NestedUNet(network).eval(), card)
"""


def small_model(path: Path) -> str:
    """Write a small untrained 3D model; in a process of its own, so that torch stays there."""
    subprocess.run([sys.executable, "-c", _SMALL, str(path)], check=True, timeout=120)
    return str(path)


def vessels() -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Return a noisy volume with two bright tubes, and where they are, (Z, Y, X)."""
    z, y, x = np.mgrid[:24, :40, :48]
    tubes = ((y - 12 - z / 4) ** 2 + (x - 14) ** 2 < 20) | ((y - 28) ** 2 + (x - 32) ** 2 < 30)
    noise = np.random.default_rng(3).normal(0, 12, tubes.shape)
    return (80 + 150 * tubes + noise).astype(np.int16), tubes


def vessel_strokes() -> dict[str, NDArray[np.bool_]]:
    """Return strokes: two along tubes and three in the background."""
    marks = {name: np.zeros((24, 40, 48), bool) for name in ("background", "tube")}
    marks["tube"][6, 10:17, 13:15] = True
    marks["tube"][17, 25:32, 31:33] = True
    marks["background"][6, 2:4, 4:44] = True
    marks["background"][17, 36:38, 4:44] = True
    marks["background"][12, 19:21, 2:46] = True
    return marks


@dataclass(frozen=True)
class Plain:
    """What came out in the CT's own geometry: label of each voxel, and the result."""

    labels: NDArray[np.uint8]
    result: dict[str, Any]


def labels_of(segmentation: Any, result: dict[str, Any], volume: Any) -> NDArray[np.uint8]:
    """Return the segments of a result as labels on a volume's grid."""
    from UNetPPLib import Segments, Volumes

    shape = Volumes.read(volume).shape
    labels = np.zeros(shape, np.uint8)
    for value, found in enumerate(result["segments"].values(), start=1):
        labels[Segments.segment_array(segmentation, found, volume)] = value
    return labels


def dice(one: NDArray[Any], other: NDArray[Any], value: int) -> float:
    """Return how well two label maps agree on a value."""
    a, b = one == value, other == value
    return float(2 * (a & b).sum() / max(1, a.sum() + b.sum()))


def add_organs(scene: Any) -> Any:
    """Add an empty segmentation."""
    return scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")


LEVEL = 3
"""The level of the plain result: as good as L4, and faster."""


def add_painted(scene: Any, volume: Any, names: tuple[str, ...]) -> tuple[Any, dict[str, str]]:
    """Add a segmentation with empty segments; return it and the id of each."""
    from UNetPPLib import Segments

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "painted")
    Segments.make_ready(node, volume)
    return node, {name: node.GetSegmentation().AddEmptySegment("", name) for name in names}


def strokes(patient: Patient, values: tuple[int, ...], every: int) -> dict[str, NDArray[np.bool_]]:
    """Return thin strokes along rows inside organs, and in the background."""
    organs = np.isin(patient.truth, values)
    rows = np.zeros(patient.truth.shape, bool)
    rows[::every, ::4] = True
    marked = {str(v): (patient.truth == v) & rows for v in values}
    marked["background"] = rows & (patient.truth == 0) & (patient.ct > 600)
    # Between the organs, and only where the columns are few.
    marked["background"] &= (np.arange(patient.ct.shape[2]) % 7 < 3) & ~organs
    return marked


def real_patient(shared_data: Path, name: str) -> Patient:
    """Return the head and neck of a patient: the organs and a margin; skip if it is not there."""
    images = shared_data / "ct_head_neck" / "images" / f"{name}.nii.gz"
    if not images.is_file():
        pytest.skip(f"no real CT: there is no {images} (see sample_data/README.md)")
    nibabel = pytest.importorskip("nibabel")
    ct = nibabel.load(images)
    truth = nibabel.load(shared_data / "ct_head_neck" / "masks" / f"{name}.nii.gz")
    values = np.asarray(ct.dataobj).transpose(2, 1, 0)
    organs = np.asarray(truth.dataobj).transpose(2, 1, 0)
    # The organs and a margin: the rest would only cost time.
    inside = [np.flatnonzero((organs > 0).any(tuple(k for k in range(3) if k != a)))
              for a in range(3)]  # fmt: skip
    first = [max(int(i[0]) - 10, 0) for i in inside]
    spot = tuple(slice(a, int(i[-1]) + 11) for a, i in zip(first, inside, strict=True))
    matrix = ct.affine.copy()
    matrix[:3, 3] += matrix[:3, :3] @ np.array(first[::-1])
    return Patient(
        np.ascontiguousarray(values[spot]).astype(np.int16),
        np.ascontiguousarray(organs[spot]).astype(np.uint8),
        matrix,
    )
