from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QMimeData, QPoint, QPointF, QRect, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication, QStandardItemModel
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSlider,
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollBar,
    QSlider,
    QWidget,
)
from superqt import QLabeledDoubleSlider

from napari_unetpp.widget.focus_ring import FocusRing
from napari_unetpp.widget.fold import Fold
from napari_unetpp.widget.forms import distinct
from napari_unetpp.widget.panel import LevelFigures, ModelItem, Panel

LEFT = Qt.MouseButton.LeftButton
LONG = "2024-05-17_experiment_with_a_very_long_name_position_03_channel_2.ome.tif [0] registered"
CONTROLS = (QAbstractButton, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit, QProgressBar)


def fill_with_long_names(panel: Panel) -> None:
    panel.set_images([(LONG, 1)], 1)
    panel.set_channels([LONG, "b"], 0)
    panel.set_models([ModelItem(f"/home/somebody/models/{LONG}", "m")], "m")
    panel.set_device(LONG, "reason", False)
    panel.set_estimate("about 3 hours and 12 minutes on this machine")
    panel.set_output("probabilities")
    panel.set_status("saved " + LONG.replace(" ", "_") * 3, "error")
    panel.set_progress(123_456, 1_000_000)
    slow = LevelFigures(0.78, "Dice", 1234.5, False, "megavoxel")
    panel.set_levels((1, 2, 3, 4), dict.fromkeys((1, 2, 3, 4, "ensemble"), slow))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("image_combo", QComboBox),
        ("channel_combo", QComboBox),
        ("model_combo", QComboBox),
        ("axes_combo", QComboBox),
        ("level_slider", QSlider),
        ("ensemble_check", QCheckBox),
        ("live_check", QCheckBox),
        ("threshold_slider", QLabeledDoubleSlider),
        ("region_combo", QComboBox),
        ("output_combo", QComboBox),
        ("min_size_spin", QAbstractSpinBox),
        ("run_button", QPushButton),
        ("cancel_button", QPushButton),
        ("copy_button", QPushButton),
        ("toggle_button", QPushButton),
        ("progress_bar", QProgressBar),
        ("status_label", QLabel),
        ("device_label", QLabel),
    ],
)
def test_names_that_others_rely_on(
    panel: Panel, find: Callable[..., Any], name: str, kind: type[QWidget]
) -> None:
    find(panel, name, kind)


def choose(qtbot: Any, combo: QComboBox, key: Qt.Key = Qt.Key.Key_Down) -> None:
    qtbot.keyClick(combo, key)


@pytest.mark.parametrize(
    ("control", "signal", "value"),
    [
        ("image_combo", "image_changed", "the other"),
        ("channel_combo", "channel_changed", 1),
        ("model_combo", "model_changed", "ct-head-neck"),
        ("axes_combo", "axes_changed", "ZCYX"),
        ("output_combo", "output_changed", "probabilities"),
    ],
)
def test_a_choice_fires_once(
    qtbot: Any,
    panel: Panel,
    heard: Any,
    find: Callable[..., Any],
    control: str,
    signal: str,
    value: Any,
) -> None:
    find(panel, "more_group", Fold).expand()
    qtbot.keyClick(find(panel, control, QComboBox), Qt.Key.Key_Down)
    assert heard == [(signal, value)]
    assert getattr(panel, signal.removesuffix("_changed")) == value


def test_region_fires_once(qtbot: Any, panel: Panel, heard: Any, find: Callable[..., Any]) -> None:
    panel.set_region("view")
    qtbot.keyClick(find(panel, "region_combo", QComboBox), Qt.Key.Key_Down)
    assert heard == [("region_changed", "slice")]
    assert panel.region == "slice"


@pytest.mark.parametrize(
    ("control", "signal"),
    [
        ("browse_button", "browse_model"),
        ("device_button", "device_clicked"),
        ("run_button", "run_clicked"),
        ("copy_button", "copy_clicked"),
        ("toggle_button", "toggle_clicked"),
    ],
)
def test_a_button_fires_once(
    qtbot: Any, panel: Panel, heard: Any, find: Callable[..., Any], control: str, signal: str
) -> None:
    qtbot.mouseClick(find(panel, control), LEFT)
    assert heard == [(signal, None)]
    qtbot.keyClick(find(panel, control), Qt.Key.Key_Space)
    assert heard == [(signal, None)] * 2


def test_checks_slider_threshold_and_size_fire_once(
    qtbot: Any, panel: Panel, heard: Any, find: Callable[..., Any]
) -> None:
    qtbot.mouseClick(find(panel, "live_check"), LEFT, pos=QPoint(8, 8))
    qtbot.keyClick(find(panel, "level_slider"), Qt.Key.Key_Right)
    qtbot.keyClick(find(panel, "threshold_slider"), Qt.Key.Key_Right)
    qtbot.mouseClick(find(panel, "ensemble_check"), LEFT, pos=QPoint(8, 8))
    panel.set_output("instances")
    find(panel, "more_group", Fold).expand()
    qtbot.keyClick(find(panel, "min_size_spin"), Qt.Key.Key_Up)
    assert heard == [
        ("live_changed", True),
        ("level_changed", 3),
        ("threshold_changed", 0.51),
        ("ensemble_changed", True),
        ("min_size_changed", 1),
    ]
    assert (panel.live, panel.level, panel.ensemble, panel.min_size) == (True, 3, True, 1)


def test_threshold_by_keyboard_stays_between_its_ends(
    qtbot: Any, panel: Panel, find: Callable[..., Any]
) -> None:
    slider = find(panel, "threshold_slider")
    reached = []
    for key in (Qt.Key.Key_PageUp, Qt.Key.Key_Left, Qt.Key.Key_End, Qt.Key.Key_Up, Qt.Key.Key_Home):
        qtbot.keyClick(slider, key)
        reached.append(panel.threshold)
    assert reached == [0.6, 0.59, 1.0, 1.0, 0.0]


def test_threshold_by_mouse(qtbot: Any, panel: Panel, heard: Any, find: Callable[..., Any]) -> None:
    (groove,) = find(panel, "threshold_slider").findChildren(QAbstractSlider)
    qtbot.mousePress(groove, LEFT, pos=QPoint(groove.width() // 2, groove.height() // 2))
    qtbot.mouseMove(groove, QPoint(groove.width() * 3 // 4, groove.height() // 2))
    qtbot.mouseRelease(groove, LEFT, pos=QPoint(groove.width() * 3 // 4, groove.height() // 2))
    assert panel.threshold == pytest.approx(0.77, abs=0.05)
    assert heard.of("threshold_changed")[-1] == panel.threshold


def test_setters_are_silent_and_read_back(
    panel: Panel, heard: Any, figures: dict[int | str, LevelFigures]
) -> None:
    panel.set_images([("b", "B"), ("a", "A")], "A")
    panel.set_axes("ZYX", ["TYX", "ZYX"])
    panel.set_channels(["r", "g", "b"], 2)
    panel.set_models([ModelItem("x", "X"), ModelItem("y", "Y")], "Y")
    panel.set_levels((1, 3), figures)
    panel.set_level(1)
    panel.set_ensemble(True)
    panel.set_live(True)
    panel.set_threshold(0.37)
    panel.set_region("slice")
    panel.set_output("instances")
    panel.set_min_size(25)
    panel.set_running(True)
    panel.set_empty(True)
    panel.set_threshold_enabled(False, "why")
    assert heard == []
    assert (panel.image, panel.axes, panel.channel, panel.model) == ("A", "ZYX", 2, "Y")
    assert (panel.level, panel.ensemble, panel.live, panel.threshold) == (1, True, True, 0.37)
    assert (panel.region, panel.output, panel.min_size) == ("slice", "instances", 25)


def test_setters_inside_a_slot_stay_silent(qtbot: Any, panel: Panel, heard: Any) -> None:
    panel.level_changed.connect(panel.set_level)
    panel.image_changed.connect(lambda _: panel.set_channels(["x", "y"], 1))
    qtbot.keyClick(panel.findChild(QComboBox, "image_combo"), Qt.Key.Key_Down)
    qtbot.keyClick(panel.findChild(QSlider, "level_slider"), Qt.Key.Key_Left)
    assert heard == [("image_changed", "the other"), ("level_changed", 1)]


def test_images_of_the_same_name_are_both_there(
    qtbot: Any, panel: Panel, heard: Any, find: Callable[..., Any]
) -> None:
    first, second = object(), object()
    panel.set_images([("cells", first), ("cells", second)], first)
    combo = find(panel, "image_combo", QComboBox)
    assert [combo.itemText(k) for k in range(combo.count())] == ["cells", "cells (2)"]
    qtbot.keyClick(combo, Qt.Key.Key_Down)
    assert heard == [("image_changed", second)]
    assert distinct(["a", "a", "a (2)", "a"]) == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_choices_keep_their_order_and_survive_a_new_parent(
    qtbot: Any, panel: Panel, find: Callable[..., Any]
) -> None:
    panel.set_images([("other", "the other"), ("new", "N"), ("cells", "the cells")], "N")
    home = QWidget()
    qtbot.addWidget(home)
    combo = find(panel, "image_combo", QComboBox)
    combo.setParent(home)
    assert [combo.itemText(k) for k in range(combo.count())] == ["other", "new", "cells"]
    assert panel.image == "N"
    combo.setParent(panel)


def test_an_image_that_is_gone_leaves_nothing_chosen(panel: Panel, heard: Any) -> None:
    panel.set_images([("a", "A")], "B")
    assert panel.image is None
    panel.set_images([], None)
    assert (panel.image, heard) == (None, [])


def test_models_stand_in_groups(qtbot: Any, panel: Panel, find: Callable[..., Any]) -> None:
    combo = find(panel, "model_combo", QComboBox)
    assert [combo.itemText(k) for k in range(combo.count())] == [
        "nuclei",
        "ct-head-neck",
        "",
        "mine",
    ]
    assert combo.itemData(3, Qt.ItemDataRole.ToolTipRole) == "Used yesterday."
    qtbot.keyClick(combo, Qt.Key.Key_End)
    assert panel.model == "/models/mine.safetensors"


@pytest.mark.parametrize(("names", "shown"), [([], False), (["a"], False), (["a", "b"], True)])
def test_channels_show_if_there_are_several(
    panel: Panel, find: Callable[..., Any], names: list[str], shown: bool
) -> None:
    panel.set_channels(names, 0 if names else None)
    assert find(panel, "channel_combo").isVisible() is shown
    assert panel.channel == (0 if names else None)


def test_outputs_that_a_model_lacks_are_gray_with_the_reason(
    panel: Panel, heard: Any, find: Callable[..., Any]
) -> None:
    panel.set_output("instances")
    panel.set_outputs(["labels", "probabilities"], "It has no centres.")
    assert (panel.output, heard) == ("labels", [])
    model = find(panel, "output_combo", QComboBox).model()
    assert isinstance(model, QStandardItemModel)
    item = model.item(2)
    assert item is not None
    assert (item.isEnabled(), item.toolTip()) == (False, "It has no centres.")
    panel.set_outputs(["labels", "probabilities", "instances"])
    assert (item.isEnabled(), item.toolTip()) == (True, "")


def test_run_says_why_it_is_off(qtbot: Any, panel: Panel, heard: Any, find: Any) -> None:
    run, cancel = find(panel, "run_button"), find(panel, "cancel_button")
    assert (run.isEnabled(), cancel.isEnabled()) == (True, False)
    assert cancel.toolTip() == "Nothing runs that could be cancelled."
    panel.set_can_run(False, "Choose axes with Y and X.")
    assert (run.isEnabled(), run.toolTip()) == (False, "Choose axes with Y and X.")
    qtbot.mouseClick(run, LEFT)
    assert heard == []
    panel.set_running(True)
    assert (run.isEnabled(), "A run goes on" in run.toolTip()) == (False, True)
    panel.set_can_run(True)
    assert not run.isEnabled()
    qtbot.mouseClick(cancel, LEFT)
    assert heard == [("cancel_clicked", None)]
    panel.set_running(False)
    assert (run.isEnabled(), "Predict" in run.toolTip()) == (True, True)


def test_nothing_open_offers_a_sample(qtbot: Any, panel: Panel, heard: Any, find: Any) -> None:
    panel.set_empty(True)
    assert not find(panel, "image_combo").isVisible()
    assert not find(panel, "run_button").isEnabled()
    assert "no image" in find(panel, "run_button").toolTip()
    qtbot.mouseClick(find(panel, "sample_button"), LEFT)
    assert heard == [("sample_clicked", None)]
    panel.set_empty(False)
    assert find(panel, "image_combo").isVisible()
    assert not find(panel, "sample_button").isVisible()
    assert find(panel, "run_button").isEnabled()


@pytest.mark.parametrize(
    ("switch_off", "name", "reason"),
    [
        (lambda p: p.set_ensemble(True), "level_slider", "The ensemble takes all levels"),
        (lambda p: p.set_threshold_enabled(False, "no threshold"), "threshold_slider", "no thresh"),
        (lambda p: p.set_live(False, "3D display"), "live_check", "3D display"),
        (lambda p: p.set_output("labels"), "min_size_spin", "choose the output"),
    ],
)
def test_what_is_off_says_why(
    panel: Panel, find: Any, switch_off: Callable[[Panel], None], name: str, reason: str
) -> None:
    switch_off(panel)
    control = find(panel, name)
    assert not control.isEnabled()
    assert reason in control.toolTip()


def test_progress_shows_and_goes(panel: Panel, find: Any) -> None:
    bar = find(panel, "progress_bar", QProgressBar)
    assert not bar.isVisible()
    panel.set_progress(31, 52)
    assert bar.isVisible()
    assert (bar.value(), bar.maximum(), bar.text()) == (31, 52, "tile 31 of 52")
    panel.set_progress(0, 0)
    assert (bar.minimum(), bar.maximum()) == (0, 0)
    panel.clear_progress()
    assert not bar.isVisible()


@pytest.mark.parametrize("kind", ["info", "busy", "warning", "error"])
def test_status_is_whole_for_eye_and_ear(panel: Panel, find: Any, kind: Any) -> None:
    text = "expected this, got /a/very/long/path" * 5
    panel.set_status(text, kind)
    label = find(panel, "status_label", QLabel)
    assert label.text() == text
    assert label.accessibleName() == f"{kind}: {text}"


def test_ensemble_figures_are_beside_its_check(panel: Panel) -> None:
    assert "IoU 0.87 · 0.36 s/Mpx" in [label.text() for label in panel.findChildren(QLabel)]


def drop(panel: Panel, *paths: str) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(path) for path in paths])
    event = QDropEvent(
        QPointF(20, 20),
        Qt.DropAction.CopyAction,
        data,
        LEFT,
        Qt.KeyboardModifier.NoModifier,
    )
    panel.dropEvent(event)


def test_a_model_may_be_dropped(panel: Panel, heard: Any) -> None:
    drop(panel, "/models/grüße und mehr.safetensors")
    assert heard == [("model_dropped", "/models/grüße und mehr.safetensors")]


@pytest.mark.parametrize(
    ("paths", "got"),
    [(("/x/cells.tif",), "cells.tif"), (("/a.safetensors", "/b.safetensors"), "2 files")],
)
def test_other_files_are_refused_in_a_sentence(
    panel: Panel, heard: Any, find: Any, paths: tuple[str, ...], got: str
) -> None:
    drop(panel, *paths)
    assert heard == []
    assert got in find(panel, "status_label", QLabel).text()
    assert ".safetensors" in find(panel, "status_label", QLabel).text()


def test_no_field_swallows_a_drop(panel: Panel) -> None:
    assert panel.acceptDrops()
    assert [x for x in panel.findChildren(QWidget) if x.acceptDrops()] == []


def test_every_control_has_a_name_and_a_tooltip(panel: Panel) -> None:
    found = [c for kind in CONTROLS for c in panel.findChildren(kind)]
    controls = [c for c in found if not isinstance(c, QScrollBar)]
    assert len(controls) >= 18
    assert [c.objectName() for c in controls if not c.accessibleName()] == []
    named = [c for c in controls if c.objectName() and not c.objectName().startswith("qt_")]
    assert [c.objectName() for c in named if not c.toolTip()] == []


def test_labels_belong_to_their_controls(panel: Panel) -> None:
    buddies = {x.text(): x.buddy() for x in panel.findChildren(QLabel) if x.buddy()}
    assert {name: b.objectName() for name, b in buddies.items()} == {
        "Image": "image_combo",
        "Channel": "channel_combo",
        "Model": "model_combo",
        "Threshold": "threshold_slider",
        "Region": "region_combo",
        "Output": "output_combo",
        "Axes": "axes_combo",
        "Least size": "min_size_spin",
    }


def test_tab_goes_from_top_to_bottom(qtbot: Any, panel: Panel, find: Any) -> None:
    with qtbot.waitActive(panel):
        panel.activateWindow()
    find(panel, "image_combo").setFocus()
    order = []
    for _ in range(14):
        focused = QGuiApplication.focusObject()
        assert isinstance(focused, QWidget)
        order.append(focused.objectName())
        qtbot.keyClick(focused, Qt.Key.Key_Tab)
    assert order == [
        "image_combo",
        "channel_combo",
        "model_combo",
        "browse_button",
        "device_button",
        "level_slider",
        "ensemble_check",
        "live_check",
        "threshold_slider",
        "region_combo",
        "output_combo",
        "run_button",
        "toggle_button",
        "copy_button",
    ]


@pytest.mark.usefixtures("napari_theme")
def test_fits_320_pixels(qtbot: Any, panel: Panel, find: Any) -> None:
    find(panel, "more_group", Fold).expand()
    for fill in (lambda _: None, fill_with_long_names):
        fill(panel)
        qtbot.wait(20)
        assert panel.minimumSizeHint().width() <= 320
        assert panel.width() == 320
        assert clipped(panel) == []


def clipped(panel: Panel) -> list[str]:
    """Return what reaches beyond its parent, and fixed texts that have not their whole width."""
    found = []
    for widget in panel.findChildren(QWidget):
        if not widget.isVisible() or widget.parent() is None:
            continue
        right = widget.mapTo(panel, QPoint(widget.width(), 0)).x()
        if right > panel.width():
            found.append(f"{widget.objectName()} ends at {right}")
        fixed = isinstance(widget, QPushButton | QCheckBox) or type(widget) is QLabel
        if fixed and widget.width() < widget.minimumSizeHint().width():
            found.append(f"{widget.text()!r} has {widget.width()} pixels")
    return found


@pytest.mark.usefixtures("napari_theme")
def test_figures_are_not_cut_in_the_usual_case(panel: Panel, qtbot: Any) -> None:
    qtbot.wait(20)
    for label in panel.findChildren(QLabel):
        if label.isVisible() and not label.hasHeightForWidth():
            needed = label.fontMetrics().horizontalAdvance(label.text())
            assert needed <= label.contentsRect().width(), label.text()


def test_long_names_are_in_tooltips(panel: Panel, find: Any) -> None:
    fill_with_long_names(panel)
    assert LONG in find(panel, "image_combo").toolTip()
    assert LONG in find(panel, "device_label").toolTip()
    assert "reason" in find(panel, "device_label").toolTip()


def test_texts_stand_out_in_both_themes(panel: Panel, napari_theme: str, qtbot: Any) -> None:
    panel.set_status("here", "error")
    qtbot.wait(20)
    image = panel.grab().toImage()
    label = panel.findChild(QLabel, "device_label")
    ground = image.pixelColor(2, image.height() - 2).lightness()
    assert (ground < 80) is (napari_theme == "dark")
    corner = label.mapTo(panel, QPoint(0, 0))
    shades = [
        image.pixelColor(corner.x() + x, corner.y() + y).lightness()
        for x in range(label.width())
        for y in range(label.height())
    ]
    assert max(abs(shade - ground) for shade in shades) > 120


def test_a_drag_of_files_is_let_in_and_of_text_is_not(panel: Panel) -> None:
    for data, taken in ((QMimeData(), False), (QMimeData(), True)):
        if taken:
            data.setUrls([QUrl.fromLocalFile("/x/cells.tif")])
        else:
            data.setText("cells")
        event = QDragEnterEvent(
            QPoint(5, 5),
            Qt.DropAction.CopyAction,
            data,
            LEFT,
            Qt.KeyboardModifier.NoModifier,
        )
        event.ignore()
        panel.dragEnterEvent(event)
        assert event.isAccepted() is taken


def test_ring_shows_where_the_keyboard_is(qtbot: Any, panel: Panel, find: Any) -> None:
    with qtbot.waitActive(panel):
        panel.activateWindow()
    (ring,) = panel.findChildren(FocusRing)
    button = find(panel, "run_button")
    button.setFocus(Qt.FocusReason.MouseFocusReason)
    assert not ring.isVisible()
    find(panel, "output_combo").setFocus(Qt.FocusReason.TabFocusReason)
    button.setFocus(Qt.FocusReason.TabFocusReason)
    assert ring.isVisible()
    corner = button.mapTo(panel, QPoint(0, 0))
    assert ring.geometry().contains(QRect(corner, button.size()))
    qtbot.mouseClick(button, LEFT)  # the ring lets the mouse through
    find(panel, "copy_button").setFocus(Qt.FocusReason.MouseFocusReason)
    assert not ring.isVisible()


def test_lives_in_a_viewer_of_either_theme(
    make_napari_viewer: Callable[..., Any], qtbot: Any, figures: dict[int | str, LevelFigures]
) -> None:
    viewer = make_napari_viewer()
    docked = Panel()
    docked.set_images([("cells", 1)], 1)
    docked.set_levels((1, 2, 3, 4), figures)
    viewer.window.add_dock_widget(docked, name="UNet++", area="right")
    for theme in ("dark", "light"):
        viewer.theme = theme
        docked.set_running(theme == "dark")
        qtbot.wait(10)
        assert docked.minimumSizeHint().width() <= 320
    assert docked.image == 1


def test_the_view_brings_no_torch_and_no_napari() -> None:
    code = (
        "import sys, napari_unetpp.widget.panel;"
        "print([n for n in ('torch', 'napari') if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert run.stdout.strip() == "[]"
