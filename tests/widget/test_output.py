from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Image as ImageLayer
from napari.layers import Labels

from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.widget.output import KEY, OutputLayers, Provenance
from napari_unetpp.widget.screen import on_screen


def card_of(classes=2, axes="YX", auxiliary=(), name="toy"):
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    return ModelCard(
        name=name,
        network=NetworkConfig(
            ndim=len(axes), out_channels=classes + len(auxiliary), filters=(2, 4)
        ),
        classes=tuple(ClassInfo(f"class {k}", colours[k]) for k in range(classes)),
        auxiliary=auxiliary,
        axes=axes,
        instances=InstanceRule() if auxiliary else None,
        levels_trained=(1,),
    )


CARD = card_of()


def how(kind="labels", **changes):
    values = {
        "model": "toy",
        "model_sha": "abc",
        "level": 1,
        "threshold": 0.5,
        "kind": kind,
        "version": "1.0",
        **changes,
    }
    return Provenance(**values)


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.fixture
def outputs(viewer):
    made = OutputLayers(viewer)
    yield made
    made.close()


def transforms(random, ndim, *, planar=False):
    """Return random transforms; planar ones turn nothing out of the last two axes."""
    n = 2 if planar else ndim
    rotate, shear, affine = np.eye(ndim), np.eye(ndim), np.eye(ndim + 1)
    rotate[-n:, -n:] = np.linalg.qr(random.normal(size=(n, n)))[0]
    shear[-n:, -n:] += np.triu(random.normal(scale=0.3, size=(n, n)), k=1)
    affine[-n - 1 : -1, -n - 1 : -1] += random.normal(scale=0.2, size=(n, n))
    affine[:-1, -1] = random.normal(scale=20, size=ndim)
    return {
        "scale": random.uniform(0.3, 3, ndim),
        "translate": random.normal(scale=10, size=ndim),
        "rotate": rotate,
        "shear": shear,
        "affine": affine,
    }


def world(layer, index):
    return np.asarray(layer.data_to_world(np.asarray(index, dtype=float)))


def assert_same_place(layer, image, pairs):
    for own, theirs in pairs:
        np.testing.assert_allclose(world(layer, own), world(image, theirs), atol=1e-9)


# Placing


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")
@pytest.mark.parametrize("seed", range(4))
def test_a_whole_result_lies_on_its_image(viewer, outputs, seed):
    random = np.random.default_rng(seed)
    image = viewer.add_image(
        np.zeros((4, 6, 8), np.uint8),
        units=("um",) * 3,
        axis_labels=("z", "y", "x"),
        **transforms(random, 3),
    )
    layer, sink = outputs.start(image, "ZYX", CARD, "labels", how())
    assert sink.shape == (4, 6, 8)
    assert sink.dtype == np.uint8
    assert isinstance(layer, Labels)
    assert layer.units == image.units
    assert layer.axis_labels == image.axis_labels
    for name in ("scale", "translate", "rotate"):
        np.testing.assert_allclose(getattr(layer, name), getattr(image, name), atol=1e-12)
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (3, 5, 7)
    assert_same_place(layer, image, [(c, c) for c in corners])


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")
@pytest.mark.parametrize("mixed", [False, True])
def test_a_channel_axis_in_front_is_dropped(viewer, outputs, mixed):
    random = np.random.default_rng(5)
    values = transforms(random, 4) if mixed else transforms(random, 4, planar=True)
    image = viewer.add_image(
        np.zeros((2, 4, 6, 8), np.uint8),
        axis_labels=tuple("czyx"),
        units=("px", *("um",) * 3),
        **values,
    )
    layer, _ = outputs.start(image, "CZYX", CARD, "labels", how())
    assert layer.data.shape == (4, 6, 8)
    assert layer.axis_labels == ("z", "y", "x")
    assert [str(u) for u in layer.units] == ["micrometer"] * 3
    for index in [(0, 0, 0), (3, 5, 7), (1, 5, 0)]:
        expected = world(image, (0, *index))[1:]
        np.testing.assert_allclose(world(layer, index), expected, atol=1e-9)


def test_a_channel_axis_in_the_middle_is_stretched(viewer, outputs):
    image = viewer.add_image(
        np.zeros((3, 2, 6, 8), np.uint8), axis_labels=tuple("tcyx"), scale=(60, 1, 0.5, 0.5)
    )
    layer, sink = outputs.start(image, "TCYX", CARD, "labels", how())
    sink[:, :, :] = np.arange(1, 4).reshape(3, 1, 1)
    outputs.finish(layer, {})
    assert sink.shape == (3, 6, 8)
    assert layer.data.shape == (3, 1, 6, 8)
    # Whatever the channel, the slider of time shows its own frame.
    for channel in (0, 1):
        for frame in range(3):
            viewer.dims.set_current_step((0, 1), (frame, channel))
            assert (layer._slice.image.raw == frame + 1).all()
    np.testing.assert_allclose(
        world(layer, (2, 0, 5, 7))[[0, 2, 3]], world(image, (2, 0, 5, 7))[[0, 2, 3]]
    )


def test_pictures_and_axes_in_another_order(viewer, outputs):
    picture = viewer.add_image(np.zeros((6, 8, 3), np.uint8), rgb=True, rotate=30)
    layer, sink = outputs.start(picture, "YXS", CARD, "labels", how())
    assert sink.shape == (6, 8)
    assert_same_place(layer, picture, [((0, 0), (0, 0)), ((5, 7), (5, 7))])
    turned = viewer.add_image(np.zeros((8, 6, 4), np.uint8), scale=(1, 2, 3))
    layer, sink = outputs.start(turned, "XYZ", CARD, "labels", how())
    assert sink.axes == "ZYX"
    assert sink.shape == (4, 6, 8)
    sink[3:4, 5:6, 1:3] = np.array([[[1, 2]]], np.uint8)
    assert layer.data.shape == (8, 6, 4)
    assert layer.data[1, 5, 3] == 1
    assert layer.data[2, 5, 3] == 2
    assert np.count_nonzero(layer.data) == 2
    assert_same_place(layer, turned, [((7, 5, 3), (7, 5, 3))])


@pytest.mark.parametrize("seed", range(4))
def test_a_view_lies_on_its_part_of_the_image(viewer, outputs, seed):
    random = np.random.default_rng(seed)
    image = viewer.add_image(np.zeros((5, 60, 80), np.uint8), **transforms(random, 3, planar=True))
    viewer.dims.set_point(0, world(image, (3, 0, 0))[0])
    camera = viewer.scene.camera
    camera.center, camera.zoom = world(image, (3, 30, 40)), 30
    shown = on_screen(viewer, image, "ZYX", model_axes="YX", max_pixels=60)
    (z, _), (top, bottom), (left, right) = shown.region
    assert z == 3
    assert shown.clipped
    data = np.ones((bottom - top, right - left), np.uint8)
    layer = outputs.show_view(image, shown, "labels", data, CARD, how(live=True))
    assert layer.data.shape == (1, bottom - top, right - left)
    ends = [(0, 0), (0, right - left - 1), (bottom - top - 1, 0)]
    assert_same_place(layer, image, [((0, y, x), (3, y + top, x + left)) for y, x in ends])
    assert (layer._slice.image.raw == 1).all()
    viewer.dims.set_point(0, world(image, (4, 0, 0))[0])
    assert layer._slice.empty


def test_a_view_of_a_coarse_level_lies_as_napari_draws_it(viewer, outputs):
    full = np.zeros((4, 64, 96), np.uint8)
    image = viewer.add_image(
        [full, full[:2, ::4, ::4]], multiscale=True, scale=(2, 0.5, 0.5), rotate=30
    )
    image.locked_data_level = 1
    viewer.dims.set_point(0, world(image, (3, 0, 0))[0])
    camera = viewer.scene.camera
    camera.center, camera.zoom = world(image, (3, 32, 48)), 100
    shown = on_screen(viewer, image, "ZYX", model_axes="YX", max_pixels=10**6)
    (z, _), (top, bottom), (left, right) = shown.region
    assert (z, shown.downsampling) == (1, (2.0, 4.0, 4.0))
    data = np.ones((1, bottom - top, right - left), np.uint8)
    layer = outputs.show_view(image, shown, "labels", data, CARD, how(live=True))
    # Pixel k of the level covers 4k to 4k + 3 of full resolution, its centre is 4k + 1.5.
    first = world(image, (3, 4 * top + 1.5, 4 * left + 1.5))
    np.testing.assert_allclose(world(layer, (0, 0, 0))[1:], first[1:], atol=1e-9)
    last = world(image, (3, 4 * bottom - 4 + 1.5, 4 * right - 4 + 1.5))
    ends = (0, bottom - top - 1, right - left - 1)
    np.testing.assert_allclose(world(layer, ends)[1:], last[1:], atol=1e-9)
    # The result is there where napari shows slice 1 of the level, and is gone beside it.
    for step, visible in [(0, False), (2, True), (3, True)]:
        viewer.dims.set_current_step(0, step)
        now = on_screen(viewer, image, "ZYX", model_axes="YX", max_pixels=10**6)
        assert (now.region[0][0] == 1) is visible
        assert layer._slice.empty is not visible


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


def run(outputs, image, value=1, kind="labels", axes="YX", card=CARD, **changes):
    layer, sink = outputs.start(image, axes, card, kind, how(kind, **changes))
    sink[tuple(slice(None) for _ in sink.shape)] = value
    outputs.finish(layer, {})
    return layer


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


def touch_brush(layer):
    layer.paint((2, 2), 1)


def touch_fill(layer):
    layer.fill((2, 2), 2)


def touch_erase(layer):
    layer.mode = "erase"
    layer.paint((2, 2), 0)


def touch_polygon(layer):
    layer.paint_polygon([(1, 1), (1, 4), (4, 4)], 2)


def touch_undo(layer):
    layer.paint((2, 2), 2)
    layer.undo()


def touch_items(layer):
    layer.data_setitem((np.array([2]), np.array([2])), 2)


def touch_replace(layer):
    layer.data = np.full(layer.data.shape, 2, layer.data.dtype)


TOUCHES = [touch_fill, touch_erase, touch_polygon, touch_undo, touch_items, touch_replace]


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


# The live layer


def show(viewer, outputs, image, value, kind="labels", card=CARD, axes="YX"):
    shown = on_screen(viewer, image, axes, model_axes="YX", max_pixels=10**7)
    shape = [stop - start for start, stop in shown.region]
    if kind == "probabilities":
        data = np.full([len(card.channel_names), *shape], value, np.float32)
    else:
        data = np.full(shape, value, np.uint8 if kind == "labels" else np.int32)
    return outputs.show_view(image, shown, kind, data, card, how(kind, live=True))


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
