from __future__ import annotations

from typing import Any

import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QLabel, QSlider

from napari_unetpp.widget.figures_table import (
    UNKNOWN,
    LevelFigures,
    ensemble_text,
    seconds_text,
    table,
)
from napari_unetpp.widget.level_slider import LevelSlider
from napari_unetpp.widget.stop_slider import LEVELS

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def levels(qtbot: Any, figures: dict[int | str, LevelFigures]) -> LevelSlider:
    shown = LevelSlider()
    qtbot.addWidget(shown)
    shown.set_levels(LEVELS, figures)
    shown.resize(300, shown.sizeHint().height())
    with qtbot.waitExposed(shown):
        shown.show()
    return shown


@pytest.fixture
def said(levels: LevelSlider) -> list[int]:
    heard: list[int] = []
    levels.level_changed.connect(heard.append)
    return heard


def labels_with(levels: LevelSlider, text: str) -> list[QLabel]:
    return [label for label in levels.findChildren(QLabel) if label.text() == text]


def middle(levels: LevelSlider, label: QLabel) -> float:
    return label.mapTo(levels, QPoint(0, 0)).x() + label.width() / 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "<.01"),
        (0.0049, "<.01"),
        (0.052, "0.05"),
        (0.994, "0.99"),
        (0.996, "1.0"),
        (2.44, "2.4"),
        (9.94, "9.9"),
        (9.96, "10"),
        (240.4, "240"),
    ],
)
def test_times_take_four_characters(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_table_says_where_times_come_from(figures: dict[int | str, LevelFigures]) -> None:
    score, here = table(LEVELS, LEVELS, figures)
    assert (score.header, score.note) == ("IoU", "held out")
    assert [cell.text for cell in score.cells] == ["0.78", "0.83", "0.85", "0.86"]
    assert (here.header, here.note, here.note_muted) == ("s/Mpx", "here", False)
    card = {k: LevelFigures(0.8, "Dice", 3.0, False, "megavoxel") for k in (1, 2)}
    score, elsewhere = table(LEVELS, (1, 2), card)
    assert (score.header, elsewhere.header) == ("Dice", "s/Mvox")
    assert (elsewhere.note, elsewhere.note_muted) == ("elsewhere", True)
    assert [cell.text for cell in elsewhere.cells] == ["3.0", "3.0", "", ""]
    assert "not trained" in elsewhere.cells[3].tooltip
    mixed = table(LEVELS, LEVELS, {1: figures[1], 2: card[2]})[1]
    assert mixed.note == "partly here"
    assert [cell.muted for cell in mixed.cells] == [False, True, True, True]
    assert mixed.cells[3].text == UNKNOWN


def test_table_without_figures_shows_nothing_wrong() -> None:
    score, times = table(LEVELS, LEVELS, {})
    assert {cell.text for cell in (*score.cells, *times.cells)} == {UNKNOWN}
    assert (score.note, times.note) == ("", "")


def test_ensemble_in_one_line() -> None:
    assert ensemble_text(LevelFigures(0.866, "IoU", 0.36, True)).text == "IoU 0.87 · 0.36 s/Mpx"
    assert ensemble_text(LevelFigures(0.9, "Dice")).text == "Dice 0.90"
    assert ensemble_text(None).text == ""


def test_values_are_one_to_four(levels: LevelSlider) -> None:
    assert isinstance(levels.slider, QSlider)
    assert (levels.slider.minimum(), levels.slider.maximum()) == (1, 4)
    assert levels.slider.objectName() == "level_slider"


@pytest.mark.parametrize("level", LEVELS)
def test_click_on_a_stop_goes_there(
    qtbot: Any, levels: LevelSlider, said: list[int], level: int
) -> None:
    levels.set_level(1 if level == 4 else 4)
    place = QPoint(round(levels.slider.stop_x(level)), levels.slider.height() // 2)
    qtbot.mouseClick(levels.slider, LEFT, pos=place)
    assert levels.level == level
    assert said == ([] if level == 4 and levels.level != 4 else [level])


def test_click_on_a_name_goes_there(qtbot: Any, levels: LevelSlider, said: list[int]) -> None:
    qtbot.mouseClick(labels_with(levels, "L2")[0], LEFT)
    assert (levels.level, said) == (2, [2])


def test_drag_fires_once_for_each_stop(qtbot: Any, levels: LevelSlider, said: list[int]) -> None:
    slider, y = levels.slider, levels.slider.height() // 2
    qtbot.mousePress(slider, LEFT, pos=QPoint(round(slider.stop_x(4)), y))
    for x in range(round(slider.stop_x(4)), round(slider.stop_x(1)) - 1, -3):
        qtbot.mouseMove(slider, QPoint(x, y))
    qtbot.mouseRelease(slider, LEFT, pos=QPoint(round(slider.stop_x(1)), y))
    assert said == [3, 2, 1]


def test_keyboard_steps_over_what_was_not_trained(
    qtbot: Any, levels: LevelSlider, said: list[int]
) -> None:
    levels.set_levels((1, 4), {})
    assert levels.level == 4
    qtbot.keyClick(levels.slider, Qt.Key.Key_Left)
    assert levels.level == 1
    qtbot.keyClick(levels.slider, Qt.Key.Key_Left)
    qtbot.keyClick(levels.slider, Qt.Key.Key_Right)
    qtbot.keyClick(levels.slider, Qt.Key.Key_Home)
    assert said == [1, 4, 1]


def test_no_way_leads_to_a_level_that_was_not_trained(
    qtbot: Any, levels: LevelSlider, said: list[int]
) -> None:
    levels.set_levels((1, 2), {})
    assert (levels.level, said) == (2, [])
    place = QPoint(round(levels.slider.stop_x(4)), 10)
    qtbot.mouseClick(levels.slider, LEFT, pos=place)
    qtbot.mouseClick(labels_with(levels, "L4")[0], LEFT)
    qtbot.keyClick(levels.slider, Qt.Key.Key_End)
    levels.slider.setValue(4)
    levels.set_level(3)
    assert (levels.level, said) == (2, [])
    name = labels_with(levels, "L4")[0]
    assert not name.isEnabled()
    assert name.toolTip() == "L4 was not trained in this model."


def test_names_and_figures_stand_under_their_stops(levels: LevelSlider) -> None:
    columns = [("L1", "0.78", "0.05"), ("L2", "0.83", "0.11"), ("L3", "0.85", "0.20")]
    for level, texts in enumerate(columns, start=1):
        stop = levels.slider.mapTo(levels, QPoint(0, 0)).x() + levels.slider.stop_x(level)
        for text in texts:
            (label,) = labels_with(levels, text)
            assert middle(levels, label) == pytest.approx(stop, abs=2.5)


def test_the_chosen_column_is_bold(levels: LevelSlider) -> None:
    levels.set_level(2)
    bold = {x.text() for x in levels.findChildren(QLabel) if x.font().bold() and x.text()}
    assert bold == {"L2", "0.83", "0.11"}


def test_setters_are_silent(
    levels: LevelSlider, said: list[int], figures: dict[int | str, LevelFigures]
) -> None:
    for level in LEVELS:
        levels.set_level(level)
        assert levels.level == level
    levels.set_levels((1, 3), figures)
    levels.set_available(False, "why not")
    assert said == []
    assert levels.slider.toolTip() == "why not"
