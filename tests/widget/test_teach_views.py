"""The section Teach without a viewer: table, curve, report, form, and what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QLabel, QPushButton, QWidget

from napari_unetpp.widget.class_table import ClassRow, ClassTable, count_text
from napari_unetpp.widget.curve_plot import COLOURS, CurvePlot, spread
from napari_unetpp.widget.recovery_bar import RecoveryBar
from napari_unetpp.widget.report_table import rows, verdict
from napari_unetpp.widget.teach_form import TeachForm

LEFT = Qt.MouseButton.LeftButton
ROWS = [
    ClassRow(1, "background", "#9a7fe0"),
    ClassRow(2, "nucleus", "#3fb27f"),
    ClassRow(3, "class 2", "#e69f00", own=True),
]


def report(**changes: Any) -> dict[str, Any]:
    found = {
        "levels": {
            "1": {"before": 0.61, "after": 0.82, "seconds_per_megapixel": 0.052},
            "3": {"before": 0.68, "after": 0.905, "seconds_per_megapixel": 0.2},
            "4": {"before": 0.70, "after": 0.91, "seconds_per_megapixel": 0.34},
        },
        "cheapest": 3,
        "base_kept": False,
        "sentences": ["It flatters a little."],
    }
    return {**found, **changes}


@pytest.fixture
def form(qtbot: Any) -> TeachForm:
    """Return the form, 320 pixels wide, on screen, as after a fine-tuning."""
    made = TeachForm()
    qtbot.addWidget(made)
    made.set_painted([("paint: cells", "layer"), ("other", "other")], "layer")
    made.show_classes(ROWS)
    made.show_curve(True)
    made.show_report(report())
    made.set_revert("Revert to base", "Work with nuclei again.", "")
    made.set_save("")
    made.set_suggestions("")
    made.set_hint("No background (1) is painted yet: paint what is none of the classes, too.")
    made.set_status("done: 46 steps in 30 s. L4 0.70 → 0.91 on held-out strokes.", "info")
    made.setFixedWidth(304)
    with qtbot.waitExposed(made):
        made.show()
    return made


def heard_by(form: TeachForm) -> list[tuple[str, Any]]:
    said: list[tuple[str, Any]] = []
    for name in (
        "painted_changed", "new_painted_clicked", "class_chosen", "class_renamed",
        "add_class_clicked", "finetune_clicked", "stop_clicked", "revert_clicked",
        "save_clicked", "next_clicked", "uncertainty_changed",
    ):  # fmt: skip
        getattr(form, name).connect(lambda *v, name=name: said.append((name, v)))
    return said


@pytest.mark.parametrize(
    "name",
    [
        "painted_combo", "new_painted_button", "class_table", "finetune_button", "stop_button",
        "curve_plot", "report_table", "revert_button", "save_model_button",
        "next_region_button", "uncertainty_check",
    ],
)  # fmt: skip
def test_names_that_others_rely_on(form: TeachForm, find: Callable[..., Any], name: str) -> None:
    control = find(form, name)
    assert control.toolTip()
    assert control.accessibleName()


def test_every_button_says_one_thing(qtbot: Any, form: TeachForm, find: Any) -> None:
    said = heard_by(form)
    for name in (
        "new_painted_button", "add_class_button", "finetune_button", "revert_button",
        "save_model_button", "next_region_button", "uncertainty_check",
    ):  # fmt: skip
        where = QPoint(8, 8) if name.endswith("check") else QPoint()
        qtbot.mouseClick(find(form, name), LEFT, pos=where)
    assert said == [
        ("new_painted_clicked", ()), ("add_class_clicked", ()), ("finetune_clicked", ()),
        ("revert_clicked", ()), ("save_clicked", ()), ("next_clicked", ()),
        ("uncertainty_changed", (True,)),
    ]  # fmt: skip
    form.set_running(True)
    qtbot.mouseClick(find(form, "stop_button"), LEFT)
    assert said[-1] == ("stop_clicked", ())


def test_what_is_off_says_why(form: TeachForm, find: Any) -> None:
    def state(name: str) -> tuple[bool, str]:
        control = find(form, name)
        return control.isEnabled(), control.toolTip()

    assert state("stop_button") == (False, "No fine-tuning goes on that could be stopped.")
    form.set_can_finetune("Nothing is painted.")
    assert state("finetune_button") == (False, "Nothing is painted.")
    form.set_can_finetune("")
    assert state("finetune_button")[0]
    form.set_running(True)
    assert "goes on" in state("finetune_button")[1]
    assert state("stop_button")[0]
    form.set_revert("Revert to base", "", "Nothing is fine-tuned yet.")
    assert state("revert_button") == (False, "Nothing is fine-tuned yet.")
    form.set_save("No draft.")
    assert state("save_model_button") == (False, "No draft.")
    form.set_suggestions("No model.")
    assert state("next_region_button") == (False, "No model.")
    assert state("uncertainty_check") == (False, "No model.")


def test_without_a_layer_the_choice_says_what_to_do(form: TeachForm, find: Any) -> None:
    form.set_painted([("truth", "t")], None)
    said = heard_by(form)
    combo = find(form, "painted_combo")
    assert combo.currentText() == "none yet: press New"
    combo.setCurrentIndex(1)
    assert said == [("painted_changed", ("t",))]


def test_a_click_on_a_class_takes_it(qtbot: Any, form: TeachForm, find: Any) -> None:
    said = heard_by(form)
    table: ClassTable = find(form, "class_table")
    qtbot.mouseClick(table.viewport(), LEFT, pos=table.visualItemRect(table.item(2, 0)).center())
    assert said == [("class_chosen", (3,))]
    assert table.current == 3
    table.set_current(2)
    assert table.current == 2
    assert len(said) == 1  # setters are silent


def test_own_classes_are_renamed_and_the_models_are_not(
    qtbot: Any, form: TeachForm, find: Any
) -> None:
    said = heard_by(form)
    table: ClassTable = find(form, "class_table")
    editable = Qt.ItemFlag.ItemIsEditable
    names = [table.item(line, 1) for line in range(3)]
    assert [bool(item.flags() & editable) for item in names] == [False, False, True]
    names[2].setText("  debris ")
    assert said == [("class_renamed", (3, "debris"))]
    names[2].setText("  ")
    assert names[2].text() == "class 2"  # no name is no name
    assert len(said) == 1


def test_counts_are_short(form: TeachForm, find: Any) -> None:
    table: ClassTable = find(form, "class_table")
    table.set_counts({1: 37, 2: 34_567})
    assert [table.item(line, 2).text() for line in range(3)] == ["37", "35k", "0"]
    assert table.item(1, 2).toolTip() == "34567 painted pixels"
    table.set_counts(None)
    assert [table.item(line, 2).text() for line in range(3)] == [""] * 3
    assert [count_text(n) for n in (0, 9_999, 10_000, 999_400, 1_234_567)] == [
        "0", "9999", "10k", "999k", "1.23M",
    ]  # fmt: skip


def test_report_in_words_and_rows() -> None:
    assert rows(report()) == [
        ("L1", "0.61", "0.82", "0.05"),
        ("L3", "0.68", "0.91", "0.20"),
        ("L4", "0.70", "0.91", "0.34"),
    ]
    assert verdict(report()) == "Cheapest within 0.01 of the best: L3 (0.91)."
    assert "base was better" in verdict(report(base_kept=True))
    bare = {k: {**row, "before": None, "after": None} for k, row in report()["levels"].items()}
    little = report(levels=bare, cheapest=None)
    assert rows(little)[0] == ("L1", "–", "–", "0.05")
    assert verdict(little) == "Too little paint to hold anything out: there is no score."


def test_report_is_shown_and_too_little_paint_is_said(form: TeachForm, find: Any) -> None:
    table = find(form, "report_table")
    assert table.isVisible()
    assert [table.horizontalHeaderItem(k).text() for k in range(4)] == [
        "", "before", "after", "s/Mpx",
    ]  # fmt: skip
    assert table.item(1, 2).text() == "0.91"
    assert table.item(1, 2).font().bold()
    assert not table.item(2, 2).font().bold()
    bare = {k: {**row, "before": None, "after": None} for k, row in report()["levels"].items()}
    form.show_report(report(levels=bare, cheapest=None, sentences=["Paint more."]), "Mvox")
    assert not table.isVisible()
    words = find(form, "report_words", QLabel).text()
    assert words == "Paint more."  # the report's own sentences say that there is no score
    form.show_report(report())
    assert find(form, "report_words", QLabel).text() == (
        "Cheapest within 0.01 of the best: L3 (0.91).\nIt flatters a little."
    )
    form.show_report(report(base_kept=True, sentences=["The base stays."]))
    assert find(form, "report_words", QLabel).text() == "The base stays."


def test_curve_keeps_what_it_is_told(qtbot: Any) -> None:
    plot = CurvePlot()
    qtbot.addWidget(plot)
    plot.start(10)
    plot.add_scores(0.0, {1: 0.31, 4: 0.52}, False)
    for step in range(1, 1500):
        plot.add_loss(step / 100, 2.0)
    plot.add_loss(16.0, float("nan"))
    plot.add_scores(12.0, {1: 0.7, 4: 0.84}, True)
    assert plot.scores == {1: [(0.0, 0.31), (12.0, 0.7)], 4: [(0.0, 0.52), (12.0, 0.84)]}
    assert plot.best == 12.0
    assert plot.range() == (0.2, 0.9)
    assert len(plot.losses) <= 600
    assert plot.losses[0][0] == 0.01
    assert plot.losses[-1] == (14.99, pytest.approx(2.0))
    assert plot.accessibleDescription() == "after 12 s: L1 0.70, L4 0.84"
    plot.start(30)
    assert (plot.scores, plot.losses, plot.best) == ({}, [], None)


@pytest.mark.usefixtures("napari_theme")
def test_curve_stands_out_in_both_themes(qtbot: Any, napari_theme: str) -> None:
    host = QWidget()
    qtbot.addWidget(host)
    plot = CurvePlot()
    plot.setParent(host)
    plot.resize(280, 130)
    host.resize(280, 130)
    plot.start(10)
    plot.add_scores(0.0, {4: 0.4}, False)
    plot.add_scores(9.0, {4: 0.8}, True)
    with qtbot.waitExposed(host):
        host.show()
    image = host.grab().toImage()
    wanted = COLOURS[napari_theme][4]
    found = [
        (x, y)
        for x in range(image.width())
        for y in range(image.height())
        if image.pixelColor(x, y).name() == wanted
    ]
    assert len(found) > 60
    left, right = min(found), max(found)
    assert left[1] > right[1]  # it rises
    for theme, ground in (("dark", "#262930"), ("light", "#efebe9")):
        for colour in COLOURS[theme].values():
            assert contrast(colour, ground) >= 3.0, (theme, colour)


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_names_at_the_ends_of_lines_do_not_meet() -> None:
    assert spread([10, 12, 50], 8, 0, 100) == [10, 18, 50]
    assert spread([96, 97, 98], 8, 0, 100) == [84, 92, 100]
    assert spread([], 8, 0, 100) == []


def test_recovery_bar_is_there_while_there_is_an_offer(qtbot: Any, find: Any) -> None:
    bar = RecoveryBar()
    qtbot.addWidget(bar)
    bar.setFixedWidth(304)
    assert bar.isHidden()
    bar.offer("Unsaved paint: " + "a long name " * 9, "all of it")
    bar.show()
    assert bar.minimumSizeHint().width() <= 304
    said = []
    bar.restore_clicked.connect(lambda: said.append("restore"))
    bar.discard_clicked.connect(lambda: said.append("discard"))
    for name in ("restore_button", "discard_button"):
        qtbot.mouseClick(find(bar, name), LEFT)
    assert said == ["restore", "discard"]
    bar.offer("")
    assert bar.isHidden()


@pytest.mark.usefixtures("napari_theme")
def test_fits_beside_a_scroll_bar_in_320_pixels(qtbot: Any, form: TeachForm) -> None:
    form.training.expand()
    form.training.set_images(["a very long name of an image " * 3, "b"], "project " * 5)
    form.set_painted([("paint: a very long name of an image " * 3, 1)], 1)
    form.set_revert("Back to fine-tuned", "", "")
    form.set_status("a sentence that is long and speaks of /a/very/long/path " * 3, "error")
    qtbot.wait(20)
    assert form.minimumSizeHint().width() <= 304
    for widget in form.findChildren(QWidget):
        if widget.isVisible():
            right = widget.mapTo(form, QPoint(widget.width(), 0)).x()
            assert right <= form.width(), widget.objectName()
            if isinstance(widget, QPushButton):
                assert widget.width() >= widget.minimumSizeHint().width(), widget.text()


def test_the_views_bring_no_torch_and_no_napari() -> None:
    code = (
        "import sys, napari_unetpp.widget.teach_form, napari_unetpp.widget.recovery_bar;"
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


def test_the_training_set_keeps_what_is_chosen_in_it(form: TeachForm, find: Any) -> None:
    training, images = form.training, find(form, "training_set_list")
    training.set_images(["a", "b"], "p", ["", ""])
    images.setCurrentRow(1)
    assert training.current == "b"
    training.set_images(["a", "b"], "p", ["", ""])  # as at every stroke
    assert training.current == "b"
    training.set_images(["a", "c", "b"], "p", ["", "", "b is gone."])
    assert training.current == "b"
    assert [images.item(k).text() for k in range(3)] == ["a", "c", "b (missing)"]
    assert find(form, "remove_pair_button").isEnabled()
    training.set_images(["a", "c"], "p", ["", ""])
    assert training.current == ""
    assert not find(form, "remove_pair_button").isEnabled()
