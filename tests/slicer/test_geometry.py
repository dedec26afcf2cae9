"""CTs of other spacing, direction and place give the organs of the plain CT, on their own grid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

from scipy import ndimage
from slicer_helpers import LEVEL, Patient, Plain, add_organs, dice, labels_of
from UNetPPLib.Logic import UNetPPLogic

SWAP = [2, 1, 0]  # I, J, K and Z, Y, X


def agree(found: NDArray[Any], plain: Plain, least: float) -> None:
    """Assert that every organ of the plain result is where it was."""
    organs = [v for v in range(1, 8) if (plain.labels == v).sum() > 50]
    assert len(organs) >= 4
    for value in organs:
        assert dice(found, plain.labels, value) >= least, value


def turn(degrees: float) -> NDArray[np.float64]:
    """Return a turn about an oblique axis."""
    from scipy.spatial.transform import Rotation

    axis = np.array([0.5, -0.3, 0.8])
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(
        np.deg2rad(degrees) * axis / np.linalg.norm(axis)
    ).as_matrix()
    matrix[:3, 3] = (12.0, -40.0, 7.0)
    return matrix


def test_a_ct_of_1_mm_gives_the_same_organs_on_its_own_grid(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient, plain: Plain
) -> None:
    spacing = np.linalg.norm(patient.ijk_to_ras[:3, :3], axis=0)[::-1]  # z, y, x
    fine = ndimage.zoom(patient.ct.astype(np.float32), spacing, order=1, grid_mode=True,
                        mode="nearest").astype(np.int16)  # fmt: skip
    step = np.array(patient.ct.shape) / np.array(fine.shape)  # old voxels in a new one
    matrix = patient.ijk_to_ras.copy()
    matrix[:3, :3] *= step[::-1]
    first = ((step - 1) / 2)[::-1]
    matrix[:3, 3] += patient.ijk_to_ras[:3, :3] @ first
    volume, segmentation = add_ct(fine, matrix), add_organs(scene)
    result = logic.segment(volume, segmentation, level=LEVEL)
    found = labels_of(segmentation, result, volume)
    assert found.shape == fine.shape
    z, y, x = (
        np.clip(((np.arange(n) + 0.5) / s).astype(int), 0, m - 1)
        for n, s, m in zip(patient.ct.shape, step, fine.shape, strict=True)
    )
    agree(found[np.ix_(z, y, x)], plain, 0.9)


def test_an_oblique_ct_gives_the_same_organs(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient, plain: Plain
) -> None:
    """The same voxels, their axes turned by 20 degrees in space."""
    volume = add_ct(patient.ct, turn(20.0) @ patient.ijk_to_ras)
    segmentation = add_organs(scene)
    result = logic.segment(volume, segmentation, level=LEVEL)
    agree(labels_of(segmentation, result, volume), plain, 0.99)


def test_a_ct_that_is_stored_in_another_order_gives_the_same_organs(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient, plain: Plain
) -> None:
    """Sagittal slices, from left to right and upside down: i, j, k become j, -k, -i."""
    z, _, x = patient.ct.shape
    stored = np.ascontiguousarray(patient.ct[::-1, :, ::-1].transpose(2, 0, 1))  # (x, z, y)
    swap = np.array([[0, 0, -1, x - 1], [1, 0, 0, 0], [0, -1, 0, z - 1], [0, 0, 0, 1.0]])
    volume = add_ct(stored, patient.ijk_to_ras @ swap)
    segmentation = add_organs(scene)
    result = logic.segment(volume, segmentation, level=LEVEL)
    found = labels_of(segmentation, result, volume)
    agree(found.transpose(1, 2, 0)[::-1, :, ::-1], plain, 0.99)


def onto(
    array: NDArray[Any], here: NDArray[Any], there: NDArray[Any], shape: Any, **how: Any
) -> NDArray[np.float32]:
    """Bring an array from one grid onto another; both are IJK to RAS."""
    step = np.linalg.inv(here) @ there
    found: NDArray[np.float32] = ndimage.affine_transform(
        array.astype(np.float32), step[:3, :3][np.ix_(SWAP, SWAP)], step[:3, 3][SWAP],
        tuple(shape), **how,
    )  # fmt: skip
    return found


def labels_onto(
    labels: NDArray[Any], here: NDArray[Any], there: NDArray[Any], shape: Any
) -> NDArray[np.uint8]:
    """Bring labels onto another grid by halves of voxels: the nearest alone would cost 0.03."""
    found = np.zeros(shape, np.uint8)
    for value in range(1, 8):
        found[onto(labels == value, here, there, shape, order=1) > 0.5] = value
    return found


def tilted_grid(patient: Patient, degrees: float, spacing: float) -> tuple[Any, Any]:
    """Return IJK to RAS and shape of slices that are tilted through the patient."""
    old = np.array(patient.ct.shape, float)
    lengths = np.linalg.norm(patient.ijk_to_ras[:3, :3], axis=0)
    new = np.ceil(old * lengths[::-1] / spacing).astype(int)
    matrix = np.eye(4)
    matrix[:3, :3] = turn(degrees)[:3, :3] @ (patient.ijk_to_ras[:3, :3] / lengths) * spacing
    centre = patient.ijk_to_ras @ np.r_[(old[::-1] - 1) / 2, 1]
    matrix[:3, 3] = centre[:3] - matrix[:3, :3] @ ((new[::-1] - 1) / 2)
    return matrix, tuple(int(n) for n in new)


def test_a_ct_that_is_cut_obliquely_gives_organs_in_the_same_places(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient, plain: Plain
) -> None:
    """New slices of 2 mm, tilted by 8 degrees, through the patient; mapped back, the organs agree.

    How well two grids can agree at all, a third one says: the CT's own, moved by half a voxel and
    not tilted. Organs of two voxels' width change there just as much.
    """

    def segmented(matrix: NDArray[Any], shape: Any) -> NDArray[np.uint8]:
        cut = onto(patient.ct, patient.ijk_to_ras, matrix, shape, order=1, mode="nearest")
        volume, segmentation = add_ct(cut.astype(np.int16), matrix), add_organs(scene)
        found = labels_of(segmentation, logic.segment(volume, segmentation, level=LEVEL), volume)
        return labels_onto(found, matrix, patient.ijk_to_ras, patient.ct.shape)

    matrix, shape = tilted_grid(patient, 8.0, 2.0)
    tilted = segmented(matrix, shape)
    moved = patient.ijk_to_ras @ np.array(
        [[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 1, 0.5], [0, 0, 0, 1.0]]
    )
    shifted = segmented(moved, patient.ct.shape)
    # The corners of the CT are not in the tilted slices.
    covered = onto(np.ones(shape), matrix, patient.ijk_to_ras, patient.ct.shape, order=0) > 0.5
    for value in (1, 2, 3, 4, 7):
        agreed, possible = (
            dice(np.where(covered, found, 0), np.where(covered, plain.labels, 0), value)
            for found in (tilted, shifted)
        )
        assert agreed > possible - 0.03, value
        assert agreed > (0.78 if value == 2 else 0.88), value
        # And the organs are found as well as in the plain CT.
        mine, before = (
            dice(np.where(covered, found, 0), np.where(covered, patient.truth, 0), value)
            for found in (tilted, plain.labels)
        )
        assert mine > before - 0.05, value


def test_under_a_transform_the_organs_are_the_same_and_under_it_too(
    logic: UNetPPLogic,
    add_ct: Callable[..., Any],
    add_transform: Callable[..., Any],
    scene: Any,
    patient: Patient,
    plain: Plain,
) -> None:
    volume, segmentation = add_ct(patient.ct, patient.ijk_to_ras), add_organs(scene)
    moved = add_transform(turn(25.0))
    volume.SetAndObserveTransformNodeID(moved.GetID())
    result = logic.segment(volume, segmentation, level=LEVEL)
    assert segmentation.GetTransformNodeID() == moved.GetID()
    agree(labels_of(segmentation, result, volume), plain, 0.99)
