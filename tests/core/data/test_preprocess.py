"""Intensities: statistics of the whole image, every dtype, and what is not finite."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.core.config import Normalisation
from napari_unetpp.core.data.preprocess import (
    LUMA,
    Normaliser,
    count_non_finite,
    gray_weights,
    sample_of,
    to_gray,
)
from napari_unetpp.core.errors import InputError

RAMP = np.arange(101, dtype=np.float64)  # percentile p is the value p
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def codes(rule: Normalisation, values: np.ndarray) -> list[str]:
    return [note.code for note in Normaliser.fit(values, rule)[1]]


def test_percentiles_become_zero_and_one() -> None:
    normalise, notes = Normaliser.fit(RAMP, Normalisation("percentile", 10, 90))
    assert normalise(np.array([10.0, 50.0, 90.0])).tolist() == [0.0, 0.5, 1.0]
    assert normalise(np.array([-1000.0, 1000.0])).tolist() == [-0.5, 2.0]
    assert notes == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_the_same_numbers(dtype: str) -> None:
    values = np.arange(0, 101).astype(dtype)
    normalise, _ = Normaliser.fit(values, Normalisation("percentile", 0, 100))
    out = normalise(values)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.arange(101) / 100, atol=1e-6)


def test_bool_is_an_image_too() -> None:
    values = np.array([False, True, True])
    normalise, _ = Normaliser.fit(values, Normalisation("percentile", 0, 100))
    assert normalise(values).tolist() == [0.0, 1.0, 1.0]


def test_small_differences_of_large_integers_survive() -> None:
    values = 2**40 + np.arange(11)
    normalise, _ = Normaliser.fit(values, Normalisation("percentile", 0, 100))
    np.testing.assert_allclose(normalise(values), np.arange(11) / 10, atol=1e-6)


def test_the_largest_floats_do_not_overflow() -> None:
    values = np.array([-3e38, 0.0, 3e38], np.float32)
    normalise, _ = Normaliser.fit(values, Normalisation("percentile", 0, 100))
    np.testing.assert_allclose(normalise(values), [0.0, 0.5, 1.0], atol=1e-6)


def test_a_bright_background_is_inverted_and_said() -> None:
    rule = Normalisation("percentile", 0, 100, "bright-objects")
    light = np.concatenate([np.full(90, 200.0), np.zeros(10)])
    normalise, notes = Normaliser.fit(light, rule)
    assert [n.code for n in notes] == ["invert"]
    assert normalise(np.array([200.0, 0.0])).tolist() == [0.0, 1.0]
    normalise, notes = Normaliser.fit(200 - light, rule)
    assert notes == []
    assert normalise(np.array([0.0, 200.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("light", [False, True])
def test_what_is_not_finite_reads_as_background_or_top(light: bool) -> None:
    values = np.concatenate([np.full(90, 200.0 * light), np.full(10, 200.0 * (not light))])
    rule = Normalisation("percentile", 0, 100, "bright-objects")
    normalise, _ = Normaliser.fit(np.append(values, [np.nan, np.inf, -np.inf]), rule)
    nan, *rest = normalise(np.array([np.nan, np.inf, -np.inf]))
    assert nan == 0.0
    assert np.isfinite(rest).all()
    assert count_non_finite(np.array([np.nan, np.inf, -np.inf, 1.0])) == 3
    assert count_non_finite(np.array([1, 2])) == 0


@pytest.mark.parametrize(
    ("values", "code", "expected"),
    [
        (np.full(10, 7.0), "constant-image", 0.0),
        (np.full(10, np.nan), "empty", 0.0),
        (np.array([], float), "empty", 0.0),
    ],
)
def test_an_image_without_contrast(values: np.ndarray, code: str, expected: float) -> None:
    normalise, notes = Normaliser.fit(values, Normalisation())
    assert [n.code for n in notes] == [code]
    assert normalise(np.append(values, 7.0 if code == "constant-image" else 0.0))[-1] == expected


def test_sparse_objects_on_a_flat_background_keep_their_contrast() -> None:
    values = np.zeros(10_000)
    values[:5] = 100.0  # fewer than the percentile leaves above it
    normalise, _ = Normaliser.fit(values, Normalisation("percentile", 1, 99.8))
    assert normalise(np.array([100.0])).tolist() == [1.0]


@pytest.mark.parametrize("stored", [0.0, 1024.0])
def test_a_ct_is_read_in_hounsfield_units_however_it_is_stored(stored: float) -> None:
    rule = Normalisation("window", -300, 500, ct_offset=True)
    volume = np.concatenate([np.full(500, -1000.0), np.full(400, 40.0), np.full(100, 900.0)])
    normalise, notes = Normaliser.fit(volume + stored, rule)
    assert [n.code for n in notes] == (["ct-offset"] if stored else [])
    np.testing.assert_allclose(
        normalise(np.array([-1000.0, -300.0, 100.0, 500.0, 900.0]) + stored), [0, 0, 0.5, 1, 1]
    )


def test_a_ct_that_an_interpolation_overshot_is_still_recognised() -> None:
    stored = np.concatenate([np.full(500, 24.0), np.full(496, 1064.0), np.full(4, -150.0)])
    _, notes = Normaliser.fit(stored, Normalisation("window", -300, 500, ct_offset=True))
    assert [n.code for n in notes] == ["ct-offset"]


@pytest.mark.parametrize(
    "shape",
    [(10,), (3000, 2000), (40, 300, 200), (2, 3, 4, 5, 6), (1, 1), (500, 3, 3), (7, 400, 400)],
)
def test_a_sample_is_small_and_covers_the_image(shape: tuple[int, ...]) -> None:
    data = np.random.default_rng(0).random(shape)
    limit = 20_000
    sample = sample_of(data, limit)
    assert sample.size <= 2 * limit
    assert sample.size >= min(data.size, limit // 20)
    assert np.isin(sample, data).all()
    assert np.array_equal(sample, sample_of(data, limit))
    if data.size > 1000:
        assert abs(np.median(sample) - 0.5) < 0.05


def test_a_sample_does_not_read_the_whole_image() -> None:
    class Watched:
        shape = (1000, 512, 512)
        read = 0

        def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
            view = np.broadcast_to(np.float32(1), self.shape)[region]
            Watched.read += view.size
            return view

    assert sample_of(Watched(), 100_000).size == Watched.read <= 200_000


def test_luminance() -> None:
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [100, 100, 100]]], np.uint8)
    expected = [[76.245, 149.685, 29.07, 100.0]]
    np.testing.assert_allclose(to_gray(rgb), expected, rtol=1e-5)
    rgba = np.concatenate([rgb, np.full((1, 4, 1), 9, np.uint8)], axis=-1)
    np.testing.assert_allclose(to_gray(rgba), expected, rtol=1e-5)
    np.testing.assert_allclose(to_gray(np.moveaxis(rgb, -1, 0), 0), expected, rtol=1e-5)
    with pytest.raises(InputError, match="3 or 4 samples, got 2"):
        to_gray(rgb[..., :2])


def test_a_stain_on_a_bright_background_is_seen_in_red() -> None:
    rule = Normalisation(rgb="nuclear-stain")
    light = np.concatenate([np.full(90, 230.0), np.full(10, 60.0)])
    assert gray_weights(light, rule).tolist() == [1, 0, 0]
    assert gray_weights(255 - light, rule).tolist() == LUMA.tolist()
    # Tissue that is brown for the most part is transmitted light all the same.
    brown = np.concatenate([np.full(55, 120.0), np.full(40, 240.0), np.full(5, 40.0)])
    assert gray_weights(brown, rule).tolist() == [1, 0, 0]
    dim = np.concatenate([np.full(60, 12.0), np.full(40, 90.0), np.full(5, 250.0)])
    assert gray_weights(dim, rule).tolist() == LUMA.tolist()
    assert gray_weights(light, Normalisation()).tolist() == LUMA.tolist()
    assert gray_weights(np.array([np.nan]), rule).tolist() == LUMA.tolist()
    # Brown (DAB) and a blue nucleus of the same luminance: red tells them apart.
    brown_blue = np.array([[[150, 100, 40], [80, 115, 146]]], np.uint8)
    assert np.ptp(to_gray(brown_blue)) < 2
    assert np.ptp(to_gray(brown_blue, weights=gray_weights(light, rule))) == 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 5.0, "high": 5.0}, "low < high"),
        ({"low": float("nan")}, "low < high"),
        ({"kind": "z-score"}, "normalisation kind must be one of"),
        ({"polarity": "dark"}, "polarity must be one of"),
    ],
)
def test_wrong_rules_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Normalisation(**options)  # type: ignore[arg-type]


def test_codes_of_an_ordinary_image() -> None:
    assert codes(Normalisation(), RAMP) == []
