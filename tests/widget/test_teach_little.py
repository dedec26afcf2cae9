"""With the real engine: very little paint, and fine-tunings that end before their time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loop_helpers import (
    WAIT,
    begin,
    gray_cells_and_bright_debris,
    painted_dock,
    part,
    status,
    stroke_in,
    wait_for_end,
)
from scipy import ndimage

from napari_unetpp.engine.client import Engine
from napari_unetpp.widget.dock import UNetPPWidget


@pytest.mark.parametrize("value", [1, 2])
def test_one_class_says_what_it_lacks(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, value: int
) -> None:
    dock = painted_dock(make_dock, qtbot, value)
    begin(dock, 2.0)
    wait_for_end(dock, qtbot)
    words = status(dock) + part(dock, "report_words").text()
    assert status(dock).startswith("done:"), words
    assert ("No background (1) is painted" if value == 2 else "No stroke shows nucleus") in words


def test_one_stroke_gives_a_model_and_no_score(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any
) -> None:
    image, truth = gray_cells_and_bright_debris()
    dock = make_dock(data=image, name="cells")
    part(dock, "new_painted_button").click()
    layer = dock.teach.painting.layer
    layer.paint(np.argwhere(truth)[50], 2)
    qtbot.waitUntil(lambda: bool(dock.teach.painting.counts), timeout=WAIT)
    begin(dock, 2.0)
    wait_for_end(dock, qtbot)
    assert "Too little paint to hold anything out" in status(dock)
    assert part(dock, "report_table").isHidden()
    assert part(dock, "curve_plot").scores == {}


def test_one_value_from_scratch_is_refused_in_a_sentence(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any
) -> None:
    dock = painted_dock(make_dock, qtbot, 2)
    part(dock, "start_combo").setCurrentIndex(1)
    begin(dock, 2.0)
    wait_for_end(dock, qtbot)
    assert "only nucleus is painted, and one value has nothing to differ from" in status(dock)
    assert dock.selection.model_value == "nuclei"


def test_a_new_class_is_learned_and_shown(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any
) -> None:
    dock = painted_dock(make_dock, qtbot, 1, 2)
    image = dock.selection.layer.data
    layer = dock.teach.painting.layer
    part(dock, "add_class_button").click()
    bright = ndimage.gaussian_filter(image, 1) > 130
    for number in range(4):
        (y, x0), _, (_, x1) = stroke_in(bright, number)
        layer.data_setitem((np.full(int(x1 - x0) + 1, y), np.arange(x0, x1 + 1)), 3)
    qtbot.waitUntil(lambda: 3 in (dock.teach.painting.counts or {}), timeout=WAIT)
    begin(dock, 4.0)
    wait_for_end(dock, qtbot)
    card = dock.selection.card
    assert card is not None
    assert [c.name for c in card.classes] == ["nucleus", "class 2"], status(dock)
    dock.panel.set_region("all")
    part(dock, "run_button").click()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
    assert "done" in part(dock, "status_label").text()
    part(dock, "revert_button").click()
    assert [row.own for row in dock.teach.painting.classes()] == [False, False, True]


def test_stop_ends_it_early_and_keeps_the_best(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any
) -> None:
    dock = painted_dock(make_dock, qtbot, 1, 2)
    begin(dock, 300.0)
    qtbot.waitUntil(lambda: len(part(dock, "curve_plot").losses) > 1, timeout=WAIT)
    part(dock, "stop_button").click()
    wait_for_end(dock, qtbot)
    assert status(dock).startswith("done:"), status(dock)
    assert part(dock, "report_table").item(0, 1).text() != ""
    assert part(dock, "finetune_button").isEnabled()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_worker_killed_meanwhile_is_told_and_paint_is_untouched(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, engine: Engine
) -> None:
    dock = painted_dock(make_dock, qtbot, 1, 2)
    layer = dock.teach.painting.layer
    strokes = np.array(layer.data)
    begin(dock, 300.0)
    qtbot.waitUntil(lambda: part(dock, "curve_plot").losses != [], timeout=WAIT)
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    wait_for_end(dock, qtbot)
    assert "SIGKILL" in status(dock)
    np.testing.assert_array_equal(layer.data, strokes)
    begin(dock, 2.0)
    wait_for_end(dock, qtbot)
    assert status(dock).startswith("done:"), status(dock)


def test_a_window_closed_meanwhile_leaves_the_engine_free(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any
) -> None:
    dock = painted_dock(make_dock, qtbot, 1, 2)
    begin(dock, 300.0)
    qtbot.waitUntil(lambda: part(dock, "curve_plot").losses != [], timeout=WAIT)
    dock.shut()
    dock.viewer.close()
    image, _ = gray_cells_and_bright_debris()
    other = make_dock(data=image, name="cells")
    other.panel.set_level(1)
    other.panel.set_region("all")
    part(other, "run_button").click()
    qtbot.waitUntil(lambda: not other.runner.running, timeout=WAIT)
    assert "done" in part(other, "status_label").text()
