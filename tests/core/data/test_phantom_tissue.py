from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_unetpp.core.data.phantom_tissue import EOSIN, HAEMATOXYLIN, stained_tissue
from napari_unetpp.core.errors import InputError

Tissue = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return stained_tissue((256, 256))


def test_same_seed_same_tissue(tissue: Tissue) -> None:
    image, labels = stained_tissue((256, 256))
    np.testing.assert_array_equal(image, tissue[0])
    np.testing.assert_array_equal(labels, tissue[1])
    other, _ = stained_tissue((256, 256), seed=1)
    assert (other != image).mean() > 0.5


def test_nuclei_are_blue_on_pink_with_white_lumens(tissue: Tissue) -> None:
    image, labels = tissue
    inside = np.median(image[labels > 0], axis=0)
    tissue_around = np.median(image[(labels == 0) & (image[..., 1] < 215)], axis=0)
    red, green, blue = inside
    assert blue > red > 0.8 * green  # haematoxylin: blue violet
    assert tissue_around[1] < 0.85 * min(tissue_around[[0, 2]])  # eosin takes green: pink
    assert inside[0] < 0.65 * tissue_around[0]
    lumen = (image > 215).all(axis=-1)
    assert 0.03 < lumen.mean() < 0.3
    assert (labels[lumen] > 0).mean() < 0.01


def test_labels_are_where_the_dye_is(tissue: Tissue) -> None:
    image, labels = tissue
    density = -np.log10((image + 1.0) / 245.0).reshape(-1, 3)  # (pixels, RGB)
    amounts = np.linalg.lstsq(np.stack([HAEMATOXYLIN, EOSIN], axis=1), density.T)[0]
    dye = amounts[0].reshape(labels.shape)
    inside, outside = dye[labels > 0], dye[labels == 0]
    middle = (np.median(inside) + np.median(outside)) / 2
    right = ((inside > middle).mean() + (outside <= middle).mean()) / 2
    assert 0.9 < right < 0.999  # exact to the pixel, and yet not a mere threshold
    # Moved by 3 pixels the labels fit less well.
    moved = np.roll(labels, 3, axis=0) > 0
    assert ((dye[moved] > middle).mean() + (dye[~moved] <= middle).mean()) / 2 < right - 0.05


def test_each_nucleus_is_one_piece_of_a_likely_size(tissue: Tissue) -> None:
    _, labels = tissue
    numbers = np.unique(labels)[1:]
    assert 120 < len(numbers) < 260
    whole = [n for n in numbers if ndimage.label(labels == n, np.ones((3, 3)))[1] == 1]
    assert len(whole) > 0.97 * len(numbers)
    border = np.unique(np.concatenate([labels[[0, -1]].ravel(), labels[:, [0, -1]].ravel()]))
    areas = np.bincount(labels.ravel())[np.setdiff1d(numbers, border)] * 0.25  # µm²
    assert 8 < np.percentile(areas, 5) < np.percentile(areas, 95) < 70


def test_pixel_size_changes_the_grid_and_not_the_nuclei() -> None:
    fine = stained_tissue((240, 240), spacing=0.25)[1]
    areas = np.bincount(fine.ravel())[1:]
    assert 100 < np.median(areas[areas > 0]) < 900


@pytest.mark.parametrize(("shape", "spacing"), [((1, 8), 0.5), ((8, 8), 0.0), ((8, -1), 0.5)])
def test_sizes_must_be_sensible(shape: tuple[int, int], spacing: float) -> None:
    with pytest.raises(InputError, match="tissue needs two pixels"):
        stained_tissue(shape, spacing=spacing)


@pytest.mark.parametrize("shape", [(2, 2), (3, 50), (17, 16)])
def test_small_images_are_no_special_case(shape: tuple[int, int]) -> None:
    image, labels = stained_tissue(shape)
    assert image.shape == (*shape, 3)
    assert labels.shape == shape
