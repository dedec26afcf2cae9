"""Grids: anatomical directions, spacing, and values that come through exactly."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.geometry import Grid, GridMap, grid_of
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.errors import InputError

ORIENTATIONS = [
    "".join(letters)
    for groups in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*groups)
]


def card(spacing=None, orientation=None, axes="ZYX", unit="mm") -> ModelCard:
    return ModelCard(
        name="organs", network=NetworkConfig(ndim=len(axes), filters=(2, 4)), axes=axes,
        classes=(ClassInfo("a"),), spacing=spacing, orientation=orientation, spacing_unit=unit,
        levels_trained=(1,),
    )  # fmt: skip


def world(grid: Grid) -> np.ndarray:
    """Return the RAS coordinates of every voxel, (3, Z, Y, X)."""
    index = np.indices(grid.shape).reshape(3, -1)
    return (grid.affine[:3, :3] @ index + grid.affine[:3, 3:]).reshape(3, *grid.shape)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_all_48_orientations(orientation: str) -> None:
    grid = Grid.from_spacing((3, 4, 5), (2.0, 1.5, 0.5), orientation)
    assert grid.orientation == orientation
    np.testing.assert_allclose(grid.spacing, (2.0, 1.5, 0.5))
    assert "".join(nibabel.aff2axcodes(grid.affine)) == orientation


@pytest.mark.parametrize("orientation", ["SP", "SPP", "XYZ", "SPLR", ""])
def test_directions_that_are_none(orientation: str) -> None:
    with pytest.raises(InputError, match="three directions such as SPL"):
        Grid.from_spacing((3, 4, 5), (1, 1, 1), orientation)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_turn_keeps_each_voxel_where_it_is(orientation: str) -> None:
    source = Grid.from_spacing((3, 4, 5), (2.0, 1.5, 0.5), orientation)
    source.affine[:3, 3] = (10, -20, 30)
    way = GridMap.for_card(source, card(orientation="SPL"))
    assert way.model_grid.orientation == "SPL"
    assert way.is_identity == (orientation == "SPL")
    where, placed = world(source), world(way.model_grid)
    for axis in range(3):
        np.testing.assert_allclose(way.to_model(where[axis]), placed[axis], atol=1e-5)
    values = np.random.default_rng(1).random((3, 4, 5), dtype=np.float32)
    np.testing.assert_array_equal(way.to_input(way.to_model(values)), values)
    assert way.to_model(values).flags.c_contiguous


def test_the_same_grid_is_left_alone() -> None:
    source = Grid.from_spacing((3, 4, 5), (2.5, 1.0, 1.0))
    way = GridMap.for_card(source, card((2.5, 1.0, 1.0), "SPL"))
    assert way.is_identity
    values = np.random.default_rng(1).random((3, 4, 5), dtype=np.float32)
    assert np.shares_memory(way.to_model(values), values)
    assert np.shares_memory(way.to_input(values), values)
    whole = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    assert way.to_model(whole).dtype == np.float32
    np.testing.assert_array_equal(way.to_model(whole), whole)


def test_nearly_the_same_spacing_is_not_resampled() -> None:
    source = Grid.from_spacing((3, 4, 5), (2.5, 3.906, 3.906))
    assert GridMap.for_card(source, card((2.5, 3.9, 3.9), "SPL")).is_identity
    assert not GridMap.for_card(source, card((2.5, 3.8, 3.8), "SPL")).is_identity


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.0, 3.3), (5.0, 0.4, 1.1)])
@pytest.mark.parametrize("orientation", ["SPL", "LAI", "PIR"])
def test_values_follow_the_affine(spacing: tuple[float, ...], orientation: str) -> None:
    # A linear ramp in the world is the same ramp on any grid, away from the edges.
    source = Grid.from_spacing((24, 26, 28), (1.3, 0.9, 1.1), orientation)
    source.affine[:3, 3] = (10, -20, 30)
    way = GridMap.for_card(source, card(spacing, "SPL"))
    np.testing.assert_allclose(way.model_grid.spacing, spacing, rtol=1e-9)
    slope = np.array([0.3, -0.2, 0.5])[:, None, None, None]
    ramp, expected = (slope * world(source)).sum(0), (slope * world(way.model_grid)).sum(0)
    result = way.to_model(ramp)
    assert result.shape == way.model_shape == expected.shape
    inside = tuple(slice(n // 3, -(n // 3)) for n in result.shape)
    np.testing.assert_allclose(result[inside], expected[inside], rtol=1e-5, atol=1e-4)
    back = way.to_input(np.stack([result, 2 * result]))
    assert back.shape == (2, 24, 26, 28)
    inside = (slice(8, -8),) * 3
    # The anti-aliasing's outermost tail still sees the edge, hence not 1e-4.
    np.testing.assert_allclose(back[0][inside], ramp[inside], rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(back[1], 2 * back[0], rtol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.0, 3.3), (50.0, 0.4, 1.1)])
def test_the_model_s_grid_covers_the_input(spacing: tuple[float, ...]) -> None:
    source = Grid.from_spacing((7, 11, 5), (1.3, 0.9, 1.1))
    model = GridMap.for_card(source, card(spacing, "SPL")).model_grid
    extent = np.array(model.shape) * model.spacing - np.array(source.shape) * source.spacing
    assert (extent > -0.01 * np.array(model.spacing)).all()
    assert (extent < np.array(model.spacing)).all()
    middle = [(g.affine @ [*((np.array(g.shape) - 1) / 2), 1])[:3] for g in (source, model)]
    np.testing.assert_allclose(middle[0], middle[1], atol=1e-9)


@pytest.mark.parametrize("value", [0.1, 1.0, -1000.0])
def test_a_constant_stays_constant(value: float) -> None:
    source = Grid.from_spacing((7, 11, 5), (1.3, 0.9, 1.1), "LIP")
    way = GridMap.for_card(source, card((4.0, 0.5, 1.0), "SPL"))
    values = np.full((7, 11, 5), value, np.float32)
    forth = way.to_model(values)
    np.testing.assert_allclose(forth, value, rtol=1e-6)
    np.testing.assert_allclose(way.to_input(forth), value, rtol=1e-6)


def test_down_sampling_averages_noise() -> None:
    # Every fourth voxel of a chequered line would be constant 1 without anti-aliasing.
    source = Grid.from_spacing((1, 1, 80), (1, 1, 1))
    line = (np.arange(80) % 2).astype(np.float32).reshape(1, 1, 80)
    result = GridMap.for_card(source, card((1, 1, 4.0), "SPL")).to_model(line)
    assert result.shape == (1, 1, 20)
    np.testing.assert_allclose(result[0, 0, 2:-2], 0.5, atol=0.01)


def test_up_sampling_by_two_by_hand() -> None:
    source = Grid.from_spacing((1, 1, 3), (1, 1, 1))
    way = GridMap.for_card(source, card((1, 1, 0.5), "SPL"))
    result = way.to_model(np.array([[[0, 4, 8]]]))
    assert result.tolist() == [[[0, 1, 3, 5, 7, 8]]]
    labels = np.array([[[1, 2, 3]]], np.uint16)
    assert way.to_model(labels, order=0).tolist() == [[[1, 1, 2, 2, 3, 3]]]
    assert way.to_model(labels, order=0).dtype == np.uint16


def test_a_smooth_image_comes_back() -> None:
    source = Grid.from_spacing((20, 30, 30), (3.0, 1.0, 1.0), "IAR")
    z, y, x = np.indices(source.shape)
    smooth = np.sin(z / 4) + np.cos(y / 7) * np.sin(x / 6)
    way = GridMap.for_card(source, card((2.0, 1.5, 1.5), "SPL"))
    back = way.to_input(way.to_model(smooth))
    assert np.abs(back - smooth)[2:-2, 2:-2, 2:-2].max() < 0.05


def test_an_oblique_grid_is_not_rotated() -> None:
    turn = np.deg2rad(20)
    source = Grid.from_spacing((6, 7, 8), (2, 1, 1), "SPL")
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    source.affine[:3, :3] = rotation @ source.affine[:3, :3]
    assert source.orientation == "SPL"
    assert GridMap.for_card(source, card((2, 1, 1), "SPL")).is_identity
    way = GridMap.for_card(source, card((1, 1, 2), "LPS"))
    assert way.model_shape == (8, 7, 6)
    np.testing.assert_allclose(way.to_model(world(source)[0]), world(way.model_grid)[0], atol=1e-5)


def test_a_wrong_shape_is_refused() -> None:
    way = GridMap.for_card(Grid.from_spacing((3, 4, 5), (1, 1, 1)), card((2, 2, 2), "SPL"))
    with pytest.raises(InputError, match=r"volume of 3x4x5 \(Z, Y, X\) was expected, got 3x4x6"):
        way.to_model(np.zeros((3, 4, 6)))
    with pytest.raises(InputError, match=r"volume of 2x2x3 \(Z, Y, X\) was expected, got 2x3x4x5"):
        way.to_input(np.zeros((2, 3, 4, 5)))


def test_a_2d_model_resamples_planes() -> None:
    image = Image.from_array(np.zeros((5, 20, 30)), "ZYX", (9.0, 0.5, 0.5), unit="µm")
    flat = card((1.0, 1.0), axes="YX", unit="µm")
    grid, notes = grid_of(image, flat)
    assert notes == []
    assert GridMap.for_card(grid, flat).model_shape == (5, 10, 15)
    plane = Image.from_array(np.zeros((20, 30)), "YX", (500.0, 500.0), unit="nm")
    grid, _ = grid_of(plane, flat)
    assert GridMap.for_card(grid, flat).model_shape == (1, 10, 15)


@pytest.mark.parametrize(
    ("spacing", "given", "slip"),
    [
        ((3000.0, 1000.0, 1000.0), "3000, 1000, 1000", "micrometres given as mm"),
        ((0.003, 0.001, 0.001), "0.003, 0.001, 0.001", "mm given as micrometres"),
        ((40.0, 40.0, 40.0), "40, 40, 40", "micrometres given as mm"),  # 6e9 voxels
    ],
)
def test_a_spacing_of_another_unit_is_refused(
    spacing: tuple[float, ...], given: str, slip: str
) -> None:
    source = Grid.from_spacing((100, 512, 512), spacing)
    with pytest.raises(InputError) as caught:
        GridMap.for_card(source, card((3.0, 1.0, 1.0), "SPL"))
    message = str(caught.value)
    assert f"the image's spacing ({given} mm)" in message
    assert "the model organs (3, 1, 1 mm)" in message
    assert slip in message


def test_a_small_coarse_volume_may_grow() -> None:
    source = Grid.from_spacing((8, 16, 16), (20.0, 20.0, 20.0))
    way = GridMap.for_card(source, card((1.0, 1.0, 1.0), "SPL"))
    assert way.model_shape == (160, 320, 320)  # 8000 times as many, and yet few


def test_a_missing_spacing_is_asked_for() -> None:
    image = Image.from_array(np.zeros((3, 4, 5)), name="scan")
    words = r"organs works at a spacing of 2.5, 1, 1 mm, but scan .* give --spacing \(Z, Y, X\)"
    with pytest.raises(InputError, match=words):
        grid_of(image, card((2.5, 1, 1), "SPL"))
    grid, notes = grid_of(image, card())
    assert notes == []
    assert GridMap.for_card(grid, card()).is_identity


def test_a_missing_orientation_is_assumed_and_said() -> None:
    image = Image.from_array(np.zeros((3, 4, 5)), "ZYX", (2500, 1000, 1000), unit="µm", name="scan")
    grid, (note,) = grid_of(image, card((2.5, 1, 1), "LAS"))
    assert note.code == "orientation-assumed"
    assert note.message.startswith("scan does not state its orientation; it was taken as LAS")
    assert grid.orientation == "LAS"
    assert GridMap.for_card(grid, card((2.5, 1, 1), "LAS")).is_identity


@pytest.mark.parametrize(
    "name",
    [
        "sarcoma/CT/images/STS_012.nii.gz",
        "small/totalseg_tests/images/ct_3mm_crop.nii.gz",
        "small/tptbox_spine/images/ct.nii.gz",
    ],
)
def test_real_scans_in_a_model_s_grid(shared_data: Path, name: str) -> None:
    model = card((2.5, 2.0, 2.0), "SPL")
    image = read_image(shared_data / name)
    mask = read_labels(shared_data / name.replace("/images/", "/masks/"))
    grid, notes = grid_of(image, model)
    assert notes == []
    way = GridMap.for_card(grid, model)
    inside = (np.asarray(mask.data) > 0).astype(np.float32)
    turned = way.to_model(inside)
    # The centre of mass of the mask is at the same place in the world.
    centres = []
    for volume, one in ((inside, grid), (turned, way.model_grid)):
        index = np.array([(g * volume).sum() / volume.sum() for g in np.indices(volume.shape)])
        centres.append((one.affine @ [*index, 1])[:3])
    np.testing.assert_allclose(centres[0], centres[1], atol=0.35)
    back = way.to_input(turned) > 0.5
    overlap = 2 * (back & (inside > 0)).sum() / (back.sum() + inside.sum())
    assert overlap > 0.93
