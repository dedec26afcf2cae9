"""The centre channel's truth, against distances worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.errors import InputError


def test_square_falls_from_one_to_a_third() -> None:
    labels = np.zeros((9, 9), np.uint16)
    labels[2:7, 2:7] = 4  # 5x5: distances to the outside are 1, 2, 3, 2, 1 along the middle row
    target = centre_target(labels)
    assert target.dtype == np.float32
    np.testing.assert_allclose(target[4], [0, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0], rtol=1e-6)
    assert target[labels == 0].max() == 0


def test_touching_objects_are_separated_and_each_reaches_one() -> None:
    labels = np.zeros((7, 12), np.int32)
    labels[1:6, 1:6] = 1  # innermost at (3, 3), distance 3
    labels[2:5, 6:9] = 2  # 3x3 that touches it; innermost at (3, 7), distance 2
    target = centre_target(labels)
    assert target[3, 3] == 1
    assert target[3, 7] == 1
    assert target[3, 5] == pytest.approx(1 / 3)  # beside object 2: one pixel to its border
    assert target[3, 6] == pytest.approx(1 / 2)


def test_the_image_edge_is_no_border() -> None:
    labels = np.zeros((5, 8), np.uint8)
    labels[:, :4] = 1  # distances 4, 3, 2, 1 to column 4, the same in every row
    np.testing.assert_allclose(centre_target(labels)[0], [1, 0.75, 0.5, 0.25, 0, 0, 0, 0])


@pytest.mark.parametrize("value", [1, 70_000, 2**40])
def test_an_object_that_fills_the_image_is_one_everywhere(value: int) -> None:
    assert (centre_target(np.full((4, 5), value, np.int64)) == 1).all()


def test_single_pixels_and_large_ids() -> None:
    labels = np.zeros((5, 5), np.int64)
    labels[0, 0], labels[4, 4], labels[2, 2] = 2**40, 3, 70_001
    np.testing.assert_array_equal(centre_target(labels), (labels > 0).astype(np.float32))


def test_spacing_weighs_the_axes_in_3d() -> None:
    labels = np.zeros((5, 9, 9), np.uint8)
    labels[1:4, 1:8, 1:8] = 1  # 3x7x7: in pixels z limits (2); at 10 mm in z, y and x do (4)
    centre = (2, 4, 4)
    edge = (2, 4, 1)  # one pixel from the border along x
    isotropic, anisotropic = centre_target(labels), centre_target(labels, (10, 1, 1))
    assert isotropic[centre] == anisotropic[centre] == 1
    assert isotropic[edge] == pytest.approx(1 / 2)
    assert anisotropic[edge] == pytest.approx(1 / 4)
    np.testing.assert_allclose(anisotropic, centre_target(labels, (20, 2, 2)))


def test_empty_image_is_zero() -> None:
    assert centre_target(np.zeros((6, 6), bool)).max() == 0
    assert centre_target(np.zeros((0, 6), np.uint8)).shape == (0, 6)


@pytest.mark.parametrize(
    ("labels", "spacing", "word"),
    [
        (np.zeros((4, 4), np.float32), None, "float32"),
        (np.zeros(4, np.uint8), None, r"\(4,\)"),
        (np.full((4, 4), -1), None, "negative"),
        (np.zeros((4, 4), np.uint8), (1, 1, 1), "2 positive"),
        (np.zeros((4, 4), np.uint8), (1, 0), "positive"),
    ],
)
def test_bad_input(labels: np.ndarray, spacing: tuple[float, ...] | None, word: str) -> None:
    with pytest.raises(InputError, match=word):
        centre_target(labels, spacing)
