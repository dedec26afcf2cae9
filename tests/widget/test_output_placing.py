"""Result layers lie exactly where their image lies."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("napari")

from napari.layers import Labels
from output_helpers import CARD, how

from napari_unetpp.widget.output import OutputLayers
from napari_unetpp.widget.screen import on_screen


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
