"""What Teach does when things come in another order: a fine-tuning that the test writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script_helpers import WAIT, Script, begin, paint, part, status

from napari_unetpp.core.model.cards import bundled_models
from napari_unetpp.core.tune.strokes import FORMAT
from napari_unetpp.engine.protocol import (
    EngineError,
    Noted,
    TuneScored,
    TuneSplit,
    TuneTeacher,
)
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.tuning import Tuning


def test_improvements_become_the_model_and_settings_stay(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    dock.panel.set_threshold(0.31)
    dock.panel.set_level(2)
    begin(dock, qtbot, script)
    (pair,), request = script.asked[-1]
    assert pair.name == "cells"
    assert pair.painted.axes == pair.image.axes == "YX"
    np.testing.assert_array_equal(np.unique(pair.painted.data), [0, 1, 2])
    assert (request.model.model, request.classes, request.name) == (
        "nuclei", ("nucleus",), "nuclei-tuned",
    )  # fmt: skip
    assert (request.max_seconds, request.split, request.axes) == (30.0, None, "YX")
    script.jobs[-1].emit(TuneTeacher("forest", {}))
    script.jobs[-1].emit(TuneScored(0, {1: 0.3, 4: 0.4}, True, None))
    qtbot.waitUntil(lambda: part(dock, "curve_plot").scores != {}, timeout=WAIT)
    assert dock.selection.model_value == "nuclei"  # the base itself is no news
    assert not part(dock, "revert_button").isEnabled()
    script.improve(2, 0.6)
    qtbot.waitUntil(lambda: dock.selection.model_value == script.out, timeout=WAIT)
    assert part(dock, "model_combo").currentText() == "nuclei (fine-tuned)"
    assert (dock.panel.threshold, dock.panel.level) == (0.31, 2)
    assert not part(dock, "save_model_button").isEnabled()
    script.improve(5, 0.8)
    script.jobs[-1].emit(Noted("a note", "paint"))
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert status(dock) == ("done: 7 steps in 8 s. L1 0.40 → 0.80 on held-out strokes. A note.")
    assert part(dock, "curve_plot").scores[4] == [(0.0, 0.4), (2.0, 0.6), (5.0, 0.8)]
    assert part(dock, "report_table").item(0, 2).text() == "0.80"
    assert part(dock, "save_model_button").isEnabled()

    part(dock, "revert_button").click()
    assert dock.selection.model_value == "nuclei"
    assert part(dock, "model_combo").currentText() == "nuclei"
    assert part(dock, "revert_button").text() == "Back to fine-tuned"
    assert (dock.panel.threshold, dock.panel.level) == (0.31, 2)
    part(dock, "revert_button").click()
    assert dock.selection.model_value == script.out

    # The next one goes on from here, and its strokes stay on their sides.
    first = script.out
    begin(dock, qtbot, script)
    assert script.asked[-1][1].model.model == first
    assert script.asked[-1][1].split["parts"] == {"cells#0": {}}
    assert script.out != first
    assert dock.teach.tuning.base == "nuclei"
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert "base was better" in status(dock)
    assert dock.selection.model_value == first


def test_a_model_chosen_meanwhile_is_not_taken_away(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    dock.selection.choose_model("ct-head-neck")
    script.improve(2, 0.6)
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert dock.selection.model_value == "ct-head-neck"
    assert part(dock, "revert_button").text() == "Back to fine-tuned"
    part(dock, "revert_button").click()
    assert dock.selection.model_value == script.out


def test_stop_asks_to_end_and_takes_what_there_is(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    part(dock, "stop_button").click()
    assert script.cancelled == [False]
    assert "stopping" in status(dock)
    script.jobs[-1].finish("cancelled")
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert "nothing changed" in status(dock)
    assert dock.selection.model_value == "nuclei"


def test_a_failure_keeps_what_was_reached(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot, 1, 2)
    before = np.array(layer.data)
    begin(dock, qtbot, script)
    script.improve(3, 0.7)
    script.jobs[-1].finish("failed", error=EngineError("the worker was killed.", "killed"))
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert status(dock) == "the worker was killed. What it reached before stays chosen."
    assert dock.selection.model_value == script.out
    np.testing.assert_array_equal(layer.data, before)
    assert part(dock, "finetune_button").isEnabled()


@pytest.mark.parametrize("what", ["image", "paint"])
def test_a_layer_removed_meanwhile_is_said_at_the_end(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    what: str,
) -> None:
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    dock.viewer.layers.remove(layer if what == "paint" else dock.viewer.layers["cells"])
    script.improve(3, 0.7)
    script.done()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert "was removed; the model learned from what it was" in status(dock)
    assert dock.selection.model_value == script.out
    wanted = "press New" if what == "paint" else "no image"
    assert wanted in part(dock, "finetune_button").toolTip()


def test_too_little_paint_is_said_instead_of_numbers(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 2)
    begin(dock, qtbot, script)
    levels = {str(k): {"before": None, "after": None, "seconds_per_megapixel": 0.1} for k in (1, 4)}
    shutil.copyfile(bundled_models()["nuclei"], script.out)
    script.done(levels=levels, cheapest=None, sentences=["Paint a second stroke."])
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert "Too little paint to hold anything out" in status(dock)
    assert part(dock, "report_table").isHidden()
    assert "Paint a second stroke." in part(dock, "report_words").text()


def test_closing_while_it_goes_on_keeps_the_draft(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    script.improve(3, 0.7)
    qtbot.waitUntil(lambda: dock.selection.model_value == script.out, timeout=WAIT)
    dock.shut()
    assert script.cancelled == [True]
    assert Path(script.out).exists()
    again = make_dock(data=blobs, name="cells")
    assert script.out in [e.value for e in again.selection.models.entries()]
    dock.shut()


def test_nothing_happens_twice(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    dock.teach.tuning.start()
    assert len(script.jobs) == 1
    old = script.jobs[0]
    assert isinstance(dock.teach.tuning, Tuning)
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    begin(dock, qtbot, script)
    old.emit(TuneScored(9, {4: 0.9}, True, script.out))  # of a job that is over
    qtbot.wait(50)
    assert dock.selection.model_value == "nuclei"
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)


def test_a_fine_tuning_that_is_cancelled_says_what_is_kept(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    for improved, said in (
        (True, "stopped; the best so far stays chosen."),
        (False, "stopped before anything was learned; nothing changed."),
    ):
        begin(dock, qtbot, script)
        if improved:
            script.improve(3, 0.7)
            tuned = script.out
        script.jobs[-1].finish("cancelled")
        qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
        assert status(dock) == said
        assert dock.selection.model_value == tuned
    # Not chosen, where another model was chosen meanwhile.
    begin(dock, qtbot, script)
    dock.selection.choose_model("ct-head-neck")
    script.improve(3, 0.7)
    script.jobs[-1].finish("cancelled")
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert status(dock) == "stopped; Back to fine-tuned takes the best so far."


def test_who_teaches_is_said_in_words(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    script.jobs[-1].emit(TuneTeacher("forest and base", {"forest": 0.5, "base": 0.4}))
    qtbot.waitUntil(lambda: status(dock).startswith("learning: "), timeout=WAIT)
    assert status(dock) == (
        "learning: a forest on your strokes and the base teach the rest, each the classes that "
        "it knows best"
    )
    script.done(base_kept=True)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)


def test_held_out_strokes_stay_held_out_when_a_fine_tuning_fails(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    begin(dock, qtbot, script)
    split = {"format": FORMAT, "seed": 0, "parts": {"cells#0": {}}}
    script.jobs[-1].emit(TuneSplit(split))
    script.jobs[-1].finish("failed", error=EngineError("the worker was ended.", "killed"))
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    begin(dock, qtbot, script)
    assert script.asked[-1][1].split["parts"] == {"cells#0": {}}
