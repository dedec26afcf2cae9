"""A person who paints with the mouse, fine-tunes and looks at the live result."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget
from scipy import ndimage

from napari_unetpp.core.data import phantoms
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 180_000  # milliseconds; a loaded machine is no defect

SHAPE = (160, 192)


def gray_cells_and_bright_debris(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return an image that the bundled model gets wrong, and the truth: it takes the debris."""
    cells = phantoms.nuclei_2d(SHAPE, count=22, seed=seed).labels > 0
    debris = phantoms.nuclei_2d(SHAPE, count=22, seed=seed + 50, spacing=(0.6, 0.6)).labels > 0
    light = ndimage.gaussian_filter(40.0 + 60.0 * cells + 140.0 * (debris & ~cells), 0.7)
    noise = np.random.default_rng(seed).normal(size=SHAPE) * 4
    return (light + noise).astype(np.float32), cells


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def status(dock: UNetPPWidget) -> str:
    return str(part(dock, "teach_status").text())


def mouse(dock: UNetPPWidget, kind: QEvent.Type, place: QPointF, held: bool) -> None:
    """Send one event of the mouse to the canvas, as the window system would."""
    canvas = dock.viewer.window._qt_viewer.canvas.native
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    event = QMouseEvent(
        kind,
        place,
        QPointF(canvas.mapToGlobal(place.toPoint())),
        none if kind == QEvent.Type.MouseMove else left,
        left if held else none,
        Qt.KeyboardModifier.NoModifier,
    )
    QApplication.sendEvent(canvas, event)


def on_canvas(dock: UNetPPWidget, layer: Any, pixel: tuple[float, ...]) -> QPointF:
    """Return where a pixel of a layer is on the canvas."""
    camera = getattr(dock.viewer, "scene", dock.viewer).camera
    world = np.asarray(layer.data_to_world(pixel))[-2:]
    canvas = dock.viewer.window._qt_viewer.canvas.native
    middle = np.array([canvas.height(), canvas.width()]) / 2
    y, x = middle + (world - np.asarray(camera.center[-2:])) * camera.zoom
    return QPointF(float(x), float(y))


def breathe() -> None:
    """Let the window hear the last move: vispy leaves out fast ones, and napari delays them."""
    end = time.monotonic() + 0.03
    while time.monotonic() < end:
        QApplication.processEvents()


def draw(dock: UNetPPWidget, value: int, *pixels: tuple[float, ...]) -> None:
    """Choose a class in the table and draw a stroke with the mouse."""
    table = part(dock, "class_table")
    table.selectRow(value - 1)
    layer = dock.teach.painting.layer
    assert layer.selected_label == value
    places = [on_canvas(dock, layer, pixel) for pixel in pixels]
    mouse(dock, QEvent.Type.MouseMove, places[0], held=False)
    breathe()
    mouse(dock, QEvent.Type.MouseButtonPress, places[0], held=True)
    for place in [*places, places[-1]]:
        breathe()
        mouse(dock, QEvent.Type.MouseMove, place, held=True)
    breathe()
    mouse(dock, QEvent.Type.MouseButtonRelease, places[-1], held=False)


def stroke_in(mask: NDArray[np.bool_], number: int) -> list[tuple[float, ...]]:
    """Return a short stroke through the middle of a piece of a mask, the largest pieces first."""
    pieces, count = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())[1:]
    piece = int(np.argsort(-sizes)[number % count]) + 1
    deep = ndimage.distance_transform_edt(np.pad(pieces == piece, 1))[1:-1, 1:-1]
    y, x = (int(v) for v in np.unravel_index(int(deep.argmax()), deep.shape))
    reach = int(max(1, deep.max() - 2))
    return [(y, x - reach), (y, x), (y, x + reach)]


def paint_image(
    dock: UNetPPWidget, qtbot: Any, image: NDArray[np.float32], truth: NDArray[np.bool_]
) -> Any:
    """Press New and draw ten strokes with the mouse."""
    part(dock, "new_painted_button").click()
    qtbot.wait(200)  # the window draws the layer; before that it does not hear the mouse
    bright = ndimage.gaussian_filter(image, 1) > 130
    bright &= ~ndimage.binary_dilation(truth, iterations=2)
    dark = ~ndimage.binary_dilation(bright | truth, iterations=2)
    for number in range(4):
        draw(dock, 2, *stroke_in(truth, number))
    for number in range(4):
        draw(dock, 1, *stroke_in(bright, number))
    for half in (np.s_[:, :96], np.s_[:, 96:]):
        here = np.zeros_like(dark)
        here[half] = dark[half]
        draw(dock, 1, *stroke_in(here, 0))
    layer = dock.teach.painting.layer
    painted = np.asarray(layer.data)
    assert (painted == 2).sum() > 30
    assert (painted == 1).sum() > 30
    count = {int(v): int((painted == v).sum()) for v in (1, 2)}
    qtbot.waitUntil(lambda: dock.teach.painting.counts == count, timeout=WAIT)
    return layer


def begin(dock: UNetPPWidget, seconds: float) -> None:
    assert part(dock, "finetune_button").isEnabled(), part(dock, "finetune_button").toolTip()
    dock.teach.form.budget.set_choices([("test", seconds)], seconds)
    part(dock, "finetune_button").click()
    assert dock.teach.tuning.running


def wait_for_end(dock: UNetPPWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)


def live_layer(dock: UNetPPWidget) -> Any:
    (found,) = [
        x
        for x in dock.viewer.layers
        if x.metadata.get("napari_unetpp", {}).get("live") and x.visible
    ]
    return found


def wait_for_live(dock: UNetPPWidget, qtbot: Any, level: int) -> NDArray[Any]:
    """Wait until what is on screen is predicted by the chosen model, and return it."""
    live, identity = dock.live, dock.selection.identity

    def settled() -> bool:
        view = live.view
        return (
            view is not None
            and identity in view.key
            and live.job is None
            and level in view.levels
            and bool(view.shown)
        )

    qtbot.waitUntil(settled, timeout=WAIT)
    return np.array(live_layer(dock).data)


def iou(found: NDArray[Any], truth: NDArray[np.bool_], left_out: NDArray[Any]) -> float:
    part = left_out == 0
    a, b = (found > 0) & part, truth & part
    return float((a & b).sum() / (a | b).sum())


def painted_dock(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, *values: int, live: bool = False
) -> UNetPPWidget:
    """Return a dock with strokes that are painted through the layer."""
    image, truth = gray_cells_and_bright_debris()
    dock = make_dock(data=image, name="cells", live=live)
    dock.panel.set_level(1)
    part(dock, "new_painted_button").click()
    layer = dock.teach.painting.layer
    strokes = phantoms.painted_strokes(truth.astype(np.uint8), strokes=5)
    for value in values:
        layer.data_setitem(np.nonzero(strokes == value), value)
    painting = dock.teach.painting
    qtbot.waitUntil(lambda: set(painting.counts or ()) == set(values), timeout=WAIT)
    return dock
