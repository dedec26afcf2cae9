"""What Teach does when things come in another order: a fine-tuning that the test writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qtpy.QtWidgets import QFileDialog, QWidget

from napari_unetpp.core.model.cards import bundled_models, read_card
from napari_unetpp.core.tune.strokes import FORMAT
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.protocol import (
    EngineError,
    Noted,
    Suggestion,
    TuneOutcome,
    TuneScored,
    TuneSplit,
    TuneStep,
    TuneTeacher,
)
from napari_unetpp.widget import teach_section
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.drafts import new_draft
from napari_unetpp.widget.painted_layer import make_painted
from napari_unetpp.widget.tuning import Tuning

WAIT = 60_000


class Script:
    """Stands where the engine fine-tunes: keeps what it was asked, and says what it is told."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.asked: list[tuple[Any, Any]] = []
        self.jobs: list[Job] = []
        self.cancelled: list[bool] = []

    def tune(self, pairs: Any, request: Any) -> Job:
        self.asked.append((list(pairs), request))
        job = Job(len(self.jobs) + 1, "tune", self.dispatcher, self._cancel)
        self.jobs.append(job)
        return job

    def _cancel(self, job: Job, dropped: bool) -> None:
        self.cancelled.append(dropped)
        if dropped:
            job.finish("cancelled")

    @property
    def out(self) -> str:
        return str(self.asked[-1][1].out)

    def improve(self, step: int, score: float) -> None:
        """Write a model and say so."""
        shutil.copyfile(bundled_models()["nuclei"], self.out)
        job = self.jobs[-1]
        job.emit(TuneStep(step, 10, 0.5, float(step)))
        job.emit(TuneScored(step, {1: score - 0.1, 4: score}, True, self.out))

    def done(self, **report: Any) -> None:
        whole = {
            "levels": {
                str(k): {"before": 0.4, "after": 0.8, "seconds_per_megapixel": 0.1 * k}
                for k in (1, 2, 3, 4)
            },
            "cheapest": 1, "base_kept": False, "steps": 7, "seconds": 8.0, "sentences": [],
        } | report  # fmt: skip
        split = {"format": FORMAT, "seed": 0, "parts": {"cells#0": {}}}
        path = None if whole["base_kept"] else self.out
        self.jobs[-1].finish("done", TuneOutcome(whole, split, path))


@pytest.fixture
def script(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Script()
    monkeypatch.setattr(engine, "tune", made.tune)
    yield made
    made.dispatcher.stop(5)


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def status(dock: UNetPPWidget) -> str:
    return str(part(dock, "teach_status").text())


def paint(dock: UNetPPWidget, qtbot: Any, *values: int) -> Any:
    """Make a painted layer by the button, and a stroke of each value."""
    part(dock, "new_painted_button").click()
    layer = dock.teach.painting.layer
    for number, value in enumerate(values):
        layer.selected_label = value
        layer.paint((10 + 12 * number, 20), value)
    wanted = set(values)
    painting = dock.teach.painting
    qtbot.waitUntil(
        lambda: painting.counts is not None and set(painting.counts) == wanted, timeout=WAIT
    )
    return layer


def begin(dock: UNetPPWidget, qtbot: Any, script: Script) -> None:
    assert part(dock, "finetune_button").isEnabled(), part(dock, "finetune_button").toolTip()
    part(dock, "finetune_button").click()
    assert dock.teach.tuning.running
    assert not part(dock, "finetune_button").isEnabled()
    assert part(dock, "stop_button").isEnabled()


def test_nothing_to_learn_from_is_said(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock()
    button, hint = part(dock, "finetune_button"), part(dock, "teach_hint")
    assert not button.isEnabled()
    assert button.toolTip() == hint.text() == "There is no image: open one, or a sample."
    assert not part(dock, "new_painted_button").isEnabled()
    dock.viewer.add_image(blobs, name="cells")
    assert "press New" in button.toolTip()
    assert not part(dock, "add_class_button").isEnabled()
    layer = paint(dock, qtbot)
    assert layer in dock.viewer.layers
    assert "Nothing is painted: paint a stroke of background (1)" in hint.text()
    assert not button.isEnabled()
    layer.paint((20, 30), 2)
    qtbot.waitUntil(button.isEnabled, timeout=WAIT)
    assert "No background (1) is painted yet" in hint.text()
    layer.paint((60, 30), 1)
    qtbot.waitUntil(lambda: hint.isHidden(), timeout=WAIT)


def test_only_background_is_said_and_may_be_tried(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1)
    assert "paint a stroke of nucleus (2), too" in part(dock, "teach_hint").text()
    assert part(dock, "finetune_button").isEnabled()


def test_a_layer_of_another_shape_is_said(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="cells")
    other = dock.viewer.add_labels(np.ones((5, 6), np.uint8), name="mine")
    combo = part(dock, "painted_combo")
    combo.setCurrentIndex(combo.findText("mine"))
    assert dock.teach.painting.layer is other
    assert (
        "mine has the shape 5 × 6, but cells needs 96 × 128"
        in part(dock, "finetune_button").toolTip()
    )
    np.testing.assert_array_equal(other.data, 1)


def test_value_seven_without_a_class_is_said_until_it_has_one(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 2, 7)
    hint, table = part(dock, "teach_hint"), part(dock, "class_table")
    assert "Label 7 is painted, but the classes end with 2 (nucleus)" in hint.text()
    assert table.item(table.rowCount() - 1, 1).text() == "no class"
    for _ in range(5):
        part(dock, "add_class_button").click()
    assert [row.value for row in dock.teach.painting.classes()] == [1, 2, 3, 4, 5, 6, 7]
    part(dock, "class_table").item(6, 1).setText("debris")
    begin(dock, qtbot, script)
    names = script.asked[-1][1].classes
    assert names == ("nucleus", "class 2", "class 3", "class 4", "class 5", "debris")
    dock.teach.tuning.job.drop()


def test_the_new_layer_is_ready_to_paint(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="cells", scale=(0.5, 0.25), translate=(3, 4))
    layer = paint(dock, qtbot)
    assert dock.viewer.layers.selection.active is layer
    assert (layer.name, str(layer.mode), layer.selected_label) == ("paint: cells", "paint", 2)
    np.testing.assert_allclose(layer.data_to_world((7, 9)), (6.5, 6.25))
    assert dock.selection.layer.name == "cells"
    table = part(dock, "class_table")
    assert table.current == 2
    table.selectRow(0)
    assert layer.selected_label == 1
    layer.selected_label = 2
    assert table.current == 2
    part(dock, "new_painted_button").click()
    assert dock.teach.painting.layer.name == "paint: cells 2"


def test_each_image_has_its_painted_layer(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="first")
    one = paint(dock, qtbot, 2)
    second = dock.viewer.add_image(blobs[:50], name="second")
    assert dock.teach.painting.layer is None
    two = paint(dock, qtbot, 1)
    dock.selection.choose_layer(dock.viewer.layers["first"])
    assert dock.teach.painting.layer is one
    dock.selection.choose_layer(second)
    assert dock.teach.painting.layer is two
    dock.viewer.layers.remove(two)
    assert dock.teach.painting.layer is None
    assert part(dock, "painted_combo").currentText() == "none yet: press New"


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


def test_from_scratch_the_classes_are_the_persons_own(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray, script: Script
) -> None:
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 1, 2)
    combo = part(dock, "start_combo")
    combo.setCurrentIndex(1)
    table = part(dock, "class_table")
    table.item(1, 1).setText("vacuole")
    assert [row.name for row in dock.teach.painting.classes()] == ["background", "vacuole"]
    begin(dock, qtbot, script)
    request = script.asked[-1][1]
    assert (request.model.model, request.classes, request.name) == (
        "scratch", ("vacuole",), "scratch",
    )  # fmt: skip
    dock.teach.tuning.job.drop()
    combo.setCurrentIndex(0)
    assert [row.name for row in dock.teach.painting.classes()] == ["background", "nucleus"]


def test_a_name_is_given_once(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot)
    part(dock, "add_class_button").click()
    part(dock, "add_class_button").click()
    table = part(dock, "class_table")
    table.item(2, 1).setText("debris")
    table.item(3, 1).setText("debris")
    assert "There is a class debris already" in status(dock)
    assert [row.name for row in dock.teach.painting.classes()] == [
        "background", "nucleus", "debris", "class 3",
    ]  # fmt: skip
    assert table.item(3, 1).text() == "class 3"
    assert layer.selected_label == 4  # the class that was added last


def test_results_do_not_cover_the_strokes(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot, 2)
    dock.panel.set_region("all")
    dock.panel.set_level(1)
    part(dock, "run_button").click()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
    qtbot.waitUntil(lambda: dock.viewer.layers[-1] is layer, timeout=WAIT)
    assert len(dock.viewer.layers) == 3


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


def suggestions(script: Script, engine: Engine, monkeypatch: Any, *boxes: Any) -> list[Any]:
    """Have the engine suggest these places; return the list of what it is asked."""
    asked: list[Any] = []

    def suggest(source: Any, request: Any, painted: Any = None, sink: Any = None) -> Job:
        asked.append((source, request, painted, sink))
        job = Job(100 + len(asked), "suggest", script.dispatcher, lambda job, dropped: None)
        if sink is not None:
            sink[...] = 0.5
        job.finish("done", tuple(Suggestion(box, 0.5) for box in boxes))
        return job

    monkeypatch.setattr(engine, "suggest", suggest)
    return asked


@pytest.mark.parametrize("unit", ["µm", "mm"])
def test_the_next_place_moves_camera_and_sliders(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    unit: str,
) -> None:
    boxes = (((7, 9), (10, 21), (30, 41)), ((1, 2), (40, 51), (0, 11)))
    asked = suggestions(script, engine, monkeypatch, *boxes)
    volume = np.zeros((12, 60, 80), np.uint8)
    dock = make_dock(
        data=volume, name="scan", scale=(2, 0.5, 0.5), translate=(0, 3, 0), units=(unit,) * 3
    )
    dock.selection.choose_model("ct-head-neck")
    if unit == "mm":  # a second layer whose unit is another one
        dock.viewer.add_image(volume, name="other", scale=(1, 1, 1), units=("µm",) * 3)
        dock.selection.choose_layer(dock.viewer.layers["scan"])
    part(dock, "next_region_button").click()
    qtbot.waitUntil(lambda: "place 1 of 2" in status(dock), timeout=WAIT)
    source, request, painted, sink = asked[0]
    assert (source.axes, request.region) == ("ZYX", ((0, 12), (0, 60), (0, 80)))
    assert (painted, sink) == (None, None)
    layer = dock.viewer.layers["scan"]

    def middle() -> list[float]:
        camera = getattr(dock.viewer, "scene", dock.viewer).camera
        world = np.array([dock.viewer.dims.point[0], *camera.center[-2:]])
        per = [float((1 * a).to(b).magnitude) if a != b else 1.0
               for a, b in zip(dock.viewer.dims.units, layer.units, strict=True)]  # fmt: skip
        return [float(v) for v in layer.world_to_data(world * per)]

    z, y, x = middle()
    assert z == 7
    np.testing.assert_allclose((y, x), (15, 35), atol=1e-6)
    part(dock, "next_region_button").click()
    np.testing.assert_allclose(middle(), (1, 45, 5), atol=1e-6)
    assert len(asked) == 1  # the second place was known
    part(dock, "next_region_button").click()
    qtbot.waitUntil(lambda: len(asked) == 2, timeout=WAIT)


def test_nothing_to_suggest_is_said(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = suggestions(script, engine, monkeypatch)
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 2)
    part(dock, "next_region_button").click()
    qtbot.waitUntil(lambda: "there is nothing to suggest" in status(dock), timeout=WAIT)
    assert asked[0][2].axes == "YX"  # what is painted is left out
    assert asked[0][2].data.any()


def test_the_map_lies_on_what_is_on_screen_and_follows_it(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = suggestions(script, engine, monkeypatch)
    dock = make_dock(data=blobs, name="cells", scale=(0.5, 0.5))
    camera = getattr(dock.viewer, "scene", dock.viewer).camera
    check, shown = part(dock, "uncertainty_check"), dock.teach.suggesting.map
    check.click()
    qtbot.waitUntil(lambda: shown.layer is not None, timeout=WAIT)
    start = [first for first, _ in asked[-1][1].region]
    assert shown.layer.data.shape == tuple(stop - first for first, stop in asked[-1][1].region)
    np.testing.assert_allclose(shown.layer.data_to_world((0, 0)), np.multiply(start, 0.5))
    assert dock.selection.images() == [dock.viewer.layers["cells"]]
    camera.zoom = 40
    qtbot.waitUntil(lambda: len(asked) == 2, timeout=WAIT)
    qtbot.waitUntil(lambda: shown.layer.data.shape[0] < 96, timeout=WAIT)
    check.click()
    assert not shown.layer.visible
    camera.zoom = 30
    qtbot.wait(400)
    assert len(asked) == 2  # nobody wants it
    dock.viewer.layers.remove(shown.layer)
    check.click()
    qtbot.waitUntil(lambda: shown.layer in dock.viewer.layers, timeout=WAIT)


def test_another_image_of_the_same_shape_has_its_own_paint(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="first")
    viewer, painting, selection = dock.viewer, dock.teach.painting, dock.selection
    older, one = paint(dock, qtbot, 1, 2), paint(dock, qtbot, 1, 2)
    second = viewer.add_image(blobs[::-1].copy(), name="second")
    assert (selection.layer, painting.layer) == (second, None)
    assert "press New" in part(dock, "finetune_button").toolTip()
    two = paint(dock, qtbot, 1)
    # A click on paint is a click on its image: no stroke is ever another image's.
    for layer, image in ((one, "first"), (two, "second"), (older, "first"), (two, "second")):
        viewer.layers.selection.active = layer
        assert (painting.layer.name, selection.layer.name) == (layer.name, image)
    selection.choose_layer(viewer.layers["first"])
    assert painting.layer is older  # the one that was painted last


def test_paint_that_comes_back_goes_to_the_image_it_names(
    make_dock: Callable[..., UNetPPWidget], blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="first")
    first = dock.viewer.layers["first"]
    dock.viewer.add_image(blobs[::-1].copy(), name="second")
    assert dock.selection.layer.name == "second"
    layer = make_painted(first, "YX", read_card("nuclei"), "paint: first")
    dock.viewer.add_layer(layer)
    assert (dock.selection.layer, dock.teach.painting.layer) == (first, layer)
    dock.selection.choose_layer(dock.viewer.layers["second"])
    assert dock.teach.painting.layer is None


def test_restored_paint_has_the_names_of_its_classes(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: np.ndarray
) -> None:
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot, 1, 2)
    part(dock, "add_class_button").click()
    part(dock, "class_table").item(2, 1).setText("mito")
    layer.paint((60, 60), 3)
    assert dock.teach.journalling.flush()
    dock.teach.journalling.forget(layer)  # as if the program had ended here
    again = make_dock(data=blobs, name="cells")
    bar = part(again, "recovery_bar")
    qtbot.waitUntil(lambda: not bar.isHidden(), timeout=WAIT)
    again.teach.bar.restore_clicked.emit()
    np.testing.assert_array_equal(again.teach.painting.layer.data, layer.data)
    assert again.teach.painting.class_names() == ("nucleus", "mito")


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


def test_places_of_another_image_are_dropped(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs: list[Job] = []

    def suggest(source: Any, request: Any, painted: Any = None, sink: Any = None) -> Job:
        jobs.append(Job(100 + len(jobs), "suggest", script.dispatcher, lambda job, dropped: None))
        return jobs[-1]

    monkeypatch.setattr(engine, "suggest", suggest)
    dock = make_dock(data=np.stack([blobs] * 3), name="stack")
    flat = dock.viewer.add_image(blobs, name="flat")
    stack = dock.viewer.layers["stack"]
    camera, suggesting = getattr(dock.viewer, "scene", dock.viewer).camera, dock.teach.suggesting
    place = (Suggestion(((2, 3), (10, 21), (30, 41)), 0.5),) * 2

    def ask() -> None:
        dock.selection.choose_layer(stack)
        part(dock, "next_region_button").click()

    ask()
    dock.selection.choose_layer(flat)
    before = (camera.zoom, tuple(camera.center), tuple(dock.viewer.dims.point))
    jobs[0].finish("done", place)
    qtbot.wait(100)
    assert (camera.zoom, tuple(camera.center), tuple(dock.viewer.dims.point)) == before
    assert suggesting.places == []
    assert "looking" not in status(dock)
    # Coming back, the answer is asked for anew; and one that was heard is of its image alone.
    ask()
    assert len(jobs) == 2
    jobs[1].finish("done", place)
    qtbot.waitUntil(lambda: "place 1 of 2" in status(dock), timeout=WAIT)
    dock.selection.choose_layer(flat)
    assert suggesting.places == []


def test_the_map_comes_back_from_3d(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggestions(script, engine, monkeypatch)
    dock = make_dock(data=np.stack([blobs] * 3), name="cells")
    suggesting = dock.teach.suggesting
    part(dock, "uncertainty_check").click()
    qtbot.waitUntil(lambda: suggesting.map.layer is not None, timeout=WAIT)
    dock.viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: not suggesting.map.layer.visible, timeout=WAIT)
    dock.viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: suggesting.map.layer.visible, timeout=WAIT)
    # One that is asked for still is not shown in 3D.
    job = Job(99, "suggest", script.dispatcher, lambda job, dropped: None)
    monkeypatch.setattr(engine, "suggest", lambda *a: job)
    suggesting._map_key = ()
    suggesting.update_map()
    dock.viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: not suggesting.map.layer.visible, timeout=WAIT)
    job.finish("done", ())
    qtbot.wait(100)
    assert not suggesting.map.layer.visible


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
