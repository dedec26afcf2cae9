"""Project folders: volumes and their paint on disk, for 3D Slicer and napari."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_unetpp.core.data.geometry import Grid
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.cards import read_card
from napari_unetpp.core.teach.project import Project

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

import slicer
from slicer_helpers import Patient, paint
from UNetPPLib import Painted, Projects, Volumes
from UNetPPLib.Logic import UNetPPLogic


def test_a_project_goes_to_disk_and_comes_back_with_geometry_and_classes(
    logic: UNetPPLogic,
    painted_patient: tuple[Any, Any, dict[str, str]],
    scene: Any,
    patient: Patient,
    tmp_path: Path,
) -> None:
    volume, node, classes = painted_patient
    classes = dict(classes)
    tumour = node.GetSegmentation().AddEmptySegment("", "tumour")
    node.GetSegmentation().GetSegment(tumour).SetColor(1.0, 0.0, 0.0)
    spot = np.zeros(patient.ct.shape, bool)
    spot[4:6, 30:33, 20:25] = True
    paint(node, tumour, volume, spot)
    classes[tumour] = "tumour"
    folder = tmp_path / "dossier café"
    Projects.save(folder, volume, node, classes, "ct-head-neck")
    names = Painted.class_names(classes, [c.name for c in read_card("ct-head-neck").classes])
    labels, _ = Painted.labels_of(node, volume, classes, names)

    # As napari reads it.
    project = Project.open(folder)
    (pair,) = project.pairs()
    assert project.base == "ct-head-neck"
    assert [c.name for c in project.classes] == list(names)
    assert project.classes[-1].color == "#ff0000"
    np.testing.assert_array_equal(pair.painted().data[...], labels)
    np.testing.assert_array_equal(pair.image().data[...], patient.ct)
    np.testing.assert_allclose(pair.image().affine, Volumes.read(volume).affine, atol=1e-6)

    # And as Slicer does, another day; painting goes on under the same name.
    scene.Clear(0)
    _, (opened,) = Projects.load(folder)
    np.testing.assert_array_equal(Volumes.read(opened.volume).array, patient.ct)
    again, _ = Painted.labels_of(opened.segmentation, opened.volume, opened.classes, names)
    np.testing.assert_array_equal(again, labels)
    Projects.save(folder, opened.volume, opened.segmentation, opened.classes, "ct-head-neck")
    assert [p.name for p in Project.open(folder).pairs()] == [pair.name]


def test_paint_of_another_scene_gets_a_pair_of_its_own(
    logic: UNetPPLogic, painted_patient: tuple[Any, Any, dict[str, str]], tmp_path: Path
) -> None:
    """Scenes give their nodes the same names and numbers."""
    volume, node, classes = painted_patient
    folder = tmp_path / "project"
    Projects.save(folder, volume, node, classes, "ct-head-neck")
    (first,) = Project.open(folder).pairs()
    before = np.array(first.painted().data[...])
    Projects.save(folder, volume, node, classes, "ct-head-neck")
    assert len(Project.open(folder).pairs()) == 1
    node.RemoveAttribute("UNetPP.project")  # as a segmentation is that was never in the project
    Projects.save(folder, volume, node, classes, "ct-head-neck")
    pairs = Project.open(folder).pairs()
    assert len({pair.name for pair in pairs}) == 2
    np.testing.assert_array_equal(pairs[0].painted().data[...], before)
    Projects.save(folder, volume, node, classes, "ct-head-neck")
    assert len(Project.open(folder).pairs()) == 2


def test_a_project_of_napari_opens_with_its_spacing(scene: Any, tmp_path: Path) -> None:
    from napari_unetpp.core.data.image import Image

    array = np.arange(5 * 6 * 7, dtype=np.uint16).reshape(5, 6, 7)
    painted = np.zeros(array.shape, np.uint8)
    painted[1, 2, 3], painted[4, 5, 6] = 1, 3
    project = Project.create(tmp_path / "p", base="ct-head-neck")
    project.add(
        Image.from_array(array, "ZYX", (2.0, 500.0, 0.5), unit="mm").with_spacing((2.0, 0.5, 0.5)),
        painted,
    )
    _, (opened,) = Projects.load(tmp_path / "p")
    image = Volumes.read(opened.volume)
    np.testing.assert_array_equal(image.array, array)
    assert image.spacing == pytest.approx((2.0, 0.5, 0.5))
    assert Grid(image.shape, image.affine).orientation == "SPL"
    assert sorted(opened.classes.values()) == ["background", "class 2"]


def test_images_that_no_volume_can_hold_are_refused(scene: Any, tmp_path: Path) -> None:
    from napari_unetpp.core.data.image import Image

    project = Project.create(tmp_path / "p")
    project.add(
        Image.from_array(np.zeros((2, 8, 9), np.uint8), "TYX"), np.zeros((2, 8, 9), np.uint8)
    )
    with pytest.raises(InputError, match="has the axes TYX, and a volume has Z, Y and X"):
        Projects.load(tmp_path / "p")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0
