"""A scene without the application, and what tests put into it.

There is no Slicer application here. ``slicer-core`` brings its scene, nodes, storage and module
logics; :func:`bootstrap` puts them where the application would.
"""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import numpy as np
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
