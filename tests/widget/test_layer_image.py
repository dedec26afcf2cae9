from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from napari_unetpp.core.errors import InputError
from napari_unetpp.widget.layer_image import (
    axes_choices,
    layer_axes,
    layer_channels,
    layer_source,
)

napari_layers = pytest.importorskip("napari.layers")
ImageLayer = napari_layers.Image


def image(shape, **kwargs):
    return ImageLayer(np.zeros(shape, np.uint8), **kwargs)


@pytest.mark.parametrize(
    ("shape", "labels", "axes"),
    [
        ((8, 9), None, "YX"),
        ((5, 8, 9), None, "ZYX"),
        ((2, 5, 8, 9), None, "CZYX"),
        ((6, 5, 8, 9), None, "TZYX"),
        ((6, 2, 5, 8, 9), None, "TCZYX"),
        ((5, 8, 9), ("t", "y", "x"), "TYX"),
        ((5, 8, 9), ("Time [s]", "row", "column"), "TYX"),
        ((5, 8, 9), ("channel", "Y", "X"), "CYX"),
        ((6, 2, 8, 9), ("frame", "ch", "y", "x"), "TCYX"),
        ((9, 8), ("x", "y"), "XY"),
        # Some labels mean something: the others keep their guess or swap it.
        ((5, 8, 9), ("time", "-2", "-1"), "TYX"),
        ((5, 8, 9), ("y", "-2", "-1"), "YZX"),
        # Labels that contradict each other are not believed.
        ((5, 8, 9), ("z", "z", "x"), "ZYX"),
        ((5, 8, 9), ("t", "c", "z"), "ZYX"),
        ((5, 8, 9), ("time", "b", "c"), "ZYX"),
    ],
)
def test_axes_of_a_layer(shape, labels, axes):
    assert layer_axes(image(shape, axis_labels=labels)) == axes


def test_axes_of_pictures_end_in_samples():
    assert layer_axes(image((8, 9, 3), rgb=True)) == "YXS"
    assert layer_axes(image((5, 8, 9, 4), rgb=True)) == "ZYXS"
    assert layer_axes(image((5, 8, 9, 3), rgb=True, axis_labels=("t", "y", "x"))) == "TYXS"


def test_seven_axes_are_refused():
    with pytest.raises(InputError, match="2 to 6 axes"):
        layer_axes(image((1, 1, 1, 1, 1, 4, 4)))


def test_choices_start_with_the_guess_and_fit_the_array():
    assert axes_choices(image((8, 9))) == ["YX"]
    assert axes_choices(image((5, 8, 9))) == ["ZYX", "TYX", "CYX", "PYX"]
    assert axes_choices(image((5, 8, 9), axis_labels=("c", "y", "x")))[:2] == ["CYX", "ZYX"]
    assert axes_choices(image((5, 8, 9, 3), rgb=True)) == ["ZYXS", "TYXS", "PYXS"]
    for shape in [(8, 9), (5, 8, 9), (2, 5, 8, 9), (6, 2, 5, 8, 9), (2, 6, 2, 5, 8, 9)]:
        choices = axes_choices(image(shape))
        assert len(set(choices)) == len(choices)
        assert all(len(c) == len(shape) for c in choices)


def test_spacing_is_in_zyx_order_with_the_one_unit():
    layer = image(
        (3, 2, 5, 8, 9),
        scale=(60, 1, 2, 0.5, 0.25),
        units=("s", "pixel", "um", "um", "um"),
        axis_labels=tuple("tczyx"),
    )
    source = layer_source(layer, "TCZYX")
    assert source.spacing == (2.0, 0.5, 0.25)
    assert source.unit == "µm"
    assert source.axes == "TCZYX"
    assert source.data is layer.data


def test_units_that_differ_become_those_of_x():
    layer = image((5, 8, 9), scale=(0.002, 500, 0.5), units=("mm", "nm", "um"))
    source = layer_source(layer, "ZYX")
    assert source.unit == "µm"
    assert source.spacing == pytest.approx((2.0, 0.5, 0.5))


def test_a_layer_that_says_nothing_has_no_spacing():
    assert layer_source(image((8, 9)), "YX").spacing is None
    source = layer_source(image((8, 9), scale=(2, 3)), "YX")
    assert source.spacing == (2.0, 3.0)
    assert source.unit is None


def test_spacing_of_a_layer_whose_geometry_is_in_its_affine():
    turned = np.diag([3.0, -0.5, 0.5, 1.0])[[0, 2, 1, 3]]
    source = layer_source(image((5, 8, 9), affine=turned, units=("mm",) * 3), "ZYX")
    assert source.spacing == pytest.approx((3.0, 0.5, 0.5))
    flipped = layer_source(image((8, 9), scale=(-2, 2), rotate=30), "YX")
    assert flipped.spacing == (2.0, 2.0)


def test_affine_comes_from_the_metadata():
    matrix = np.diag([3.0, -1.0, -1.0, 1.0])
    layer = image((5, 8, 9), metadata={"affine_index_to_ras": matrix.tolist()})
    np.testing.assert_array_equal(layer_source(layer, "ZYX").affine, matrix)
    assert layer_source(image((5, 8, 9)), "ZYX").affine is None
    broken = image((5, 8, 9), metadata={"affine_index_to_ras": [1, 2]})
    assert layer_source(broken, "ZYX").affine is None


def test_a_level_of_a_multiscale_layer():
    full = np.arange(4 * 32 * 64, dtype=np.uint16).reshape(4, 32, 64)
    matrix = np.diag([3.0, 1.0, 1.0, 1.0])
    layer = ImageLayer(
        [full, full[:, ::2, ::4]],
        multiscale=True,
        scale=(2, 0.5, 0.25),
        units=("um",) * 3,
        metadata={"affine_index_to_ras": matrix},
    )
    whole, coarse = layer_source(layer, "ZYX"), layer_source(layer, "ZYX", 1)
    assert whole.data.shape == (4, 32, 64)
    assert whole.spacing == (2.0, 0.5, 0.25)
    assert coarse.data.shape == (4, 16, 16)
    assert coarse.spacing == (2.0, 1.0, 1.0)
    # Pixel 0 of the level lies at the middle of what it covers: 0.5 and 1.5.
    np.testing.assert_allclose(coarse.affine @ [0, 0, 0, 1], [0, 0.5, 1.5, 1])
    np.testing.assert_allclose(coarse.affine @ [1, 1, 1, 1], [3, 2.5, 5.5, 1])
    assert whole.key != coarse.key


def test_channels_have_names():
    layer = image((2, 8, 9), metadata={"channel_names": ["DAPI", "actin"]})
    assert layer_channels(layer, "CYX") == ["DAPI", "actin"]
    assert layer_channels(layer, "ZYX") == []
    layer.metadata = {"channel_names": ["DAPI"]}
    assert layer_channels(layer, "CYX") == ["channel 0", "channel 1"]
    assert layer_channels(image((8, 9, 3), rgb=True), "YXS") == []


def test_the_key_is_that_of_the_pixels():
    layer = image((5, 8, 9))
    first = layer_source(layer, "ZYX").key
    layer.contrast_limits = (0, 10)
    layer.name = "other"
    layer.visible = False
    layer.visible = True
    assert layer_source(layer, "ZYX").key == first
    layer.scale = (2, 1, 1)  # another spacing is another picture for a model that has one
    assert layer_source(layer, "ZYX").key != first
    layer.scale = (1, 1, 1)
    assert layer_source(layer, "ZYX").key == first
    layer.data = np.ones((5, 8, 9), np.uint8)
    replaced = layer_source(layer, "ZYX").key
    assert replaced != first
    layer.data[:] = 3
    layer.refresh()
    assert layer_source(layer, "ZYX").key not in (first, replaced)
    assert layer_source(image((5, 8, 9)), "ZYX").key != first


def test_the_key_stays_while_one_looks_around(make_napari_viewer):
    viewer = make_napari_viewer()
    layer = viewer.add_image(np.zeros((5, 8, 9), np.uint8))
    first = layer_source(layer, "ZYX").key
    viewer.dims.set_current_step(0, 3)
    viewer.dims.order = (1, 0, 2)
    viewer.dims.ndisplay = 3
    viewer.dims.ndisplay = 2
    viewer.add_labels(np.zeros((5, 8, 9), np.uint8), translate=(1, 1, 1))
    viewer.layers.selection.active = layer
    assert layer_source(layer, "ZYX").key == first


def test_watching_a_layer_does_not_keep_it():
    layer = image((8, 9))
    layer_source(layer, "YX")
    seen = weakref.ref(layer)
    del layer
    gc.collect()
    assert seen() is None
