"""The panel on a stand-in for PythonQt: in a process of its own, with PySide6.

``tests/slicer/test_panel_process.py`` starts it; by hand:
``QT_API=pyside6 PYTEST_QT_API=pyside6 python -m pytest -p no:napari tests/slicer/panel``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slicer_helpers import Patient

collect_ignore_glob: list[str] = []
if os.environ.get("QT_API") == "pyside6":
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here.parent / "standin"), str(here)]
    # Threads lose most of their time where other programs compute as well.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import pythonqt

    APP = pythonqt.install()
else:  # PyQt6 is at home in the tests' main process
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the list of models and the drafts away from those of the person who runs the tests."""
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "réglages"))


@pytest.fixture(scope="session", autouse=True)
def worker() -> Iterator[None]:
    """Keep one worker for all tests: each start takes seconds."""
    from UNetPPLib import Session

    yield
    Session.shared_session().close()


@pytest.fixture
def widget(scene: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the panel on an empty scene, with the slice views that a layout brings."""
    from UNetPPLib.Widget import UNetPPWidget

    for name, orientation in (("Red", "Axial"), ("Green", "Coronal")):
        node = scene.AddNewNodeByClass("vtkMRMLSliceNode", name)
        getattr(node, f"SetOrientationTo{orientation}")()
    made = UNetPPWidget()
    made.setup()
    # The worker outlives the panel here; its end is a test of its own.
    monkeypatch.setattr(made.logic, "close", lambda: None)
    yield made
    made.cleanup()


@pytest.fixture
def ct(widget: Any, add_ct: Callable[..., Any], patient: Patient) -> Any:
    """Return a patient's CT, chosen in the panel."""
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    widget.ui.inputSelector.setCurrentNode(volume)
    return volume
