"""Saving what was fine-tuned: which file is the base, which the draft, and what Revert means."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog
from script_helpers import WAIT, Script, begin, paint, part, status

from napari_unetpp.core.model.cards import bundled_models
from napari_unetpp.widget import teach_section
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.drafts import new_draft


def test_save_as_keeps_the_file_and_the_draft_goes(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = make_dock(data=blobs, name="cells")
    assert "fine-tune it first" in part(dock, "save_model_button").toolTip()
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    script.improve(3, 0.7)
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    target = tmp_path / "my new model.safetensors"
    content = Path(script.out).read_bytes()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: ("", ""))
    part(dock, "save_model_button").click()
    assert dock.selection.model_value == script.out  # nothing was chosen
    monkeypatch.setattr(
        QFileDialog, "getSaveFileName", lambda *a, **k: (str(tmp_path / "my new model"), "")
    )
    part(dock, "save_model_button").click()
    qtbot.waitUntil(lambda: dock.selection.model_value == str(target), timeout=WAIT)
    assert target.read_bytes() == content
    assert not Path(script.out).exists()
    assert part(dock, "model_combo").currentText() == "my new model"
    assert not part(dock, "save_model_button").isEnabled()
    part(dock, "revert_button").click()
    assert dock.selection.model_value == "nuclei"
    assert target.exists()
    part(dock, "revert_button").click()
    assert dock.selection.model_value == str(target)


def old_draft() -> str:
    """Return a fine-tuned model that an earlier session left."""
    path = new_draft("nuclei")
    shutil.copyfile(bundled_models()["nuclei"], path)
    return str(path)


def save_as(dock: UNetPPWidget, qtbot: Any, monkeypatch: Any, target: Path) -> None:
    """Save the chosen model."""
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    part(dock, "save_model_button").click()
    qtbot.waitUntil(lambda: status(dock) == f"saved as {target}", timeout=WAIT)


def test_saving_a_draft_of_earlier_is_no_fine_tuning(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = make_dock(data=blobs, name="cells")
    draft = old_draft()
    dock.selection.add_model(draft)
    save_as(dock, qtbot, monkeypatch, tmp_path / "kept.safetensors")
    assert dock.selection.model_value == str(tmp_path / "kept.safetensors")
    assert not Path(draft).exists()
    assert not part(dock, "revert_button").isEnabled()  # there is no base to go back to


def test_saving_the_base_keeps_what_it_was_tuned_to(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = make_dock(data=blobs, name="cells")
    draft, target = old_draft(), tmp_path / "kept.safetensors"
    dock.selection.add_model(draft)
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    script.improve(4, 0.7)
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    part(dock, "revert_button").click()
    assert dock.selection.model_value == draft
    save_as(dock, qtbot, monkeypatch, target)
    assert dock.selection.model_value == str(target)
    for value in (script.out, str(target)):
        part(dock, "revert_button").click()
        assert dock.selection.model_value == value


def test_what_changes_while_a_model_is_saved_stays(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    later: list[tuple[Any, Any]] = []
    monkeypatch.setattr(
        teach_section, "in_background", lambda relay, work, done, fail: later.append((work, done))
    )
    dock = make_dock(data=blobs, name="cells")
    later.clear()  # looking for lost paint
    paint(dock, qtbot, 1, 2)
    draft, target = old_draft(), tmp_path / "kept.safetensors"
    dock.selection.add_model(draft)
    qtbot.wait(50)
    later.clear()
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *a, **k: (str(target), ""))
    part(dock, "save_model_button").click()
    begin(dock, qtbot, script)
    dock.selection.choose_model("nuclei")
    work, done = later.pop()
    done(work())
    assert dock.selection.model_value == "nuclei"
    assert str(target) in [e.value for e in dock.selection.models.entries()]
    assert Path(draft).exists()  # the fine-tuning may not have read it yet
    assert dock.teach.tuning.base == str(target)
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
