"""The loop on a volume, with a network in 3D: painted in planes or with a ball, live meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from qtpy.QtWidgets import QWidget

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.model.modelfile import read_card, save_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING, Split
from napari_unetpp.widget.dock import UNetPPWidget
from napari_unetpp.widget.relay import Relay

WAIT = 180_000
SHAPE = (16, 40, 48)
BALLS = ((5, 12, 14), (10, 26, 32))


def balls() -> NDArray[np.float32]:
    """Return two bright balls in noise."""
    z, y, x = np.indices(SHAPE)
    truth = np.zeros(SHAPE, bool)
    for at in BALLS:
        # Voxels are twice as high as wide.
        truth |= 4 * (z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 < 64
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    return (50 + 100 * truth + noise).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small network in 3D that knows nothing yet."""
    config = NetworkConfig(ndim=3, filters=(6, 8, 12), norm="batch")
    card = ModelCard("balls", config, (ClassInfo("ball"),), axes="ZYX", levels_trained=(1, 2))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NestedUNet(config)
    return save_model(tmp_path_factory.mktemp("model") / "balls.safetensors", network, card)


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def status(dock: UNetPPWidget) -> str:
    return str(part(dock, "teach_status").text())


def shown(dock: UNetPPWidget, qtbot: Any) -> NDArray[Any]:
    """Wait until what is on screen is predicted by the chosen model, and return it."""
    live = dock.live

    def settled() -> bool:
        view = live.view
        return (
            view is not None and dock.selection.identity in view.key and live.job is None
            and 2 in view.levels and bool(view.shown)
        )  # fmt: skip

    qtbot.waitUntil(settled, timeout=WAIT)
    (layer,) = [
        x for x in dock.viewer.layers
        if x.metadata.get("napari_unetpp", {}).get("live") and x.visible
    ]  # fmt: skip
    return np.array(layer.data)


def paint_planes(layer: Any) -> None:
    """Draw two strokes of each value in one plane, which is all that many people paint."""
    plane = 7
    for value, row, columns in (
        (2, 12, (9, 19)), (2, 26, (28, 36)), (1, 2, (4, 40)), (1, 37, (4, 40)),
    ):  # fmt: skip
        layer.selected_label = value
        layer.paint((plane, row, columns[0]), value, refresh=False)
        for column in range(*columns):
            layer.paint((plane, row, column), value)


def paint_balls(layer: Any) -> None:
    """Paint with a brush of three dimensions."""
    layer.n_edit_dimensions, layer.brush_size = 3, 3
    for value, places in ((2, BALLS), (1, ((2, 32, 8), (13, 8, 40)))):
        layer.selected_label = value
        for place in places:
            layer.paint(place, value)


@pytest.mark.parametrize("paint", [paint_planes, pytest.param(paint_balls, marks=pytest.mark.slow)])
def test_a_volume_is_learned_while_it_is_looked_at(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, model: Path,
    monkeypatch: pytest.MonkeyPatch, paint: Callable[[Any], None],
) -> None:  # fmt: skip
    spent: list[float] = []
    call = Relay._call

    def timed(self: Relay, *args: Any) -> None:
        # The thread's own time: what other programs take of the machine does not count.
        start = time.thread_time()
        call(self, *args)
        spent.append(time.thread_time() - start)

    monkeypatch.setattr(Relay, "_call", timed)
    image = balls()
    dock = make_dock(data=image, name="balls", scale=(2.0, 1.0, 1.0), live=True)
    assert dock.selection.axes == "ZYX"
    dock.selection.add_model(str(model))
    dock.panel.set_level(2)
    dock.viewer.dims.set_point(0, 7 * 2.0)
    part(dock, "new_painted_button").click()
    layer, painting = dock.teach.painting.layer, dock.teach.painting
    assert layer.data.shape == SHAPE
    paint(layer)
    qtbot.waitUntil(lambda: set(painting.counts or ()) == {1, 2}, timeout=WAIT)
    painted = np.array(layer.data)
    assert (painted.any(axis=(1, 2)).sum() == 1) == (paint is paint_planes)
    before = shown(dock, qtbot)
    spent.clear()  # napari makes the live layer once, which takes it tenths of a second

    moved = 0
    for seconds in (5.0, 30.0, 90.0):  # a machine that does other work needs more than five
        dock.teach.form.budget.set_choices([("test", seconds)], seconds)
        assert part(dock, "finetune_button").isEnabled(), part(dock, "finetune_button").toolTip()
        part(dock, "finetune_button").click()
        while dock.teach.tuning.running:
            moved += 1
            dock.viewer.dims.set_point(0, 2.0 * (5 + moved // 10 % 5))
            qtbot.wait(30)
        if "The base was better" not in status(dock):
            break
    assert moved > 20  # the window went on
    assert status(dock).startswith("done:"), status(dock)
    assert part(dock, "report_table").horizontalHeaderItem(3).text() == "s/Mvox"
    assert max(spent) < 0.2, spent
    tuned = dock.selection.model_value
    assert tuned != str(model)
    assert read_card(tuned).axes == "ZYX"
    # Both sides are in the volume, whatever plane they are in.
    split = Split.from_json(dock.teach.training.split)
    (name,) = split.shapes
    side = split.side_of(name, SHAPE)
    for value in (1, 2):
        assert {TRAINING, HELD_OUT} <= set(side[painted == value])
    dock.viewer.dims.set_point(0, 7 * 2.0)
    after = shown(dock, qtbot)
    assert not np.array_equal(after, before)
    part(dock, "revert_button").click()
    np.testing.assert_array_equal(shown(dock, qtbot), before)
    np.testing.assert_array_equal(layer.data, painted)
