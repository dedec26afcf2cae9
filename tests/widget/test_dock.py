"""The dock in a real viewer, with the real engine and the real model."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QWidget

from napari_unetpp.cli.main import main
from napari_unetpp.core.data import phantoms
from napari_unetpp.engine.client import Engine
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 120_000  # milliseconds; a loaded machine is no defect


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    return phantoms.nuclei_2d().image[:200, :232]


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def camera(dock: UNetPPWidget) -> Any:
    """Return the camera; napari before 0.9 has no scene."""
    return getattr(dock.viewer, "scene", dock.viewer).camera


def run(dock: UNetPPWidget, qtbot: Any) -> Any:
    """Press Run, wait for the end and return the layer."""
    before = set(dock.viewer.layers)
    assert part(dock, "run_button").isEnabled(), part(dock, "run_button").toolTip()
    part(dock, "run_button").click()
    assert not part(dock, "run_button").isEnabled()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
    new = [x for x in dock.viewer.layers if x not in before]
    return new[0] if new else None


def by_command(tmp_path: Path, image: np.ndarray, *options: str, axes: str = "YX") -> np.ndarray:
    """Return what the command line makes of an image."""
    source, out = tmp_path / "image.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, image, photometric="rgb" if axes.endswith("S") else "minisblack")
    code = main(
        ["segment", str(source), "--model", "nuclei", "--out", str(out), "--axes", axes, *options]
    )
    assert code == 0
    return np.asarray(tifffile.imread(out))


@pytest.mark.parametrize("level", [1, 4])
def test_a_sample_gives_what_the_command_line_gives(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, tmp_path: Path, level: int
) -> None:
    dock = make_dock()
    assert not part(dock, "run_button").isEnabled()  # nothing to run on
    dock.viewer.open_sample("napari-unetpp", "nuclei_2d")
    dock.panel.set_level(level)
    dock.panel.set_region("all")
    layer = run(dock, qtbot)
    image = next(x for x in dock.viewer.layers if x.name == "nuclei 2D")
    expected = by_command(tmp_path, image.data, "--level", str(level))
    assert expected.any()
    np.testing.assert_array_equal(np.asarray(layer.data), expected)
    np.testing.assert_allclose(layer.scale, image.scale)
    assert layer.metadata["napari_unetpp"]["level"] == level


@pytest.mark.parametrize("kind", ["probabilities", "instances"])
def test_every_output_is_that_of_the_command_line(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    tmp_path: Path,
    nuclei: np.ndarray,
    kind: str,
) -> None:
    dock = make_dock(data=nuclei, name="cells")
    dock.panel.set_region("all")
    dock.panel.set_output(kind)
    dock.panel.set_level(2)
    layer = run(dock, qtbot)
    expected = by_command(tmp_path, nuclei, "--level", "2", "--kind", kind)
    if kind == "instances":
        assert expected.max() > 5
        np.testing.assert_array_equal(np.asarray(layer.data), expected)
    else:
        np.testing.assert_allclose(np.asarray(layer.data), expected[0], atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("ZYX", (2, 64, 80)), ("TZYX", (2, 2, 64, 80)), ("CYX", (2, 64, 80)), ("YXS", (64, 80, 3)),
     ("TCYX", (2, 2, 64, 80)), ("YXC", (64, 80, 2))],
)  # fmt: skip
def test_every_order_of_axes(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    tmp_path: Path,
    axes: str,
    shape: tuple[int, ...],
) -> None:
    plane = phantoms.nuclei_2d().image[:64, :80]
    sizes = dict(zip(axes, shape, strict=True))
    ordered = plane.reshape([sizes[a] if a in "YX" else 1 for a in axes])
    gain = np.arange(1, np.prod([n for a, n in sizes.items() if a not in "YX"]) + 1)
    gain = gain.reshape([n if a not in "YX" else 1 for a, n in sizes.items()])
    image = np.broadcast_to(ordered, shape) / plane.max() * 60 * gain
    image = image.clip(0, 255).astype(np.uint8)
    labels = {"axis_labels": tuple(axes.lower())} if "S" not in axes else {}
    dock = make_dock(data=image, rgb="S" in axes, name="cells", **labels)
    assert dock.selection.axes == axes
    dock.panel.set_region("all")
    dock.panel.set_level(1)
    options = ["--level", "1"]
    if "C" in axes:
        dock.panel.set_channels(["0", "1"], 1)
        options += ["--channel", "1"]
    layer = run(dock, qtbot)
    expected = by_command(tmp_path, image, *options, axes=axes)
    np.testing.assert_array_equal(np.asarray(layer.data).squeeze(), expected.squeeze())


def test_a_result_lies_on_its_image(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    turned = {"scale": (0.5, 0.25), "translate": (10, -3), "rotate": 30, "shear": [0.2]}
    dock = make_dock(data=nuclei, name="cells", units=("µm", "µm"), **turned)
    dock.panel.set_region("all")
    dock.panel.set_level(1)
    layer = run(dock, qtbot)
    image = dock.selection.layer
    for point in ((0, 0), (199, 231), (17, 200)):
        np.testing.assert_allclose(layer.data_to_world(point), image.data_to_world(point))
    assert layer.units == image.units


def test_a_region_is_the_same_part_of_the_whole(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    stack = np.stack([nuclei, nuclei[::-1], nuclei.T[:200, :].repeat(2, axis=1)[:, :232]])
    dock = make_dock(data=stack, name="cells", axis_labels=("t", "y", "x"))
    dock.panel.set_level(2)
    dock.viewer.dims.set_current_step(0, 1)
    dock.panel.set_region("slice")
    layer = run(dock, qtbot)
    one = np.array(layer.data)
    assert one[1].any()
    assert not one[[0, 2]].any()
    dock.panel.set_region("all")
    assert run(dock, qtbot) is None  # the same layer
    np.testing.assert_array_equal(np.asarray(layer.data)[1], one[1])
    assert np.asarray(layer.data)[0].any()


def live_layer(dock: UNetPPWidget) -> Any:
    found = [
        x
        for x in dock.viewer.layers
        if x.metadata.get("napari_unetpp", {}).get("live") and x.visible
    ]
    return found[0] if found else None


def wait_for_level(dock: UNetPPWidget, qtbot: Any, level: int | str) -> None:
    qtbot.waitUntil(
        lambda: (
            dock.live.view is not None
            and dock.live.job is None
            and level in dock.live.view.levels
            and bool(dock.live.view.shown)
        ),
        timeout=WAIT,
    )


def test_live_follows_pan_slider_and_threshold(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, engine: Engine
) -> None:
    image = phantoms.nuclei_2d().image
    dock = make_dock(data=image, name="cells", live=True)
    dock.panel.set_level(3)
    camera(dock).zoom = 4
    wait_for_level(dock, qtbot, 3)
    layer = live_layer(dock)
    assert layer.metadata["napari_unetpp"]["level"] == 3
    third = np.array(layer.data)
    assert third.any()

    # To a level that is known: shown at once, without the worker.
    before = engine.jobs_started
    part(dock, "level_slider").setValue(1)
    assert live_layer(dock).metadata["napari_unetpp"]["level"] == 1
    first = np.array(live_layer(dock).data)
    assert (first != third).any()
    part(dock, "level_slider").setValue(3)
    np.testing.assert_array_equal(live_layer(dock).data, third)
    # The threshold acts on kept probabilities.
    dock.panel.threshold_changed.emit(0.5)
    dock.panel.set_threshold(0.9)
    dock.panel.threshold_changed.emit(0.9)
    assert 0 < np.count_nonzero(live_layer(dock).data) < np.count_nonzero(third)
    qtbot.wait(200)
    assert engine.jobs_started == before

    # Deeper: the missing level alone.
    part(dock, "level_slider").setValue(4)
    wait_for_level(dock, qtbot, 4)
    assert engine.jobs_started == before + 1

    # Elsewhere: a new view.
    old, view = live_layer(dock).data_to_world((0, 0)), dock.live.view
    camera(dock).center = (0, image.shape[0] * 0.75, image.shape[1] * 0.75)
    qtbot.waitUntil(lambda: dock.live.view is not view, timeout=WAIT)
    wait_for_level(dock, qtbot, 4)
    assert live_layer(dock).data_to_world((0, 0)) != old


def test_live_shows_what_a_run_gives(make_dock: Callable[..., UNetPPWidget], qtbot: Any) -> None:
    image = phantoms.nuclei_2d().image
    dock = make_dock(data=image, name="cells", live=True)
    dock.panel.set_level(2)
    camera(dock).zoom = 6
    wait_for_level(dock, qtbot, 2)
    view = np.array(live_layer(dock).data)
    assert view.any()
    start = np.round(live_layer(dock).data_to_world((0, 0))).astype(int)
    dock.panel.set_region("all")
    layer = run(dock, qtbot)
    part = tuple(slice(a, a + n) for a, n in zip(start, view.shape, strict=True))
    np.testing.assert_array_equal(view, np.asarray(layer.data)[part])


def test_nothing_blocks_the_window(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetpp.widget import live as live_module
    from napari_unetpp.widget import relay as relay_module

    blocks: list[float] = []

    def timed(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            # The thread's own time: what other programs take of the machine does not count.
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                blocks.append(time.thread_time() - start)

        return call

    monkeypatch.setattr(relay_module.Relay, "_call", timed(relay_module.Relay._call))
    monkeypatch.setattr(live_module.Live, "update", timed(live_module.Live.update))
    monkeypatch.setattr(live_module.Live, "_moved", timed(live_module.Live._moved))
    monkeypatch.setattr(live_module.Live, "_level_moved", timed(live_module.Live._level_moved))
    monkeypatch.setattr(UNetPPWidget, "_review", timed(UNetPPWidget._review))
    tile = phantoms.nuclei_2d().image
    image = np.tile(tile, (4, 4))
    dock = make_dock(data=image, name="cells", live=True)
    dock.panel.set_level(2)
    wait_for_level(dock, qtbot, 2)
    blocks.clear()  # napari makes the live layer once, which takes it tenths of a second
    for step in range(12):
        camera(dock).center = (0, 300 + 20 * step, 300 + 20 * step)
        qtbot.wait(40)
    wait_for_level(dock, qtbot, 2)
    for level in (1, 2, 1, 2):
        part(dock, "level_slider").setValue(level)
    assert len(blocks) > 12
    assert max(blocks) < 0.05, f"{max(blocks) * 1e3:.0f} ms"


def test_cancel_leaves_what_is_done(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    dock = make_dock(data=np.tile(nuclei, (12, 8, 8)), name="cells")
    dock.panel.set_region("all")
    dock.panel.set_level(4)
    part(dock, "run_button").click()
    qtbot.waitUntil(lambda: part(dock, "progress_bar").value() > 0, timeout=WAIT)
    assert part(dock, "cancel_button").isEnabled()
    part(dock, "cancel_button").click()
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=5000)
    assert "cancelled" in part(dock, "status_label").text()
    assert part(dock, "run_button").isEnabled()
    dock.panel.set_region("slice")
    dock.panel.set_level(1)
    run(dock, qtbot)
    assert "done" in part(dock, "status_label").text()


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_a_worker_that_is_killed_is_told_and_replaced(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray, engine: Engine
) -> None:
    dock = make_dock(data=np.tile(nuclei, (12, 8, 8)), name="cells")
    dock.panel.set_region("all")
    dock.panel.set_level(4)
    part(dock, "run_button").click()
    qtbot.waitUntil(lambda: part(dock, "progress_bar").value() > 0, timeout=WAIT)
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
    assert "SIGKILL" in part(dock, "status_label").text()
    assert part(dock, "run_button").isEnabled()
    dock.panel.set_region("slice")
    dock.panel.set_level(1)
    run(dock, qtbot)
    assert "done" in part(dock, "status_label").text()


def test_images_come_and_go(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    dock = make_dock()
    layer = dock.viewer.add_image(np.tile(nuclei, (12, 8, 8)), name="late")
    assert dock.selection.layer is layer
    dock.panel.set_region("all")
    dock.panel.set_level(4)
    part(dock, "run_button").click()
    qtbot.waitUntil(lambda: part(dock, "progress_bar").value() > 0, timeout=WAIT)
    dock.viewer.layers.remove(layer)
    qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
    assert "The image was removed" in part(dock, "status_label").text()
    assert not part(dock, "run_button").isEnabled()
    assert dock.selection.layer is None
    other = dock.viewer.add_image(nuclei, name="other")
    dock.panel.set_level(1)
    assert run(dock, qtbot) is not None
    assert dock.selection.layer is other


def test_a_painted_result_is_left_alone(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    dock = make_dock(data=nuclei, name="cells")
    dock.panel.set_region("all")
    dock.panel.set_level(1)
    layer = run(dock, qtbot)
    layer.selected_label = 1
    layer.paint((5, 5), 1)
    painted = np.array(layer.data)
    dock.panel.set_level(2)
    second = run(dock, qtbot)
    assert second is not None
    np.testing.assert_array_equal(layer.data, painted)


def test_two_viewers_do_not_meet(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, nuclei: np.ndarray
) -> None:
    first = make_dock(data=nuclei, name="one")
    second = make_dock(data=nuclei[::-1], name="two", own=Engine())
    try:
        for dock in (first, second):
            dock.panel.set_region("all")
            dock.panel.set_level(1)
            part(dock, "run_button").click()
        for dock in (first, second):
            qtbot.waitUntil(lambda dock=dock: not dock.runner.running, timeout=WAIT)
            assert "done" in part(dock, "status_label").text()
            assert len(dock.viewer.layers) == 2
        results = [d.viewer.layers[-1].data for d in (first, second)]
        assert (np.asarray(results[0]) != np.asarray(results[1])).any()
    finally:
        second.engine.close()


@pytest.mark.slow  # by a real limit, at which anything may be the first that fails
def test_memory_that_runs_out_is_told(make_dock: Callable[..., UNetPPWidget], qtbot: Any) -> None:
    own = Engine(memory_limit=1_600_000_000)
    try:
        dock = make_dock(data=np.zeros((6000, 6000), np.float32), name="large", own=own)
        dock.panel.set_region("all")
        dock.panel.set_output("instances")  # keeps the plane's probabilities
        dock.panel.set_level(1)
        part(dock, "run_button").click()
        qtbot.waitUntil(lambda: not dock.runner.running, timeout=WAIT)
        assert "memory" in part(dock, "status_label").text()
        assert part(dock, "run_button").isEnabled()
    finally:
        own.close()
