"""Fixtures of the 3D Slicer module's tests: a scene on Slicer's own MRML libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "slicer_module"))

import slicer
from slicer_helpers import (
    LEVEL,
    Patient,
    Plain,
    add_organs,
    add_painted,
    bootstrap,
    labels_of,
    paint,
    real_patient,
    small_model,
    strokes,
)


@pytest.fixture(scope="session")
def _scene() -> Any:
    return bootstrap()


@pytest.fixture
def scene(_scene: Any) -> Iterator[Any]:
    """Return an empty scene."""
    slicer.mrmlScene = _scene
    _scene.Clear(0)
    yield _scene
    _scene.Clear(0)


@pytest.fixture
def add_ct(scene: Any) -> Callable[..., Any]:
    """Return a function that adds a volume: an array (Z, Y, X) and IJK to RAS."""

    def add(
        array: NDArray[Any] | None = None, ijk_to_ras: NDArray[Any] | None = None, name: str = "CT"
    ) -> Any:
        if array is None:
            array = np.arange(6 * 8 * 10, dtype=np.int16).reshape(6, 8, 10)
        matrix = np.diag([-1.5, -2.0, 3.0, 1.0]) if ijk_to_ras is None else ijk_to_ras
        return slicer.util.addVolumeFromArray(array, matrix, name)

    return add


@pytest.fixture
def add_transform(scene: Any) -> Callable[[NDArray[Any]], Any]:
    """Return a function that adds a linear transform."""

    def add(matrix: NDArray[Any]) -> Any:
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        return node

    return add


@pytest.fixture(scope="session")
def patient(shared_data: Path) -> Patient:
    """Return the head and neck of a patient whose CT no model was trained on."""
    return real_patient(shared_data, "pt_92")


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a small untrained model, which a few strokes make better."""
    return small_model(tmp_path_factory.mktemp("models") / "small.safetensors")


@pytest.fixture(scope="session")
def session() -> Iterator[Any]:
    """Return a session for all tests: each start of a worker takes seconds."""
    from UNetPPLib.Session import Session

    shared = Session()
    yield shared
    shared.close()


@pytest.fixture
def logic(session: Any, scene: Any) -> Any:
    """Return the module's logic on an empty scene."""
    from UNetPPLib.Logic import UNetPPLogic

    return UNetPPLogic(session)


@pytest.fixture(scope="session")
def plain(_scene: Any, session: Any, patient: Patient) -> Plain:
    """Return the result in the CT's own geometry, which others are held against."""
    from UNetPPLib.Logic import UNetPPLogic

    _scene.Clear(0)
    volume = slicer.util.addVolumeFromArray(patient.ct, patient.ijk_to_ras, "CT")
    segmentation = add_organs(_scene)
    result = UNetPPLogic(session).segment(volume, segmentation, level=LEVEL)
    return Plain(labels_of(segmentation, result, volume), result)


@pytest.fixture
def painted_patient(
    add_ct: Callable[..., Any], scene: Any, patient: Patient
) -> tuple[Any, Any, dict[str, str]]:
    """Return volume, segmentation painted through the editor's logic, and classes."""
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    node, ids = add_painted(scene, volume, ("bg", "seven", "one"))
    marks = strokes(patient, (1, 7), 6)
    for name, mark in (("bg", "background"), ("seven", "7"), ("one", "1")):
        paint(node, ids[name], volume, marks[mark])
    classes = {ids["bg"]: "background", ids["seven"]: "mandible", ids["one"]: "brainstem"}
    return volume, node, classes
