"""Result layers: how they look, and whose they are."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image as ImageLayer
from output_helpers import (
    CARD,
    TOUCHES,
    card_of,
    how,
    run,
    show,
    touch_brush,
    touch_fill,
    touch_replace,
)

from napari_unetpp.widget.output import KEY, OutputLayers


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def outputs(viewer):
    made = OutputLayers(viewer)
    yield made
    made.close()


# Looks


def test_labels_have_the_names_and_colours_of_the_card(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8), name="cells")
    layer, sink = outputs.start(image, "YX", CARD, "labels", how())
    sink[0:1, 0:3] = np.array([[0, 1, 2]], np.uint8)
    outputs.finish(layer, {"seconds": 1.5})
    assert layer.name == "cells: labels"
    np.testing.assert_allclose(layer.get_color(1), (1, 0, 0, 1))
    np.testing.assert_allclose(layer.get_color(2), (0, 1, 0, 1))
    assert "class 1" in layer.get_status((0, 2), world=False)["value"]
    assert "background" in layer.get_status((0, 0), world=False)["value"]


def test_objects_are_labels_in_a_cycle_of_colours(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8), name="cells")
    layer, sink = outputs.start(
        image, "YX", card_of(1, auxiliary=("centre",)), "instances", how("instances")
    )
    assert sink.dtype == np.int32
    assert layer.name == "cells: objects"
    assert len({tuple(layer.get_color(k)) for k in range(1, 9)}) == 8


def test_probabilities_are_one_image_for_each_class(viewer, outputs):
    image = viewer.add_image(np.zeros((3, 6, 8), np.uint8), name="cells")
    card = card_of(2, auxiliary=("centre",))
    layer, sink = outputs.start(image, "ZYX", card, "probabilities", how("probabilities"))
    assert sink.axes == "CZYX"
    assert sink.shape == (3, 3, 6, 8)
    block = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) / 4 + np.zeros(
        (3, 1, 2, 2), np.float32
    )
    sink[:, 1:2, 0:2, 4:6] = block
    np.testing.assert_array_equal(sink[:, 1:2, 0:2, 4:6], block)
    outputs.finish(layer, {})
    layers = outputs.layers_of(image)
    assert [x.name for x in layers] == [
        "cells: probability of class 0",
        "cells: probability of class 1",
        "cells: probability of centre",
    ]
    assert all(isinstance(x, ImageLayer) for x in layers)
    assert [float(x.data.max()) for x in layers] == [0.0, 0.25, 0.5]
    assert [x.visible for x in layers] == [True, True, False]
    assert {str(x.blending) for x in layers} == {"additive"}
    assert {tuple(x.contrast_limits) for x in layers} == {(0.0, 1.0)}
    np.testing.assert_allclose(layers[1].colormap.map(np.array([1.0]))[0], (0, 1, 0, 1), atol=1e-6)
    assert layers[0] is layer


def test_provenance_is_plain_json(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    layer, _ = outputs.start(image, "YX", CARD, "labels", how(level="ensemble"))
    assert layer.metadata[KEY]["complete"] is False
    outputs.finish(layer, {"device": "cpu"})
    told = layer.metadata[KEY]
    assert json.loads(json.dumps(told)) == told
    assert told["model"] == "toy"
    assert told["level"] == "ensemble"
    assert told["threshold"] == 0.5
    assert told["live"] is False
    assert told["complete"] is True
    assert told["result"] == {"device": "cpu"}


def test_a_result_does_not_take_the_selection(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    other = viewer.add_image(np.zeros((6, 8), np.uint8))
    viewer.layers.selection.active = image
    outputs.start(image, "YX", CARD, "labels", how())
    assert viewer.layers.selection.active is image
    viewer.layers.selection = {image, other}
    outputs.start(other, "YX", CARD, "labels", how())
    assert set(viewer.layers.selection) == {image, other}


# Whose layer it is


def test_a_second_run_updates_its_own_layer(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image)
    first.opacity = 0.3
    image.scale = (2, 3)
    second = run(outputs, image, 2, level=2)
    assert second is first
    assert len(viewer.layers) == 2
    assert (first.data == 2).all()
    assert first.metadata[KEY]["level"] == 2
    assert first.opacity == 0.3
    np.testing.assert_array_equal(first.scale, (2, 3))
    objects = run(outputs, image, 3, kind="instances")
    assert objects is not first
    assert len(viewer.layers) == 3


def test_another_model_brings_its_own_classes(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image)
    second = run(outputs, image, card=card_of(3, name="other"), model="other", value=3)
    assert second is first
    np.testing.assert_allclose(first.get_color(3), (0, 0, 1, 1))
    assert "class 2" in first.get_status((0, 2), world=False)["value"]


def test_slices_of_equal_runs_gather_in_one_layer(viewer, outputs):
    image = viewer.add_image(np.zeros((3, 6, 8), np.uint8))
    for z in range(2):
        layer, sink = outputs.start(image, "ZYX", CARD, "labels", how())
        sink[z : z + 1, :, :] = np.ones((1, 6, 8), np.uint8)
        outputs.finish(layer, {})
    assert [int(plane.sum()) for plane in layer.data] == [48, 48, 0]
    again, _ = outputs.start(image, "ZYX", CARD, "labels", how(threshold=0.7))
    assert again is layer
    assert not layer.data.any()


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_layer_that_someone_painted_is_never_touched_again(viewer, outputs, touch):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image)
    touch(first)
    kept, told = np.array(first.data), dict(first.metadata)
    second = run(outputs, image, 2, level=2)
    assert second is not first
    assert (second.data == 2).all()
    np.testing.assert_array_equal(first.data, kept)
    assert first.metadata == told
    assert first.visible
    outputs.toggle(image)
    assert first.visible
    assert not second.visible
    assert run(outputs, image, 1) is second


def test_a_brush_that_changes_nothing_leaves_it_ours(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image)
    touch_brush(first)
    assert run(outputs, image) is first


def test_an_image_of_probabilities_with_new_data_is_the_users(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image, kind="probabilities")
    first.data = np.zeros((6, 8), np.float32)
    second = run(outputs, image, kind="probabilities")
    assert second is not first
    assert not first.data.any()


def test_a_result_cannot_be_painted_while_it_is_written(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    layer, _ = outputs.start(image, "YX", CARD, "labels", how())
    assert not layer.editable
    outputs.finish(layer, None)
    assert layer.editable
    assert layer.metadata[KEY]["complete"] is False


def test_a_run_goes_on_beside_a_layer_painted_by_a_script(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    layer, sink = outputs.start(image, "YX", CARD, "labels", how())
    sink[0:3, :] = np.ones((3, 8), np.uint8)
    layer.fill((0, 0), 2)
    painted = np.array(layer.data)
    sink[3:6, :] = np.ones((3, 8), np.uint8)
    outputs.finish(layer, {})
    np.testing.assert_array_equal(layer.data, painted)
    (other,) = outputs.layers_of(image)
    assert other is not layer
    assert (other.data[3:] == 1).all()
    assert other.editable


@pytest.mark.parametrize("touch", [touch_fill, touch_replace])
def test_a_painted_live_layer_is_the_users(viewer, outputs, touch):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    viewer.reset_view()
    first = show(viewer, outputs, image, 1)
    touch(first)
    kept = np.array(first.data)
    second = show(viewer, outputs, image, 2)
    assert second is not first
    np.testing.assert_array_equal(first.data, kept)
    outputs.drop_view(image)
    assert first in viewer.layers
    assert second not in viewer.layers


def test_an_image_of_another_shape_gets_a_new_layer(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image)
    image.data = np.zeros((5, 5), np.uint8)
    second = run(outputs, image)
    assert second is not first
    assert first.data.shape == (6, 8)
    assert second.data.shape == (5, 5)


def test_a_deleted_layer_is_forgotten(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    first = run(outputs, image)
    viewer.layers.remove(first)
    second = run(outputs, image)
    assert second is not first
    assert second in viewer.layers
    live = show(viewer, outputs, image, 1)
    viewer.layers.remove(live)
    assert show(viewer, outputs, image, 1) in viewer.layers
    viewer.layers.remove(image)
    outputs.drop_view(image)
    assert list(viewer.layers) == [second]


def test_two_viewers_are_independent(make_napari_viewer):
    viewers = [make_napari_viewer(), make_napari_viewer()]
    image = ImageLayer(np.zeros((6, 8), np.uint8))
    made = []
    for n, viewer in enumerate(viewers):
        viewer.add_layer(image)
        outputs = OutputLayers(viewer)
        made.append((outputs, run(outputs, image, n + 1)))
    (_, first), (_, second) = made
    assert first is not second
    assert (first.data == 1).all()
    assert (second.data == 2).all()
    assert list(viewers[0].layers) == [image, first]
    for outputs, _ in made:
        outputs.close()


def test_toggle_hides_and_shows_what_was_shown(viewer, outputs):
    image = viewer.add_image(np.zeros((6, 8), np.uint8))
    card = card_of(2, auxiliary=("centre",))
    run(outputs, image, kind="probabilities", card=card)
    labels = run(outputs, image, card=card)
    layers = outputs.layers_of(image)
    assert outputs.toggle(image) is False
    assert not any(x.visible for x in layers)
    assert outputs.toggle(image) is True
    assert [x.visible for x in layers] == [True, True, False, True]
    assert labels.visible
