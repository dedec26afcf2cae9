from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_unetpp.widget.screen import OnScreen, on_screen, run_region, slice_region


def seen(viewer, layer, axes, model_axes="YX", max_pixels=10**9):
    return on_screen(viewer, layer, axes, model_axes=model_axes, max_pixels=max_pixels)


def look(viewer, y, x, zoom):
    camera = viewer.scene.camera
    camera.center, camera.zoom = (0, y, x), zoom


def brute_force(viewer, layer):
    """Return the box around all pixels whose centre lies on the canvas, (start, stop) for Y, X."""
    height, width = viewer.canvas.viewbox_size(viewer.layers)
    camera = viewer.scene.camera
    rows, columns = np.indices(layer.data.shape[-2:])
    at = np.array(viewer.dims.point)
    points = np.stack([rows.ravel(), columns.ravel()], axis=1)
    world = np.empty(points.shape)
    for n, point in enumerate(points):
        index = [*np.round(layer.world_to_data(at))[:-2], *point]
        world[n] = layer.data_to_world(index)[-2:]
    inside = np.abs(world - camera.center[-2:]) <= np.array([height, width]) / 2 / camera.zoom
    found = points[inside.all(axis=1)]
    return tuple(zip(found.min(axis=0), found.max(axis=0) + 1, strict=True))


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


def test_the_whole_image_when_it_is_smaller_than_the_canvas(viewer):
    layer = viewer.add_image(np.zeros((30, 40), np.uint8))
    shown = seen(viewer, layer, "YX")
    assert isinstance(shown, OnScreen)
    assert shown.region == ((0, 30), (0, 40))
    assert shown.downsampling == (1.0, 1.0)
    assert not shown.clipped
    assert shown.source.data is layer.data
    assert shown.axes == "YX"


def test_the_canvas_corners_are_those_of_napari(viewer):
    layer = viewer.add_image(np.zeros((3000, 4000), np.uint8), scale=(0.5, 0.25))
    look(viewer, 700, 500, 3.7)
    corners = viewer.window._qt_viewer.canvas._viewbox_corners_in_world
    expected = corners / (0.5, 0.25)
    (top, bottom), (left, right) = seen(viewer, layer, "YX").region
    np.testing.assert_allclose([top, left], expected[0], atol=1)
    np.testing.assert_allclose([bottom, right], expected[1], atol=1)


@pytest.mark.parametrize("seed", range(6))
def test_any_transform_in_the_plane(viewer, seed):
    random = np.random.default_rng(seed)
    turned = np.eye(3)
    turned[:2, :2] = np.eye(2) + random.normal(scale=0.2, size=(2, 2))
    turned[:2, 2] = random.normal(scale=20, size=2)
    layer = viewer.add_image(
        np.zeros((60, 90), np.uint8),
        scale=random.uniform(0.3, 3, 2) * random.choice([-1, 1], 2),
        translate=random.normal(scale=10, size=2),
        rotate=float(random.uniform(0, 360)),
        shear=[float(random.uniform(-0.5, 0.5))],
        affine=turned,
    )
    inside = layer.data_to_world(random.uniform(10, 50, 2))
    look(viewer, *inside, zoom=float(random.uniform(15, 40)))
    region = seen(viewer, layer, "YX").region
    for (start, stop), (low, high) in zip(region, brute_force(viewer, layer), strict=True):
        # The box holds every pixel on screen, and no more than those partly on it.
        assert low - 1 <= start <= low
        assert high <= stop <= high + 1


def test_a_corner_of_the_canvas_far_from_a_turned_image_does_not_count(viewer):
    layer = viewer.add_image(np.zeros((100, 100), np.uint8), rotate=45)
    # A small window beyond the corner of the image's bounding box touches nothing of it.
    corner = np.array(layer.data_to_world((0, 0)))
    look(viewer, *(corner + np.array([30, 10])), zoom=60)
    assert "out of view" in seen(viewer, layer, "YX")
    look(viewer, *(corner + np.array([0, 8])), zoom=60)
    assert isinstance(seen(viewer, layer, "YX"), OnScreen)


def test_the_position_on_the_other_axes(viewer):
    layer = viewer.add_image(
        np.zeros((3, 2, 5, 30, 40), np.uint8), scale=(60, 1, 2, 0.5, 0.5), translate=(0, 0, 6, 0, 0)
    )
    viewer.dims.set_point((0, 1, 2), (120, 1, 12))
    shown = seen(viewer, layer, "TCZYX")
    assert shown.axes == "TZYX"
    assert shown.region == ((2, 3), (3, 4), (0, 30), (0, 40))
    assert len(shown.downsampling) == 4
    volume = seen(viewer, layer, "TCZYX", model_axes="ZYX")
    assert volume.region == shown.region


def test_a_picture_has_no_region_for_its_samples(viewer):
    layer = viewer.add_image(np.zeros((4, 30, 40, 3), np.uint8), rgb=True)
    viewer.dims.set_current_step(0, 1)
    assert seen(viewer, layer, "TYXS").region == ((1, 2), (0, 30), (0, 40))


def test_a_layer_of_fewer_axes_than_the_world(viewer):
    viewer.add_image(np.zeros((7, 60, 60), np.uint8))
    layer = viewer.add_image(np.zeros((30, 40), np.uint8))
    viewer.dims.set_current_step(0, 5)
    assert seen(viewer, layer, "YX").region == ((0, 30), (0, 40))


def test_axes_in_another_order(viewer):
    layer = viewer.add_image(np.zeros((50, 40, 7), np.uint8), axis_labels=("x", "y", "z"))
    assert "shows YZ" in seen(viewer, layer, "XYZ")
    viewer.dims.order = (2, 1, 0)
    viewer.dims.set_current_step(2, 4)
    assert seen(viewer, layer, "XYZ").region == ((0, 50), (0, 40), (4, 5))
    # Transposed on screen: rows of the canvas are columns of the image.
    look(viewer, 20, 25, zoom=60)
    (left, right), (top, bottom), _ = seen(viewer, layer, "XYZ").region
    height, width = viewer.canvas.size
    assert right - left == pytest.approx(width / 60, abs=2)
    assert bottom - top == pytest.approx(height / 60, abs=2)


def test_reasons(viewer):
    layer = viewer.add_image(np.zeros((5, 30, 40), np.uint8), name="cells")
    other = viewer.add_image(np.zeros((20, 30, 40), np.uint8))
    viewer.dims.set_current_step(0, 9)
    assert "nothing at this place of the Z slider" in seen(viewer, layer, "ZYX")
    viewer.dims.set_current_step(0, 4)
    assert isinstance(seen(viewer, layer, "ZYX"), OnScreen)
    assert "no Z axis" in seen(viewer, layer, "TYX", model_axes="ZYX")
    look(viewer, 5000, 20, 1)
    assert "cells is out of view" in seen(viewer, layer, "ZYX")
    viewer.reset_view()
    viewer.dims.ndisplay = 3
    assert "switch 3D display off" in seen(viewer, layer, "ZYX")
    viewer.dims.ndisplay = 2
    viewer.dims.order = (1, 0, 2)
    assert "shows ZX of cells" in seen(viewer, layer, "ZYX")
    viewer.dims.order = (0, 1, 2)
    viewer.layers.remove(layer)
    assert "not in this viewer" in seen(viewer, layer, "ZYX")
    assert "\n" not in seen(viewer, layer, "ZYX")
    assert isinstance(seen(viewer, other, "ZYX"), OnScreen)


@pytest.mark.filterwarnings("ignore:Non-orthogonal slicing:UserWarning")
def test_an_image_tilted_against_the_screen_is_refused(viewer):
    layer = viewer.add_image(np.zeros((5, 30, 40), np.uint8), rotate=(0, 20, 0))
    assert "tilted" in seen(viewer, layer, "ZYX")


def test_the_middle_of_a_large_view(viewer):
    layer = viewer.add_image(np.zeros((2000, 3000), np.uint8))
    viewer.reset_view()
    shown = seen(viewer, layer, "YX", max_pixels=600 * 900)
    (top, bottom), (left, right) = shown.region
    assert shown.clipped
    assert (bottom - top, right - left) == (600, 900)
    assert (top, left) == (700, 1050)
    assert seen(viewer, layer, "YX", max_pixels=6_000_000).clipped is False
    thin = viewer.add_image(np.zeros((1, 3000), np.uint8))
    assert seen(viewer, thin, "YX", max_pixels=100).region == ((0, 1), (1450, 1550))


@pytest.mark.parametrize("pixels", [1, 2, 7, 100, 12345])
def test_the_middle_is_never_larger_than_allowed(viewer, pixels):
    layer = viewer.add_image(np.zeros((333, 1777), np.uint8))
    (top, bottom), (left, right) = seen(viewer, layer, "YX", max_pixels=pixels).region
    assert 1 <= (bottom - top) * (right - left) <= pixels


def test_the_level_that_is_displayed(viewer):
    full = np.zeros((4, 2000, 3000), np.uint8)
    levels = [full, full[:, ::2, ::2], full[:2, ::8, ::8]]
    layer = viewer.add_image(levels, multiscale=True, scale=(2, 0.5, 0.5), units=("um",) * 3)
    viewer.reset_view()
    layer.data_level = 2
    viewer.dims.set_current_step(0, 3)
    shown = seen(viewer, layer, "ZYX")
    assert shown.source.data.shape == (2, 250, 375)
    assert shown.region == ((1, 2), (0, 250), (0, 375))
    assert shown.downsampling == (2.0, 8.0, 8.0)
    assert shown.source.spacing == (4.0, 4.0, 4.0)
    look(viewer, 500, 750, 8)
    layer.data_level = 1
    (_, (top, bottom), (left, right)) = seen(viewer, layer, "ZYX").region
    height, width = viewer.canvas.size
    np.testing.assert_allclose(
        [top, bottom, left, right],
        [500 - height / 16, 500 + height / 16, 750 - width / 16, 750 + width / 16],
        atol=1.5,
    )
    assert run_region(seen(viewer, layer, "ZYX"), full.shape, "ZYX") == (
        (3, 4),
        (top * 2, bottom * 2),
        (left * 2, right * 2),
    )


def test_units_of_layer_and_viewer_may_differ(viewer):
    micro = viewer.add_image(np.zeros((100, 100), np.uint8), units=("um", "um"))
    nano = viewer.add_image(np.zeros((50, 50), np.uint8), units=("nm", "nm"), scale=(2000, 2000))
    assert [str(unit) for unit in viewer.dims.units] == ["nanometer", "nanometer"]
    look(viewer, 30_000, 40_000, 0.05)
    height, width = viewer.canvas.size
    expected = np.array(
        [[30 - height / 100, 30 + height / 100], [40 - width / 100, 40 + width / 100]]
    )
    np.testing.assert_allclose(seen(viewer, micro, "YX").region, expected, atol=1.5)
    np.testing.assert_allclose(seen(viewer, nano, "YX").region, expected / 2, atol=1.5)


def test_the_slice_of_a_plane_and_of_a_volume(viewer):
    layer = viewer.add_image(np.zeros((3, 2, 5, 30, 40), np.uint8))
    viewer.dims.set_current_step((0, 1, 2), (2, 1, 3))
    assert slice_region(viewer, layer, "TCZYX", "TZYX") == ((2, 3), (3, 4), (0, 30), (0, 40))
    assert slice_region(viewer, layer, "TCZYX", "TCZYX", "ZYX") == (
        (2, 3),
        (0, 5),
        (0, 30),
        (0, 40),
    )
    viewer.dims.ndisplay = 3
    assert "no single slice" in slice_region(viewer, layer, "TCZYX", "TZYX")
    assert slice_region(viewer, layer, "TCZYX", "TZYX", "ZYX")[0] == (2, 3)
    assert "no Z axis" in slice_region(viewer, layer, "PCTYX", "PTYX", "ZYX")


def test_it_takes_less_than_two_milliseconds(viewer):
    full = np.zeros((3, 5, 800, 800), np.uint8)
    layer = viewer.add_image(
        [full, full[..., ::2, ::2]],
        multiscale=True,
        scale=(1, 2, 0.5, 0.5),
        units=("s", "um", "um", "um"),
        affine=np.diag([1, 2, 1, 1, 1]),
    )
    taken = []
    for n in range(60):
        look(viewer, 100 + n, 100, 5)
        began = time.perf_counter()
        assert isinstance(seen(viewer, layer, "TZYX", max_pixels=10**6), OnScreen)
        taken.append(time.perf_counter() - began)
    assert np.median(taken) < 2e-3
