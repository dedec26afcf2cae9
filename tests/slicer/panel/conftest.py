"""The panel on a stand-in for PythonQt: in a process of its own, with PySide6.

``tests/slicer/test_panel_process.py`` starts it; by hand:
``QT_API=pyside6 PYTEST_QT_API=pyside6 python -m pytest -p no:napari tests/slicer/panel``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

collect_ignore_glob: list[str] = []
if os.environ.get("QT_API") == "pyside6":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "standin"))
    # Threads lose most of their time where other programs compute as well.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import pythonqt

    APP = pythonqt.install()
else:  # PyQt6 is at home in the tests' main process
    collect_ignore_glob = ["test_*.py"]
