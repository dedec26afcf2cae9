from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from napari_unetpp.core.data.phantom_nuclei import acquire, place_cells, render
from napari_unetpp.core.data.phantoms import (
    CT_CLASSES,
    Phantom,
    ct_phantom,
    nuclei_2d,
    nuclei_3d,
    nuclei_timelapse,
    painted_strokes,
)
from napari_unetpp.core.errors import InputError

MAKERS: dict[str, Callable[[int], Phantom]] = {
    "2d": lambda seed: nuclei_2d((96, 120), count=12, seed=seed),
    "3d": lambda seed: nuclei_3d((10, 64, 64), count=12, seed=seed),
    "time": lambda seed: nuclei_timelapse(6, (80, 80), count=6, seed=seed),
    "ct": lambda seed: ct_phantom((46, 52, 52), spacing=(6.0, 5.0, 5.0), seed=seed),
}


@pytest.fixture(scope="module")
def ct() -> Phantom:
    return ct_phantom()


@pytest.mark.parametrize("kind", MAKERS)
def test_same_seed_same_phantom(kind: str) -> None:
    first, again, other = MAKERS[kind](3), MAKERS[kind](3), MAKERS[kind](4)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.image != other.image).mean() > 0.5


@pytest.mark.parametrize("kind", ["2d", "3d", "time"])
def test_nuclei_are_brighter_than_what_is_around_them(kind: str) -> None:
    phantom = MAKERS[kind](0)
    inside, outside = phantom.image[phantom.labels > 0], phantom.image[phantom.labels == 0]
    assert np.median(inside) > 2 * np.median(outside)
    # ... and so that no threshold is perfect: the task is not trivial.
    assert np.percentile(inside, 1) < np.percentile(outside, 99.9)


def test_many_nuclei_touch() -> None:
    labels = nuclei_2d().labels
    instances = len(np.unique(labels)) - 1
    blobs = ndimage.label(labels > 0)[1]
    assert instances == 70
    assert blobs < 0.7 * instances


def test_labels_of_a_lone_nucleus_follow_its_formula(rng: np.random.Generator) -> None:
    (cell,) = place_cells(rng, np.array([40.0, 40.0]), 1, radius=5.0)
    fine, _ = render([cell], (400, 400), (0.1, 0.1))
    coarse, _ = render([cell], (80, 80), (0.5, 0.5))
    # Pixel i lies at i times the spacing, so every fifth fine pixel is a coarse one.
    np.testing.assert_array_equal(fine[::5, ::5], coarse)
    area = (fine > 0).sum() * 0.01
    assert area == pytest.approx(np.pi * cell.radii.prod(), rel=0.2)


def test_camera_adds_offset_gain_and_the_noise_of_photons(rng: np.random.Generator) -> None:
    flat = np.full((256, 256), 0.5)
    counts = acquire(rng, flat, (1.0, 1.0), (0.5, 0.5), photons=200.0)
    assert counts.mean() == pytest.approx(100 + 8 * 100, rel=0.005)
    # Poisson variance 100 and read noise of 3 photons, seen through the gain of 8.
    assert counts.std() == pytest.approx(8 * np.sqrt(100 + 9), rel=0.02)


def test_stack_is_anisotropic_and_says_so() -> None:
    phantom = nuclei_3d()
    assert (phantom.axes, phantom.spacing, phantom.unit) == ("ZYX", (2.0, 0.5, 0.5), "µm")
    boxes = [b for b in ndimage.find_objects(phantom.labels.astype(int)) if b is not None]
    size = np.median([[s.stop - s.start for s in box] for box in boxes], axis=0)
    # As many µm along Z as along X, hence a quarter of the voxels.
    assert 0.15 < size[0] / size[2] < 0.45


def test_time_series_keeps_labels_and_divides_twice() -> None:
    series = nuclei_timelapse()
    seen = [set(np.unique(frame)) - {0} for frame in series.labels]
    assert series.axes == "TYX"
    assert len(seen[0]) == 16
    gone, new = seen[0] - seen[-1], seen[-1] - seen[0]
    assert new == {17, 18, 19, 20} - gone
    for number in seen[0] & seen[-1]:
        frames = [ndimage.center_of_mass(frame == number) for frame in series.labels]
        assert np.abs(np.diff(frames, axis=0)).max() < 8  # pixels from frame to frame
    bright = [np.median(i[m > 0]) for i, m in zip(series.image, series.labels, strict=True)]
    assert bright[-1] < 0.8 * bright[0]


def test_ct_labels_are_the_seven_organs_in_their_places(ct: Phantom) -> None:
    assert len(CT_CLASSES) == 7
    assert sorted(np.unique(ct.labels)) == list(range(8))
    middle = {k: np.array(ndimage.center_of_mass(ct.labels == k)) for k in range(1, 8)}
    assert ct.affine is not None
    ras = {k: (ct.affine @ [*m, 1])[:3] for k, m in middle.items()}
    assert ras[3][0] > 30  # right parotid to the right
    assert ras[4][0] < -30
    assert ras[3][0] == pytest.approx(-ras[4][0], abs=1.0)
    assert ras[1][2] > ras[2][2] > ras[5][2]  # brainstem above cord above oesophagus
    assert ras[7][1] > ras[2][1]  # mandible in front of the cord
    assert ras[6][1] > ras[5][1]  # larynx in front of the oesophagus


def test_ct_is_in_hounsfield_units(ct: Phantom) -> None:
    assert ct.image.dtype == np.int16
    assert ct.image[-1, 0, 0] < -900
    assert np.median(ct.image[ct.labels == 7]) > 500
    assert 15 < np.median(ct.image[ct.labels == 1]) < 50
    assert np.median(ct.image[ct.labels == 3]) < np.median(ct.image[ct.labels == 2])


def test_ct_affine_runs_to_superior_posterior_left(ct: Phantom) -> None:
    assert ct.affine is not None
    np.testing.assert_allclose(ct.affine[:3, :3], [[0, 0, -2.5], [0, -2.5, 0], [3.0, 0, 0]])
    centre = (np.asarray(ct.image.shape) - 1) / 2
    np.testing.assert_allclose(ct.affine @ [*centre, 1], [0, 0, 0, 1], atol=1e-9)


def test_ct_anatomy_does_not_depend_on_the_grid(ct: Phantom) -> None:
    coarse = ct_phantom((46, 52, 52), spacing=(6.0, 5.0, 5.0))
    for k in range(1, 8):
        fine_ml = (ct.labels == k).sum() * np.prod(ct.spacing) / 1000
        coarse_ml = (coarse.labels == k).sum() * np.prod(coarse.spacing) / 1000
        assert coarse_ml == pytest.approx(fine_ml, rel=0.35)


def test_strokes_are_true_thin_and_few() -> None:
    phantom = nuclei_2d()
    paint = painted_strokes(phantom.labels)
    assert sorted(np.unique(paint)) == [0, 1, 2]
    assert (phantom.labels[paint == 1] == 0).all()
    assert (phantom.labels[paint == 2] > 0).all()
    assert 0.001 < (paint > 0).mean() < 0.01
    assert ndimage.distance_transform_edt(paint > 0).max() <= 3
    np.testing.assert_array_equal(paint, painted_strokes(phantom.labels))


def test_strokes_on_classes_and_in_3d() -> None:
    phantom = MAKERS["ct"](0)
    paint = painted_strokes(phantom.labels, instances=False, strokes=2)
    assert sorted(np.unique(paint)) == list(range(9))
    painted = paint > 0
    np.testing.assert_array_equal(paint[painted] - 1, phantom.labels[painted])


def test_strokes_refuse_what_they_cannot_paint() -> None:
    with pytest.raises(InputError, match="got 2 axes of float64; pass"):
        painted_strokes(np.zeros((4, 4)))
    with pytest.raises(InputError, match="got 0 to 300; for instance labels"):
        painted_strokes(np.array([[0, 300]]), instances=False)


def test_sizes_must_be_positive() -> None:
    with pytest.raises(InputError, match=r"spacing must be positive numbers, got \(0.5, 0\)"):
        nuclei_2d(spacing=(0.5, 0))
    with pytest.raises(InputError, match="shape must be positive"):
        ct_phantom((0, 4, 4))
