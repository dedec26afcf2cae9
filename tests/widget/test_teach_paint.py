"""What Teach says of paint, and whose paint it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from script_helpers import WAIT, Script, begin, paint, part, status

from napari_unetpp.core.model.cards import read_card
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.painted_layer import make_painted


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
