"""The stop "auto" of the slider: offered, figured, shown live, run and copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QPoint, Qt
from qtpy.QtWidgets import QApplication, QLabel, QWidget

from napari_unetpp.cli.main import main
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data import phantoms
from napari_unetpp.core.model.cards import read_card
from napari_unetpp.widget.command import segment_command
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.figures import Figures
from napari_unetpp.widget.figures_table import UNKNOWN, LevelFigures, table
from napari_unetpp.widget.level_slider import LevelSlider
from napari_unetpp.widget.level_words import level_name, tiles_by_level
from napari_unetpp.widget.stop_slider import AUTO, LEVELS, level_at

WAIT = 120_000
LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def with_auto(figures: dict[int | str, LevelFigures]) -> dict[int | str, LevelFigures]:
    return {**figures, "auto": LevelFigures(None, "IoU", 0.15, True)}


@pytest.fixture
def levels(qtbot: Any, with_auto: dict[int | str, LevelFigures]) -> LevelSlider:
    shown = LevelSlider()
    qtbot.addWidget(shown)
    shown.set_levels(LEVELS, with_auto)
    shown.set_level(4)
    shown.resize(304, shown.sizeHint().height())
    with qtbot.waitExposed(shown):
        shown.show()
    return shown


@pytest.fixture
def said(levels: LevelSlider) -> list[int]:
    heard: list[int] = []
    levels.level_changed.connect(heard.append)
    return heard


def label_with(levels: LevelSlider, text: str) -> QLabel:
    (found,) = [x for x in levels.findChildren(QLabel) if x.text() == text and x.isVisible()]
    return found


def hint(levels: LevelSlider) -> QLabel:
    found = levels.findChild(QLabel, "auto_hint")
    assert isinstance(found, QLabel)
    return found


# The slider


def test_the_stop_lies_after_the_last_level(
    qtbot: Any, levels: LevelSlider, said: list[int]
) -> None:
    slider = levels.slider
    assert (slider.minimum(), slider.maximum()) == (1, AUTO)
    qtbot.keyClick(slider, Qt.Key.Key_Right)
    assert (levels.level, said) == (AUTO, [AUTO])
    assert slider.accessibleDescription() == "auto"
    qtbot.mouseClick(slider, LEFT, pos=QPoint(round(slider.stop_x(3)), slider.height() // 2))
    qtbot.mouseClick(slider, LEFT, pos=QPoint(round(slider.stop_x(AUTO)), slider.height() // 2))
    qtbot.keyClick(slider, Qt.Key.Key_Left)
    qtbot.mouseClick(label_with(levels, "auto"), LEFT)
    assert said == [AUTO, 3, AUTO, 4, AUTO]
    assert [level_at(stop) for stop in (1, 4, AUTO)] == [1, 4, "auto"]


def test_its_figures_stand_under_it(levels: LevelSlider) -> None:
    for text, stop in (("L1", 1), ("L4", 4), ("auto", AUTO), (UNKNOWN, AUTO), ("0.15", AUTO)):
        label = label_with(levels, text)
        at = label.mapTo(levels, QPoint(0, 0)).x() + label.width() / 2
        place = levels.slider.mapTo(levels, QPoint(0, 0)).x() + levels.slider.stop_x(stop)
        assert at == pytest.approx(place, abs=2.5)
    levels.set_level(AUTO)
    bold = {x.text() for x in levels.findChildren(QLabel) if x.font().bold() and x.text()}
    assert bold == {"auto", UNKNOWN, "0.15"}


def test_its_name_is_whole_in_a_narrow_dock(qtbot: Any, napari_theme: str) -> None:
    levels = LevelSlider()
    qtbot.addWidget(levels)
    levels.setFixedWidth(304)  # of the 320 of the dock
    slow = LevelFigures(0.78, "Dice", 1234.5, False, "megavoxel")
    levels.set_levels(LEVELS, dict.fromkeys((*LEVELS, "auto"), slow))
    levels.set_level(AUTO)
    with qtbot.waitExposed(levels):
        levels.show()
    name = label_with(levels, "auto")
    assert name.contentsRect().width() >= name.fontMetrics().horizontalAdvance("auto")
    places = [levels.slider.stop_x(stop) for stop in (*LEVELS, AUTO)]
    assert np.diff(places) == pytest.approx(np.diff(places).mean(), abs=1.5)


def test_a_line_says_what_it_is(
    levels: LevelSlider, with_auto: dict[int | str, LevelFigures]
) -> None:
    assert hint(levels).text() == "L4 is best, auto as deep as needed"
    levels.set_level(AUTO)
    assert hint(levels).text() == "auto: each tile at the level it needs"
    levels.set_levels(LEVELS, {**with_auto, "auto": replace(with_auto["auto"], calibrated=False)})
    assert hint(levels).text() == "auto: each tile at the level it needs (not calibrated)"
    assert "no tolerance for auto" in label_with(levels, "auto").toolTip()
    levels.set_level(2)
    assert "not calibrated" not in hint(levels).text()


def test_a_model_without_it_has_the_old_slider(
    levels: LevelSlider, said: list[int], figures: dict[int | str, LevelFigures]
) -> None:
    levels.set_level(AUTO)
    levels.set_levels((1, 2), figures)
    assert (levels.slider.maximum(), levels.level, said) == (4, 2, [])
    assert not hint(levels).isVisible()
    assert label_with(levels, "best").isVisible()
    levels.set_level(AUTO)
    assert levels.level == 2
    levels.set_levels((1, 2, 4), {**figures, "auto": LevelFigures()})
    levels.set_level(AUTO)
    assert levels.level == AUTO
    levels.set_level(3)
    assert (levels.level, said) == (2, [])


def test_table_with_auto(with_auto: dict[int | str, LevelFigures]) -> None:
    scores, times = table((*LEVELS, "auto"), (1, 2, 3, "auto"), with_auto)
    assert [cell.text for cell in scores.cells] == ["0.78", "0.83", "0.85", "", UNKNOWN]
    assert scores.cells[-1].tooltip == "The model's card gives no score for auto."
    assert times.cells[-1].tooltip.startswith("auto: 0.15 seconds for a megapixel, measured on")


# Figures and words


class Shown:
    def __init__(self) -> None:
        self.figures: Mapping[int | str, LevelFigures] = {}

    def set_levels(
        self, trained: tuple[int, ...], figures: Mapping[int | str, LevelFigures]
    ) -> None:
        self.figures = figures


def figures_of(card: ModelCard) -> tuple[Shown, Figures]:
    shown = Shown()
    made = Figures(shown)
    made.choose(card, "a model")
    return shown, made


def test_figures_of_auto() -> None:
    card = read_card("nuclei").replace(auto_tolerance=None)
    shown, made = figures_of(card)
    assert shown.figures["auto"] == LevelFigures(None, "IoU", None, calibrated=False)
    most = made.estimate(4, 300_000_000)
    assert made.estimate("auto", 300_000_000) == f"up to {most}"
    for seconds in (9.0, 1.0, 2.0):  # the first warms up, and it depends on the image
        made.measured("auto", seconds, 1.0)
    assert made.estimate("auto", 30_000_000) == "about 60 s"
    told = card.replace(
        auto_tolerance=0.1,
        scores={**card.scores, "auto": {"iou_per_image": 0.84}},
        timings={**card.timings, "auto": {"seconds_per_megapixel": 0.2}},
    )
    shown, _ = figures_of(told)
    assert shown.figures["auto"] == LevelFigures(0.84, "IoU", 0.2)
    shown, _ = figures_of(card.replace(levels_trained=(1, 4)))
    assert "auto" not in shown.figures


def test_words() -> None:
    assert [level_name(level) for level in (2, "auto", "ensemble")] == ["L2", "auto", "ensemble"]
    assert tiles_by_level({}) == ""
    assert tiles_by_level({"4": 1}) == "1 tile came to L4"
    assert tiles_by_level({"4": 3, "2": 12}) == "12 tiles came to L2, 3 to L4"


def test_the_command_says_auto(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8))
    text = segment_command(tmp_path / "a.tif", "nuclei", read_card("nuclei"), level="auto")
    assert "--level auto" in text


# In the dock, with the real engine


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def test_live_run_and_command(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, tmp_path: Path
) -> None:
    path, out = tmp_path / "cells.tif", tmp_path / "out.tif"
    tifffile.imwrite(path, phantoms.nuclei_2d().image[:200, :232])
    dock = make_dock()
    (image,) = dock.viewer.open(path, plugin="napari")
    for _ in range(4):
        dock.level_up()
    assert dock.panel.level == AUTO
    dock.panel.set_live(True)
    dock.live.update()
    live = dock.live
    qtbot.waitUntil(
        lambda: live.view is not None and "auto" in live.view.levels and live.job is None,
        timeout=WAIT,
    )
    assert live.view is not None
    assert set(live.view.levels) == {1, "auto"}
    shown = next(x for x in dock.outputs.layers_of(image) if x.visible)
    assert shown.metadata["napari_unetpp"]["level"] == "auto"
    assert "live: auto (1 tile at L" in part(dock, "status_label").text()
    view = np.array(shown.data)

    dock.panel.set_region("all")
    part(dock, "run_button").click()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
    said = part(dock, "status_label").text()
    assert said.startswith("done: labels at auto in ")
    assert "; 1 tile came to L" in said
    layer = next(x for x in dock.outputs.layers_of(image) if x is not shown)
    found = np.asarray(layer.data)
    assert layer.metadata["napari_unetpp"]["level"] == "auto"
    part(dock, "copy_button").click()
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    assert "--level auto" in clipboard.text()
    assert main(["segment", str(path), "--out", str(out), "--level", "auto"]) == 0
    expected = tifffile.imread(out)
    assert expected.any()
    np.testing.assert_array_equal(found, expected)
    if view.shape == found.shape:
        np.testing.assert_array_equal(view, found)
    dock.level_down()
    assert dock.panel.level == 4
