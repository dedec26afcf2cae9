"""Volume nodes to arrays and back: axes, places, transforms, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from napari_unetpp.core.data.geometry import Grid
from napari_unetpp.core.errors import InputError

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

import slicer
import vtk
from slicer_helpers import OBLIQUE, SHEARED
from UNetPPLib import Regions, Volumes
from vtk.util.numpy_support import numpy_to_vtk


def test_voxels_come_as_z_y_x_without_a_copy(add_ct: Callable[..., Any]) -> None:
    array = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)
    volume = add_ct(array)
    image = Volumes.read(volume)
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(image.array, array)
    assert np.shares_memory(image.array, slicer.util.arrayFromVolume(volume))


def test_spacing_and_orientation_come_from_ijk_to_ras(add_ct: Callable[..., Any]) -> None:
    image = Volumes.read(add_ct())  # i to left, j to posterior, k to superior
    assert image.spacing == (3.0, 2.0, 1.5)
    assert Grid(image.shape, image.affine).orientation == "SPL"


@pytest.mark.parametrize("matrix", [OBLIQUE, SHEARED], ids=["oblique", "sheared"])
def test_each_voxel_lies_where_slicer_says(add_ct: Callable[..., Any], matrix: Any) -> None:
    volume = add_ct(ijk_to_ras=matrix)
    image = Volumes.read(volume)
    i, j, k = 7, 2, 5
    expected = matrix @ (i, j, k, 1)
    np.testing.assert_allclose(image.affine @ (k, j, i, 1), expected, atol=1e-9)


def test_parent_transforms_are_in_the_place(
    add_ct: Callable[..., Any], add_transform: Callable[..., Any]
) -> None:
    volume, moved = add_ct(), add_transform(OBLIQUE)
    plain = Volumes.read(volume)
    volume.SetAndObserveTransformNodeID(moved.GetID())
    under = Volumes.read(volume)
    np.testing.assert_allclose(under.affine, OBLIQUE @ plain.affine, atol=1e-9)
    assert under.key != plain.key
    volume.HardenTransform()
    np.testing.assert_allclose(Volumes.read(volume).affine, under.affine, atol=1e-6)


def test_a_transform_that_bends_is_left_out_and_said(
    add_ct: Callable[..., Any], scene: Any
) -> None:
    volume = add_ct()
    plain = Volumes.read(volume)
    bent = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "bent")
    grid = vtk.vtkGridTransform()
    field = vtk.vtkImageData()
    field.SetDimensions(2, 2, 2)
    field.SetSpacing(50, 50, 50)
    field.AllocateScalars(vtk.VTK_DOUBLE, 3)
    field.GetPointData().GetScalars().Fill(1.0)
    grid.SetDisplacementGridData(field)
    bent.SetAndObserveTransformToParent(grid)
    volume.SetAndObserveTransformNodeID(bent.GetID())
    image = Volumes.read(volume)
    np.testing.assert_array_equal(image.affine, plain.affine)
    assert "bends space" in image.notes[0]


def test_colours_and_other_vectors_keep_their_components_last(scene: Any) -> None:
    colours = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    for array, axes in ((colours, "ZYXS"), (colours[..., :2].astype(np.float32), "ZYXC")):
        node = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "vectors")
        image = vtk.vtkImageData()
        image.SetDimensions(4, 3, 2)
        flat = numpy_to_vtk(array.reshape(-1, array.shape[-1]), deep=True)
        image.GetPointData().SetScalars(flat)
        node.SetAndObserveImageData(image)
        found = Volumes.read(node)
        assert found.axes == axes
        np.testing.assert_array_equal(found.array, array)
        assert found.source().axes == axes


def test_labelmaps_are_volumes_and_come_back_on_the_same_grid(
    add_ct: Callable[..., Any], add_transform: Callable[..., Any]
) -> None:
    volume = add_ct(ijk_to_ras=SHEARED)
    volume.SetAndObserveTransformNodeID(add_transform(OBLIQUE).GetID())
    labels = (np.arange(6 * 8 * 10).reshape(6, 8, 10) % 5).astype(np.uint8)
    node = Volumes.add_volume(labels, volume, "labels", labels=True)
    assert node.IsA("vtkMRMLLabelMapVolumeNode")
    back = Volumes.read(node)
    np.testing.assert_array_equal(back.array, labels)
    np.testing.assert_allclose(back.affine, Volumes.read(volume).affine)
    with pytest.raises(InputError, match="shape of CT was expected, got 5x8x10"):
        Volumes.add_volume(labels[1:], volume, "labels")


def test_a_volume_that_changes_gets_new_memory(add_ct: Callable[..., Any]) -> None:
    """A run reads on while the user does what he likes."""
    volume = add_ct(np.full((4, 5, 6), 7, np.int16))
    image = Volumes.read(volume)
    slicer.util.updateVolumeFromArray(volume, np.full((9, 9, 9), 3, np.int16))
    assert (image.array == 7).all()
    assert image.shape == (4, 5, 6)
    assert Volumes.read(volume).key != image.key


def test_what_is_refused_is_refused_in_words(add_ct: Callable[..., Any], scene: Any) -> None:
    with pytest.raises(InputError, match="load a CT"):
        Volumes.read(None)
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(InputError, match="nothing has no voxels"):
        Volumes.read(empty)
    with pytest.raises(InputError, match="is no volume"):
        Volumes.read(scene.AddNewNodeByClass("vtkMRMLModelNode", "skin"))
    many = scene.AddNewNodeByClass("vtkMRMLDiffusionWeightedVolumeNode", "dwi")
    with pytest.raises(InputError, match="series of several volumes"):
        Volumes.read(many)
    flat = add_ct(ijk_to_ras=np.diag([1.0, 1.0, 0.0, 1.0]), name="flat")
    with pytest.raises(InputError, match="spacing is 0"):
        Volumes.read(flat)


def test_sequences_and_what_shows_them_are_refused(add_ct: Callable[..., Any], scene: Any) -> None:
    frame = add_ct(name="4D CT")
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "4D")
    sequence.SetDataNodeAtValue(frame, "0")
    with pytest.raises(InputError, match="4D sequence, and one volume"):
        Volumes.read(sequence)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(frame, sequence, False)
    with pytest.raises(InputError, match="shows one time point"):
        Volumes.read(frame)


# Regions


def add_roi(scene: Any, centre: Any, size: Any) -> Any:
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetCenter(*centre)
    roi.SetSize(*size)
    return roi


def test_a_box_becomes_the_voxels_that_it_touches(add_ct: Callable[..., Any], scene: Any) -> None:
    volume = add_ct(ijk_to_ras=np.diag([1.0, 1.0, 2.0, 1.0]))
    roi = add_roi(scene, (3.0, 2.0, 4.0), (2.0, 1.0, 4.0))
    region = Regions.roi_region(volume, Volumes.read(volume), roi)
    # x from 2 to 4 mm touches voxels 2, 3, 4; y 1.5 to 2.5 is voxel 2; z 2 to 6 is 1, 2, 3.
    assert region == ((1, 4), (2, 3), (2, 5))


def test_a_turned_box_and_transforms_lead_to_the_same_voxels(
    add_ct: Callable[..., Any], add_transform: Callable[..., Any], scene: Any
) -> None:
    volume, roi = add_ct(), add_roi(scene, (-6.0, -7.0, 7.0), (4.0, 5.0, 6.0))
    region = Regions.roi_region(volume, Volumes.read(volume), roi)
    turn = np.array([[0, -1, 0, 40], [1, 0, 0, -9], [0, 0, 1, 3], [0, 0, 0, 1.0]])
    moved = add_transform(turn)
    for node in (volume, roi):
        node.SetAndObserveTransformNodeID(moved.GetID())
    assert Regions.roi_region(volume, Volumes.read(volume), roi) == region


def test_a_box_beside_the_volume_is_refused(add_ct: Callable[..., Any], scene: Any) -> None:
    volume = add_ct()
    with pytest.raises(InputError, match="box lies outside of CT"):
        Regions.roi_region(volume, Volumes.read(volume), add_roi(scene, (500, 0, 0), (9, 9, 9)))
    with pytest.raises(InputError, match="no region of interest"):
        Regions.roi_region(volume, Volumes.read(volume), None)


def add_slice(scene: Any, orientation: str, at: Any) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    getattr(node, f"SetOrientationTo{orientation}")()
    node.JumpSlice(*at)
    return node


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ("Axial", ((1, 4), (0, 8), (0, 10))),
        ("Coronal", ((0, 6), (3, 6), (0, 10))),
        ("Sagittal", ((0, 6), (0, 8), (4, 9))),
    ],
)
def test_a_slab_is_what_lies_around_the_slice(
    add_ct: Callable[..., Any], scene: Any, orientation: str, expected: Any
) -> None:
    volume = add_ct()  # 1.5, 2, 3 mm
    node = add_slice(scene, orientation, (-9.0, -8.0, 6.0))
    assert Regions.slab_region(volume, Volumes.read(volume), node, 6.0) == expected


def test_the_thinnest_slab_is_one_slice_and_an_oblique_one_holds_the_plane(
    add_ct: Callable[..., Any], add_transform: Callable[..., Any], scene: Any
) -> None:
    volume = add_ct()
    node = add_slice(scene, "Axial", (0.0, 0.0, 9.0))
    assert Regions.slab_region(volume, Volumes.read(volume), node, 0.1)[0] == (3, 4)
    tilt = np.eye(4)
    tilt[:3, :3] = [[1, 0, 0], [0, 0.98, -0.199], [0, 0.199, 0.98]]
    volume.SetAndObserveTransformNodeID(add_transform(tilt).GetID())
    image = Volumes.read(volume)
    (start, stop), *_ = Regions.slab_region(volume, image, node, 0.1)
    # Every voxel that the plane cuts is in the slab.
    z, y, x = np.indices(image.shape)
    height = (image.affine[2, :3] @ np.stack([z, y, x]).reshape(3, -1)) + image.affine[2, 3]
    cut = z.ravel()[np.abs(height - 9.0) < 1.4]
    assert start <= cut.min()
    assert cut.max() < stop <= 6


def test_a_slice_beside_the_volume_is_refused(add_ct: Callable[..., Any], scene: Any) -> None:
    volume = add_ct()
    with pytest.raises(InputError, match="Red slice lies outside"):
        Regions.slab_region(
            volume, Volumes.read(volume), add_slice(scene, "Axial", (0, 0, 400.0)), 5.0
        )
