"""Where to paint next, and the map of doubt, by an engine that the test answers for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from script_helpers import WAIT, Script, paint, part, status

from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import (
    Suggestion,
)
from napari_unetpp.widget.dock import UNetPPWidget


def suggestions(script: Script, engine: Engine, monkeypatch: Any, *boxes: Any) -> list[Any]:
    """Have the engine suggest these places; return the list of what it is asked."""
    asked: list[Any] = []

    def suggest(source: Any, request: Any, painted: Any = None, sink: Any = None) -> Job:
        asked.append((source, request, painted, sink))
        job = Job(100 + len(asked), "suggest", script.dispatcher, lambda job, dropped: None)
        if sink is not None:
            sink[...] = 0.5
        job.finish("done", tuple(Suggestion(box, 0.5) for box in boxes))
        return job

    monkeypatch.setattr(engine, "suggest", suggest)
    return asked


@pytest.mark.parametrize("unit", ["µm", "mm"])
def test_the_next_place_moves_camera_and_sliders(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    unit: str,
) -> None:
    boxes = (((7, 9), (10, 21), (30, 41)), ((1, 2), (40, 51), (0, 11)))
    asked = suggestions(script, engine, monkeypatch, *boxes)
    volume = np.zeros((12, 60, 80), np.uint8)
    dock = make_dock(
        data=volume, name="scan", scale=(2, 0.5, 0.5), translate=(0, 3, 0), units=(unit,) * 3
    )
    dock.selection.choose_model("ct-head-neck")
    if unit == "mm":  # a second layer whose unit is another one
        dock.viewer.add_image(volume, name="other", scale=(1, 1, 1), units=("µm",) * 3)
        dock.selection.choose_layer(dock.viewer.layers["scan"])
    part(dock, "next_region_button").click()
    qtbot.waitUntil(lambda: "place 1 of 2" in status(dock), timeout=WAIT)
    source, request, painted, sink = asked[0]
    assert (source.axes, request.region) == ("ZYX", ((0, 12), (0, 60), (0, 80)))
    assert (painted, sink) == (None, None)
    layer = dock.viewer.layers["scan"]

    def middle() -> list[float]:
        camera = getattr(dock.viewer, "scene", dock.viewer).camera
        world = np.array([dock.viewer.dims.point[0], *camera.center[-2:]])
        per = [float((1 * a).to(b).magnitude) if a != b else 1.0
               for a, b in zip(dock.viewer.dims.units, layer.units, strict=True)]  # fmt: skip
        return [float(v) for v in layer.world_to_data(world * per)]

    z, y, x = middle()
    assert z == 7
    np.testing.assert_allclose((y, x), (15, 35), atol=1e-6)
    part(dock, "next_region_button").click()
    np.testing.assert_allclose(middle(), (1, 45, 5), atol=1e-6)
    assert len(asked) == 1  # the second place was known
    part(dock, "next_region_button").click()
    qtbot.waitUntil(lambda: len(asked) == 2, timeout=WAIT)


def test_nothing_to_suggest_is_said(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = suggestions(script, engine, monkeypatch)
    dock = make_dock(data=blobs, name="cells")
    paint(dock, qtbot, 2)
    part(dock, "next_region_button").click()
    qtbot.waitUntil(lambda: "there is nothing to suggest" in status(dock), timeout=WAIT)
    assert asked[0][2].axes == "YX"  # what is painted is left out
    assert asked[0][2].data.any()


def test_the_map_lies_on_what_is_on_screen_and_follows_it(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = suggestions(script, engine, monkeypatch)
    dock = make_dock(data=blobs, name="cells", scale=(0.5, 0.5))
    camera = getattr(dock.viewer, "scene", dock.viewer).camera
    check, shown = part(dock, "uncertainty_check"), dock.teach.suggesting.map
    check.click()
    qtbot.waitUntil(lambda: shown.layer is not None, timeout=WAIT)
    start = [first for first, _ in asked[-1][1].region]
    assert shown.layer.data.shape == tuple(stop - first for first, stop in asked[-1][1].region)
    np.testing.assert_allclose(shown.layer.data_to_world((0, 0)), np.multiply(start, 0.5))
    assert dock.selection.images() == [dock.viewer.layers["cells"]]
    camera.zoom = 40
    qtbot.waitUntil(lambda: len(asked) == 2, timeout=WAIT)
    qtbot.waitUntil(lambda: shown.layer.data.shape[0] < 96, timeout=WAIT)
    check.click()
    assert not shown.layer.visible
    camera.zoom = 30
    qtbot.wait(400)
    assert len(asked) == 2  # nobody wants it
    dock.viewer.layers.remove(shown.layer)
    check.click()
    qtbot.waitUntil(lambda: shown.layer in dock.viewer.layers, timeout=WAIT)


def test_places_of_another_image_are_dropped(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs: list[Job] = []

    def suggest(source: Any, request: Any, painted: Any = None, sink: Any = None) -> Job:
        jobs.append(Job(100 + len(jobs), "suggest", script.dispatcher, lambda job, dropped: None))
        return jobs[-1]

    monkeypatch.setattr(engine, "suggest", suggest)
    dock = make_dock(data=np.stack([blobs] * 3), name="stack")
    flat = dock.viewer.add_image(blobs, name="flat")
    stack = dock.viewer.layers["stack"]
    camera, suggesting = getattr(dock.viewer, "scene", dock.viewer).camera, dock.teach.suggesting
    place = (Suggestion(((2, 3), (10, 21), (30, 41)), 0.5),) * 2

    def ask() -> None:
        dock.selection.choose_layer(stack)
        part(dock, "next_region_button").click()

    ask()
    dock.selection.choose_layer(flat)
    before = (camera.zoom, tuple(camera.center), tuple(dock.viewer.dims.point))
    jobs[0].finish("done", place)
    qtbot.wait(100)
    assert (camera.zoom, tuple(camera.center), tuple(dock.viewer.dims.point)) == before
    assert suggesting.places == []
    assert "looking" not in status(dock)
    # Coming back, the answer is asked for anew; and one that was heard is of its image alone.
    ask()
    assert len(jobs) == 2
    jobs[1].finish("done", place)
    qtbot.waitUntil(lambda: "place 1 of 2" in status(dock), timeout=WAIT)
    dock.selection.choose_layer(flat)
    assert suggesting.places == []


def test_the_map_comes_back_from_3d(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: np.ndarray,
    script: Script,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suggestions(script, engine, monkeypatch)
    dock = make_dock(data=np.stack([blobs] * 3), name="cells")
    suggesting = dock.teach.suggesting
    part(dock, "uncertainty_check").click()
    qtbot.waitUntil(lambda: suggesting.map.layer is not None, timeout=WAIT)
    dock.viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: not suggesting.map.layer.visible, timeout=WAIT)
    dock.viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: suggesting.map.layer.visible, timeout=WAIT)
    # One that is asked for still is not shown in 3D.
    job = Job(99, "suggest", script.dispatcher, lambda job, dropped: None)
    monkeypatch.setattr(engine, "suggest", lambda *a: job)
    suggesting._map_key = ()
    suggesting.update_map()
    dock.viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: not suggesting.map.layer.visible, timeout=WAIT)
    job.finish("done", ())
    qtbot.wait(100)
    assert not suggesting.map.layer.visible
