"""The actions of the command palette reach the dock of the viewer they are called in."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
from napari.utils._proxies import PublicOnlyProxy
from qtpy.QtWidgets import QWidget

from napari_unetpp.widget import palette

ACTIONS = ("run", "cancel", "level_up", "level_down", "toggle")


class Dock(QWidget):
    """A dock that notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name not in ACTIONS:
            raise AttributeError(name)
        return lambda: self.told.append(name)


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("napari_unetpp.widget.dock")
    module.UNetPPWidget = Dock
    monkeypatch.setitem(sys.modules, "napari_unetpp.widget.dock", module)


def test_actions_reach_the_dock_of_their_viewer(
    noting: None, make_napari_viewer: Callable[..., Any]
) -> None:
    viewers, docks = [make_napari_viewer(), make_napari_viewer()], [Dock(), Dock()]
    for viewer, dock in zip(viewers, docks, strict=True):
        viewer.window.add_dock_widget(dock, name="any name")
    for name in ACTIONS:
        # napari hands plug-ins a viewer behind a proxy, which warns about private names.
        getattr(palette, name)(PublicOnlyProxy(viewers[1]))
    assert docks[1].told == list(ACTIONS)
    assert docks[0].told == []


def test_without_a_dock_it_is_opened_and_nothing_runs(
    noting: None, make_napari_viewer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer()
    opened: list[str] = []
    monkeypatch.setattr(
        type(viewer.window), "add_plugin_dock_widget", lambda self, name: opened.append(name)
    )
    palette.run(viewer)
    assert opened == ["napari-unetpp"]


def test_the_real_dock_has_the_actions() -> None:
    from napari_unetpp.widget.dock import UNetPPWidget

    assert [n for n in ACTIONS if not callable(getattr(UNetPPWidget, n, None))] == []


def test_napari_gives_the_viewer_to_the_action(
    noting: None, make_napari_viewer: Callable[..., Any]
) -> None:
    from napari._app_model import get_app_model

    viewer, dock = make_napari_viewer(), Dock()
    viewer.window.add_dock_widget(dock, name="any name")
    app = get_app_model()
    app.injection_store.inject(palette.level_up)()
    assert dock.told == ["level_up"]


def test_napari_knows_which_parameter_of_the_dock_takes_the_viewer() -> None:
    # It goes by the letters of the annotation: "napari.viewer.Viewer", not "napari.Viewer".
    from napari._qt._qplugins._qnpe2 import _get_widget_viewer_param

    from napari_unetpp.widget.dock import UNetPPWidget

    assert _get_widget_viewer_param(UNetPPWidget, "UNet++") == "viewer"
