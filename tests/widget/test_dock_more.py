"""What a demanding user does to the dock, in a real viewer with the real engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from qtpy.QtWidgets import QWidget

from napari_unetpp.core.data import phantoms
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 120_000  # milliseconds; a loaded machine is no defect


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    return phantoms.nuclei_2d().image[:96, :128]


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def test_behind_the_proxy_of_the_menu_the_active_layer_is_followed(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    dock = make_dock(data=nuclei, name="first", live=True)
    first = dock.viewer.layers["first"]
    qtbot.waitUntil(lambda: len(dock.outputs.layers_of(first)) == 1, timeout=WAIT)
    assert dock.selection.layer is first
    second = dock.viewer.add_image(nuclei[:64], name="second")
    assert dock.selection.layer is second
    dock.viewer.layers.selection.active = first
    assert dock.selection.layer is first


def test_the_x_of_the_dock_ends_the_worker_and_frees_the_keys(
    make_napari_viewer: Callable[..., Any], qtbot: Any
) -> None:
    viewer = make_napari_viewer()
    dock = UNetPPWidget(viewer)
    frame = viewer.window.add_dock_widget(dock, name="UNet++")
    qtbot.waitUntil(lambda: dock.engine.state.kind == "ready", timeout=WAIT)
    worker, keys = dock.engine.worker_pid, len(viewer.keymap)
    assert worker is not None
    frame.destroyOnClose()
    qtbot.waitUntil(lambda: not psutil.pid_exists(worker), timeout=10_000)
    assert len(viewer.keymap) < keys


def test_an_image_removed_in_live_takes_its_live_layer_along(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    dock = make_dock(data=nuclei, name="first", live=True)
    first = dock.viewer.layers["first"]
    qtbot.waitUntil(lambda: len(dock.outputs.layers_of(first)) == 1, timeout=WAIT)
    second = dock.viewer.add_image(nuclei[:64], name="second")
    qtbot.waitUntil(lambda: len(dock.outputs.layers_of(second)) == 1, timeout=WAIT)
    (shown,) = dock.outputs.layers_of(second)
    dock.viewer.layers.remove(second)
    # Not at once: napari's drawing would crash.
    assert shown in dock.viewer.layers
    assert shown.visible
    qtbot.waitUntil(lambda: shown not in dock.viewer.layers, timeout=WAIT)
    (other,) = dock.outputs.layers_of(first)
    qtbot.waitUntil(lambda: other.visible, timeout=WAIT)
