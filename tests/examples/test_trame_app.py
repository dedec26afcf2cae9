"""The page of ``examples/trame_app.py``, driven in a real browser.

trame-slicer wants an older slicer-core than the module's tests, so the page lives in an
environment of its own, which the variable below names (docs/slicer.md, "In the browser").
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

PYTHON = "NAPARI_UNETPP_TRAME_PYTHON"


@pytest.mark.trame
def test_the_loop_in_a_browser(tmp_path: Path) -> None:
    """Slider, segment, paint two classes, fine-tune, segment again, revert, undo."""
    python = os.environ.get(PYTHON, "")
    if not python:
        pytest.skip(f"no environment with trame-slicer: {PYTHON} names its Python (docs/slicer.md)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    shot = tmp_path / "page.png"
    driver = Path(__file__).resolve().parent / "drive_trame_app.py"
    done = subprocess.run(
        [python, str(driver), "--shot", str(shot), "--chromium", chromium],
        capture_output=True, encoding="utf-8", errors="replace", timeout=1200,
        env={**os.environ, "NAPARI_UNETPP_CONFIG": str(tmp_path / "settings")},
    )  # fmt: skip
    print(done.stderr[-5000:])
    assert done.returncode == 0
    seen = json.loads(done.stdout.splitlines()[-1])
    # The slider was at L2 when Segment was pressed.
    assert re.match(r"done: [1-7] of 7 classes found at L2 in ", seen["segmented"])
    painted = dict(re.findall(r"(\w+) (\d+) voxels", seen["painted"]))
    assert set(painted) == {"background", "mandible"}
    assert min(int(n) for n in painted.values()) > 10
    assert seen["tuned"].startswith("fine-tuned in ")
    assert re.match(r"done: [1-7] of 7 classes found at L2 in ", seen["again"])
    assert seen["undone"] == "the last prediction was taken back."
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
