"""The live layer, large results on disk, and how often a layer is drawn."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")


from output_helpers import CARD, card_of, how, run, show

from napari_unetpp.widget.output import KEY, OutputLayers
from napari_unetpp.widget.screen import on_screen


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def outputs(viewer):
    made = OutputLayers(viewer)
    yield made
    made.close()


# The live layer


def test_the_live_layer_follows_the_view(viewer, outputs):
    image = viewer.add_image(np.zeros((600, 800), np.uint8), name="cells")
    viewer.reset_view()
    layer = show(viewer, outputs, image, 1)
    assert layer.name == "cells: live labels"
    assert layer.data.shape == (600, 800)
    viewer.scene.camera.zoom = 10
    again = show(viewer, outputs, image, 2)
    assert again is layer
    assert layer.data.shape != (600, 800)
    assert (layer.data == 2).all()
    assert (layer._slice.image.raw == 2).all()
    assert layer.metadata[KEY]["live"] is True
    # Results of the whole image are another layer.
    assert run(outputs, image) is not layer


def test_another_kind_takes_the_place_of_the_live_layer(viewer, outputs):
    image = viewer.add_image(np.zeros((60, 80), np.uint8))
    card = card_of(2, auxiliary=("centre",))
    labels = show(viewer, outputs, image, 1, card=card)
    show(viewer, outputs, image, 0.5, kind="probabilities", card=card)
    layers = outputs.layers_of(image)
    assert [x.visible for x in layers] == [False, True, True, False]
    # Toggling concerns what is shown now.
    outputs.toggle(image)
    outputs.toggle(image)
    assert [x.visible for x in layers] == [False, True, True, False]
    assert show(viewer, outputs, image, 2, card=card) is labels
    assert [x.visible for x in layers] == [True, False, False, False]
    outputs.hide_view(image)
    assert not any(x.visible for x in layers)
    show(viewer, outputs, image, 2, card=card)
    assert [x.visible for x in layers] == [True, False, False, False]
    outputs.drop_view(image)
    assert list(viewer.layers) == [image]


def test_a_live_layer_that_someone_hid_stays_hidden(viewer, outputs):
    image = viewer.add_image(np.zeros((60, 80), np.uint8))
    layer = show(viewer, outputs, image, 1)
    layer.visible = False
    assert show(viewer, outputs, image, 2) is layer
    outputs.hide_view(image)
    show(viewer, outputs, image, 1)
    assert not layer.visible


def test_a_view_does_not_keep_the_callers_array(viewer, outputs):
    image = viewer.add_image(np.zeros((60, 80), np.uint8))
    shown = on_screen(viewer, image, "YX", model_axes="YX", max_pixels=10**7)
    data = np.ones([stop - start for start, stop in shown.region], np.uint8)
    layer = outputs.show_view(image, shown, "labels", data, CARD, how(live=True))
    data[:] = 2
    assert (layer.data == 1).all()
    layer.data[:] = 0
    assert (data == 2).all()


# Large results and drawing


def test_a_large_result_is_on_disk_until_it_is_no_longer_used(viewer):
    outputs = OutputLayers(viewer, memory_limit=1000)
    image = viewer.add_image(np.zeros((3, 60, 80), np.uint8))
    layer, sink = outputs.start(image, "ZYX", CARD, "labels", how())
    assert not isinstance(layer.data, np.ndarray)
    folder = Path(layer.metadata[KEY]["storage"]["folder"])
    assert "removed" in layer.metadata[KEY]["storage"]["note"]
    assert folder.is_dir()
    sink[1:2, 10:20, 30:40] = np.full((1, 10, 10), 2, np.uint8)
    outputs.finish(layer, {})
    viewer.dims.set_current_step(0, 1)
    assert int(np.asarray(layer.data[1]).sum()) == 200
    assert int(layer._slice.image.raw.sum()) == 200
    assert layer.metadata[KEY]["storage"]["folder"] == str(folder)
    layer.fill((1, 12, 32), 1)
    assert outputs.layers_of(image) == []
    viewer.layers.remove(layer)
    outputs.close()
    del layer, sink
    gc.collect()
    deadline = time.monotonic() + 5
    while folder.exists() and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.05)
    assert not folder.exists()


def test_refreshes_are_throttled_and_the_last_one_happens(viewer, outputs, qtbot):
    image = viewer.add_image(np.zeros((60, 80), np.uint8))
    layer, sink = outputs.start(image, "YX", CARD, "labels", how())
    drawn = []
    layer.events.set_data.connect(lambda event: drawn.append(int(layer._slice.image.raw.sum())))
    began = time.monotonic()
    for row in range(60):
        sink[row : row + 1, :] = np.ones((1, 80), np.uint8)
        outputs.refresh(layer)
        qtbot.wait(5)
    spent = time.monotonic() - began
    assert 1 <= len(drawn) <= spent / 0.25 + 2
    qtbot.waitUntil(lambda: drawn[-1] == 4800, timeout=2000)


def test_what_the_sliders_do_not_show_is_not_drawn(viewer, outputs, qtbot):
    image = viewer.add_image(np.zeros((5, 60, 80), np.uint8))
    layer, _ = outputs.start(image, "ZYX", CARD, "labels", how())
    drawn = []
    layer.events.set_data.connect(lambda event: drawn.append(1))
    viewer.dims.set_current_step(0, 3)
    drawn.clear()
    outputs.refresh(layer, (slice(0, 1), slice(0, 60), slice(0, 80)))
    qtbot.wait(400)
    assert drawn == []
    outputs.refresh(layer, (slice(3, 4), slice(0, 60), slice(0, 80)))
    qtbot.waitUntil(lambda: drawn == [1], timeout=1000)
