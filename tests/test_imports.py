"""Importing the package pulls in no viewer, and the bare package nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

VIEWERS = {
    "napari", "magicgui", "superqt", "qtpy", "PyQt5", "PyQt6", "PySide2", "PySide6",
    "slicer", "vtk", "SimpleITK",
}  # fmt: skip
HEAVY = {"torch", "scipy", "skimage", "monai", "matplotlib", "numpy", "tifffile", "zarr"}

WALK = """
import importlib, json, pkgutil, sys, warnings
warnings.simplefilter("ignore")
for name in {names!r}:
    package = importlib.import_module(name)
    path = package.__path__ if {deep} else []  # walking imports the packages on the way
    for found in pkgutil.walk_packages(path, name + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(json.dumps(sorted(m.partition(".")[0] for m in sys.modules)))
"""


def loaded_by(*names: str, deep: bool = False) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after importing `names`."""
    code = WALK.format(names=names, deep=deep)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", ["napari_unetpp", "napari_unetpp.core"])
def test_bare_import_is_light(name: str) -> None:
    loaded = loaded_by(name)
    assert "napari_unetpp" in loaded
    assert loaded & (VIEWERS | HEAVY) == set()


def test_no_module_of_core_or_command_line_imports_a_viewer() -> None:
    loaded = loaded_by("napari_unetpp.core", "napari_unetpp.cli", deep=True)
    assert {"numpy", "scipy"} <= loaded
    assert loaded & VIEWERS == set()


def test_sample_data_functions_import_no_viewer_and_no_torch() -> None:
    assert loaded_by("napari_unetpp.samples") & (VIEWERS | {"torch"}) == set()
