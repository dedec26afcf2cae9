"""Runs the tests of the panel, which need PySide6, in a process without PyQt6."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="these tests need the package slicer-core")


def test_the_panel_passes_its_tests_in_a_process_of_its_own() -> None:
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("the panel's tests need PySide6: run scripts/setup")
    folder = Path(__file__).resolve().parent / "panel"
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:napari", "-p", "no:cacheprovider",
            "-m", "not slow", str(folder),
        ],
        cwd=folder.parents[2],
        env={
            **os.environ,
            "QT_API": "pyside6",
            "PYTEST_QT_API": "pyside6",
            "QT_QPA_PLATFORM": "offscreen",
        },
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=900,
    )  # fmt: skip
    print(done.stdout[-20000:], done.stderr[-5000:])
    assert done.returncode == 0
    assert " passed" in done.stdout
