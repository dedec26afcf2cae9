"""Fixtures of the widget's tests. napari's own pytest plugin brings ``make_napari_viewer``.

They need an X server: ``xvfb-run -a python -m pytest tests/widget`` where there is no screen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("napari", reason="the widget needs napari")
pytest.importorskip("pytestqt", reason="its tests need pytest-qt")

sys.path.insert(0, str(Path(__file__).parent))  # for modules called *_helpers

from napari._qt.qt_resources import get_stylesheet
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtWidgets import QApplication, QWidget
from script_helpers import Script

from napari_unetpp.engine.client import Engine
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.panel import LevelFigures, ModelItem, Panel

W = TypeVar("W", bound=QWidget)


class Heard(list[tuple[str, Any]]):
    """What the signals of a panel said, in order, as (name, value)."""

    def of(self, name: str) -> list[Any]:
        return [value for heard, value in self if heard == name]


SIGNALS = (
    "image_changed",
    "axes_changed",
    "channel_changed",
    "model_changed",
    "model_dropped",
    "browse_model",
    "level_changed",
    "ensemble_changed",
    "live_changed",
    "threshold_changed",
    "region_changed",
    "output_changed",
    "min_size_changed",
    "run_clicked",
    "cancel_clicked",
    "copy_clicked",
    "sample_clicked",
    "device_clicked",
    "toggle_clicked",
)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep models used lately, drafts and journals out of the folders of who runs the tests."""
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("NAPARI_UNETPP_DATA", str(tmp_path / "data"))


@pytest.fixture
def find() -> Callable[..., Any]:
    """Return a function that finds a control by its objectName; there must be exactly one."""

    def find_in(root: QWidget, name: str, kind: type[W] = QWidget) -> W:  # type: ignore[assignment]
        found = root.findChildren(kind, name)
        assert len(found) == 1, f"{len(found)} widgets of {kind.__name__} are called {name}"
        return found[0]

    return find_in


@pytest.fixture
def figures() -> dict[int | str, LevelFigures]:
    """Return what is known of four levels and their ensemble, measured here."""
    scores = {1: 0.781, 2: 0.833, 3: 0.852, 4: 0.861, "ensemble": 0.866}
    seconds = {1: 0.052, 2: 0.111, 3: 0.2, 4: 0.34, "ensemble": 0.36}
    return {key: LevelFigures(scores[key], "IoU", seconds[key], True) for key in scores}


@pytest.fixture
def panel(qtbot: Any, figures: dict[int | str, LevelFigures]) -> Panel:
    """Return a panel 320 pixels wide, on screen, with an image and a model."""
    shown = Panel()
    qtbot.addWidget(shown)
    shown.set_images([("cells", "the cells"), ("other", "the other")], "the cells")
    shown.set_axes("TCYX", ["TCYX", "ZCYX"])
    shown.set_channels(["DAPI", "GFP"], 0)
    shown.set_models(
        [
            ModelItem("nuclei", "nuclei", "bundled", "Nuclei in fluorescence."),
            ModelItem("ct-head-neck", "ct-head-neck", "bundled", "Organs in CT."),
            ModelItem("mine", "/models/mine.safetensors", "recent", "Used yesterday."),
        ],
        "nuclei",
    )
    shown.set_device("CPU, bfloat16", "This torch is a CPU build.", True)
    shown.set_levels((1, 2, 3, 4), figures)
    shown.set_level(2)
    shown.set_estimate("about 12 s")
    shown.setFixedWidth(320)
    with qtbot.waitExposed(shown):
        shown.show()
    return shown


@pytest.fixture
def heard(panel: Panel) -> Heard:
    """Return the list that fills with what the panel's signals say."""
    said = Heard()
    for name in SIGNALS:
        getattr(panel, name).connect(
            lambda *value, name=name: said.append((name, *value, None)[:2])
        )
    return said


@pytest.fixture(params=["dark", "light"])
def napari_theme(request: pytest.FixtureRequest, qapp: QApplication) -> Iterator[str]:
    """Put the application into napari's stylesheet, once for each theme."""
    before = qapp.styleSheet()
    qapp.setStyleSheet(get_stylesheet(request.param))
    yield request.param
    qapp.setStyleSheet(before)


@pytest.fixture
def blobs() -> NDArray[np.uint8]:
    """Return a small image with two bright discs, (Y, X)."""
    y, x = np.mgrid[:96, :128]
    discs = ((y - 30) ** 2 + (x - 40) ** 2 < 200) | ((y - 60) ** 2 + (x - 90) ** 2 < 300)
    return np.where(discs, 200, 20).astype(np.uint8)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Return an engine for the docks of a module: each start takes seconds."""
    shared = Engine()
    yield shared
    shared.close()


@pytest.fixture
def make_dock(
    make_napari_viewer: Callable[..., Any], engine: Engine
) -> Iterator[Callable[..., UNetPPWidget]]:
    """Return a function that makes a viewer with an image and the dock in it."""
    made: list[UNetPPWidget] = []

    def make(*, live: bool = False, own: Engine | None = None, **layer: Any) -> UNetPPWidget:
        viewer = make_napari_viewer()
        if layer:
            viewer.add_image(**layer)
        # napari's menu hands over a proxy of the viewer.
        dock = UNetPPWidget(PublicOnlyProxy(viewer), engine=own or engine)
        viewer.window.add_dock_widget(dock, name="UNet++")
        dock.panel.set_live(live)
        if live:
            dock.live.update()
        made.append(dock)
        return dock

    yield make
    for dock in made:
        dock.shut()


@pytest.fixture
def script(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """Put fine-tunings that the test writes into the engine's place."""
    made = Script()
    monkeypatch.setattr(engine, "tune", made.tune)
    yield made
    made.dispatcher.stop(5)
