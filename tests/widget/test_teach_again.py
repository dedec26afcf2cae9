"""Fine-tune pressed again: it goes on from what was learned, and Revert knows the way back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from script_helpers import Script, begin, paint, part, status

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.model.modelfile import read_card, save_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.engine.client import Engine
from napari_unetpp.widget import drafts
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 180_000


@pytest.fixture
def script(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    made = Script()
    monkeypatch.setattr(engine, "tune", made.tune)
    yield made
    made.dispatcher.stop(5)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Return a small model that knows nothing yet."""
    config = NetworkConfig(filters=(4, 6, 8))
    card = ModelCard("small", config, (ClassInfo("disc"),), levels_trained=(1, 2))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NestedUNet(config)
    return str(save_model(tmp_path / "small.safetensors", network, card))


def strokes() -> NDArray[np.uint8]:
    painted = np.zeros((96, 128), np.uint8)
    painted[3, 5:60] = painted[90, 5:60] = 1
    painted[30, 32:48] = painted[60, 82:98] = 2
    return painted


def scores(dock: UNetPPWidget, column: int) -> list[float]:
    """Return a column of the table: 1 is before, 2 after."""
    table = part(dock, "report_table")
    return [float(table.item(row, column).text()) for row in range(table.rowCount())]


def tuned(dock: UNetPPWidget, qtbot: Any) -> None:
    """Fine-tune until something is better than what was there."""
    for seconds in (3.0, 20.0, 60.0):  # a machine that does other work needs more than three
        dock.teach.form.budget.set_choices([("test", seconds)], seconds)
        part(dock, "finetune_button").click()
        qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
        assert status(dock).startswith("done:"), status(dock)
        if "The base was better" not in status(dock):
            return


def test_before_is_what_the_last_one_ended_with(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: NDArray[np.uint8], small: str
) -> None:
    dock = make_dock(data=blobs, name="cells")
    dock.selection.add_model(small)
    part(dock, "new_painted_button").click()
    dock.teach.painting.layer.data = strokes()
    qtbot.waitUntil(lambda: bool(dock.teach.painting.counts), timeout=WAIT)
    tuned(dock, qtbot)
    first, after = dock.selection.model_value, scores(dock, 2)
    assert first != small
    split = dock.teach.training.split
    dock.teach.form.budget.set_choices([("test", 2.0)], 2.0)
    part(dock, "finetune_button").click()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert scores(dock, 1) == pytest.approx(after, abs=0.03)
    assert dock.teach.training.split == split
    if dock.selection.model_value != first:
        assert read_card(dock.selection.model_value).parent.startswith("small-tuned ")
    part(dock, "revert_button").click()
    assert dock.selection.model_value == small
    assert "back to the base: small" in status(dock)


def test_revert_goes_to_the_model_from_before_the_first_one(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: NDArray[np.uint8], script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    for number in range(3):
        begin(dock, qtbot, script)
        wanted = "nuclei" if number == 0 else script.asked[-2][1].out
        assert script.asked[-1][1].model.model == wanted
        script.improve(2, 0.6)
        script.done()
        qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
        assert dock.selection.model_value == script.out
    part(dock, "revert_button").click()
    assert dock.selection.model_value == "nuclei"
    # From the base again: it is not what was learned that it goes on from.
    begin(dock, qtbot, script)
    assert script.asked[-1][1].model.model == "nuclei"
    script.improve(2, 0.6)
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    part(dock, "revert_button").click()
    assert dock.selection.model_value == "nuclei"


def test_after_a_stop_it_goes_on_from_the_best_so_far(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: NDArray[np.uint8], script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    script.improve(2, 0.6)
    qtbot.waitUntil(lambda: dock.selection.model_value == script.out, timeout=WAIT)
    best = script.out
    script.jobs[-1].finish("cancelled")
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    begin(dock, qtbot, script)
    assert script.asked[-1][1].model.model == best
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)


def test_drafts_in_use_are_not_tidied_away(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: NDArray[np.uint8], script: Script,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(drafts, "MOST", 1)
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    script.improve(2, 0.6)
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    mine = Path(script.out)
    for number in range(3):  # of other windows, newer
        other = drafts.new_draft("other", str(mine)).with_name(f"other-{number}.safetensors")
        other.write_bytes(b"x")
        os.utime(other, (4e9 + number, 4e9 + number))
    begin(dock, qtbot, script)
    assert script.asked[-1][1].model.model == str(mine)
    assert mine.exists()
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
