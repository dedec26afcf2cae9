"""An image through a model: number types, intensities, colours, and sizes at the edge."""

from __future__ import annotations

import numpy as np
import pytest
from inference_helpers import codes, pass_through, run, runner_of
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.source import Source


@pytest.fixture
def noise(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((50, 70), dtype=np.float32)


@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i1", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8"]
)
def test_every_real_type(dtype: str, rng: np.random.Generator) -> None:
    mask = rng.random((20, 30)) > 0.5
    high = 1 if dtype == "bool" else 100
    array = np.where(mask, high, 0).astype(dtype)
    found, done, _ = run(array, "YX", runner_of(normalisation=Normalisation()), tile=8)
    assert np.array_equal(found, mask)
    assert codes(done) == []


def test_large_integers_keep_their_small_differences(rng: np.random.Generator) -> None:
    mask = rng.random((20, 30)) > 0.5
    array = np.uint64(2**40) + mask.astype(np.uint64) * np.uint64(10)
    found, _, _ = run(array, "YX", runner_of(normalisation=Normalisation()))
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("kind", ["labels", "instances"])
def test_nan_and_infinity_are_read_and_counted_once(kind: str, noise: NDArray[np.float32]) -> None:
    array = noise.copy()
    array[15:18, 15:18] = np.nan  # in the halo of four tiles
    array[0, 0] = np.inf
    array[49, 69] = -np.inf
    found, done, _ = run(array, "YX", tile=16, kind=kind)
    expected = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0) > 0.5
    assert np.array_equal(found > 0, expected)
    assert [n.message.split(" ", 1)[0] for n in done.notes] == ["11"]
    assert codes(done) == ["non-finite"]


def test_an_image_without_any_finite_pixel() -> None:
    array = np.full((12, 12), np.nan, np.float32)
    found, done, _ = run(array, "YX", runner_of(normalisation=Normalisation()))
    assert not found.any()
    assert codes(done) == ["empty", "non-finite"]


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_images_are_said(value: int) -> None:
    array = np.full((3, 20, 20), value, np.uint16)
    found, done, _ = run(array, "ZYX", runner_of(normalisation=Normalisation()))
    assert not found.any()
    assert codes(done) == ["constant-image"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (5, 7), (64, 1)])
def test_images_smaller_than_the_alignment(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    for level in (1, 2, "ensemble"):
        found, _, _ = run(array, "YX", level=level, tile=4)
        assert np.array_equal(found, array > 0.5)


def test_axes_of_length_one(rng: np.random.Generator) -> None:
    array = rng.random((1, 1, 1, 1, 9, 8), dtype=np.float32)
    assert np.array_equal(run(array, "PTCZYX")[0], array[:, :, 0] > 0.5)


def test_empty_images_are_refused() -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        run(np.zeros((3, 0, 5)), "ZYX")


def test_instance_norm_is_said_to_depend_on_tiles(noise: NDArray[np.float32]) -> None:
    runner = runner_of(pass_through(norm="instance"))
    assert codes(run(noise, "YX", runner, tile=16)[1]) == ["tile-dependent"]
    assert codes(run(noise, "YX", runner)[1]) == []


def test_whether_an_rgb_image_fits_is_asked_without_reading_pixels() -> None:
    class ShapeOnly:
        shape = (20, 30, 3)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, index: object) -> np.ndarray:
            raise AssertionError("pixels were read")

    rule = Normalisation(rgb="nuclear-stain")
    card = ModelCard("stain", NetworkConfig(), (ClassInfo("a"),), normalisation=rule)
    assert Source(Image(ShapeOnly(), "YXS"), card).shape == (20, 30)


def test_a_stained_image_is_seen_in_red_and_a_dark_one_in_luminance() -> None:
    rng = np.random.default_rng(0)
    light = np.full((40, 40, 3), 230, np.uint8)
    light[5:12, 5:12] = (90, 120, 200)  # a blue nucleus
    light[20:36, 20:36] = (200, 120, 60)  # brown
    rule = Normalisation("percentile", 0, 100, "bright-objects", rgb="nuclear-stain")
    card = ModelCard("stain", NetworkConfig(), (ClassInfo("a"),), normalisation=rule)
    source = Source(Image.from_array(light, "YXS"), card)
    whole = (slice(0, 40), slice(0, 40))
    assert np.array_equal(source.read(source.parts[0], whole)[0], light[..., 0])
    (normaliser,), notes = source.fit()
    assert normaliser.invert
    assert [n.code for n in notes] == ["invert"]
    dark = rng.integers(0, 9, (40, 40, 3)).astype(np.uint8)
    dark[5:12, 5:12, 2] = 250
    source = Source(Image.from_array(dark, "YXS"), card)
    expected = dark @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(source.read(source.parts[0], whole)[0], expected, rtol=1e-5)
