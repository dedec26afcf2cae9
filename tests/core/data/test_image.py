"""Image, its units, and the lazy arrays behind it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import dask.array
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_unetpp.core.data.image import Image, known_unit, millimetres
from napari_unetpp.core.data.lazy import DiskArray, MappedArray, StackedArray, full_index, release
from napari_unetpp.core.errors import InputError


def test_from_an_array() -> None:
    array = np.zeros((5, 8, 9), np.uint8)
    image = Image.from_array(array, spacing=(2, 0.5, 0.5), unit="µm", name="cells")
    assert image.data is array
    assert (image.axes, image.shape, image.dtype) == ("ZYX", (5, 8, 9), np.uint8)
    assert image.spacing == (2.0, 0.5, 0.5)
    assert image.spatial_shape == (5, 8, 9)
    assert image.sizes == {"Z": 5, "Y": 8, "X": 9}
    assert image.channel_names == ()


def test_lists_bools_and_dask() -> None:
    assert Image.from_array([[1, 2], [3, 4]]).shape == (2, 2)
    image = Image.from_array(np.eye(3, dtype=bool))
    assert image.dtype == np.uint8
    assert np.asarray(image.data).sum() == 3
    lazy = dask.array.from_array(np.eye(4, dtype=bool), chunks=2)
    image = Image.from_array(lazy)
    assert image.dtype == np.uint8
    assert image.data[1, :].tolist() == [0, 1, 0, 0]
    numbers = dask.array.arange(16, chunks=4).reshape(4, 4)
    assert Image.from_array(numbers).data is numbers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"axes": "YX"}, "has 3 axes"),
        ({"spacing": (1, 2)}, r"needs 3 numbers \(Z, Y, X\)"),
        ({"spacing": (1, 2, -1)}, "positive numbers"),
        ({"affine": np.zeros((4, 4))}, "invertible 4x4"),
        ({"affine": np.eye(3)}, "invertible 4x4"),
        ({"affine": np.full((4, 4), np.nan)}, "invertible 4x4"),
        ({"data": "text"}, "needs an array, got str"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, words: str) -> None:
    image = Image.from_array(np.zeros((5, 8, 9)))
    with pytest.raises(InputError, match=words):
        image.replace(**changes)


def test_the_user_s_spacing_scales_the_affine() -> None:
    affine = np.array([[0, 0, -1.0, 5], [0, 2.0, 0, 6], [3.0, 0, 0, 7], [0, 0, 0, 1]])
    image = Image.from_array(np.zeros((5, 8, 9)), spacing=(3, 2, 1), unit="mm", affine=affine)
    changed = image.with_spacing((6, 2, 0.5))
    assert changed.spacing == (6.0, 2.0, 0.5)
    expected = [[0, 0, -0.5, 5], [0, 2, 0, 6], [6, 0, 0, 7], [0, 0, 0, 1]]
    assert changed.affine.tolist() == expected
    assert image.affine[2, 0] == 3.0


@pytest.mark.parametrize(
    ("text", "unit", "mm"),
    [
        ("micron", "µm", 1e-3),
        ("um", "µm", 1e-3),
        ("\u03bcm", "µm", 1e-3),
        ("\\u00B5m", "µm", 1e-3),
        ("Millimeter", "mm", 1.0),
        ("nanometer", "nm", 1e-6),
        ("inch", "inch", 25.4),
        ("pixel", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_units(text: str | None, unit: str | None, mm: float | None) -> None:
    assert known_unit(text) == unit
    assert millimetres(text) == mm


SHAPE = (3, 4, 5)
INDEX = st.tuples(
    *(
        st.one_of(
            st.integers(-n, n - 1),
            st.builds(slice, st.integers(0, n), st.integers(0, n), st.sampled_from([None, 1, 2])),
        )
        for n in SHAPE
    )
)


@given(INDEX, st.permutations(range(3)))
def test_another_order_reads_and_writes_like_numpy(
    index: tuple[int | slice, ...], order: list[int]
) -> None:
    source = np.arange(60).reshape([SHAPE[order.index(k)] for k in range(3)])
    expected = source.transpose(order).copy()
    lazy = MappedArray(source, order, dtype=np.float32)
    np.testing.assert_array_equal(lazy[index], expected[index])
    assert lazy[index].dtype == np.float32
    lazy[index] = np.asarray(-expected[index])
    expected[index] = -expected[index]
    np.testing.assert_array_equal(source.transpose(order), expected)


def test_short_indices_and_scalars() -> None:
    source = np.zeros((2, 3, 4), np.uint8)
    lazy = MappedArray(source, (2, 0, 1))
    lazy[..., 1] = 7
    assert (source[:, 1] == 7).all()
    assert source.sum() == 7 * 8
    lazy[3] = np.arange(6).reshape(2, 3)
    assert source[:, :, 3].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (len(lazy), lazy.ndim, lazy.size, lazy.nbytes) == (4, 3, 24, 24)


@pytest.mark.parametrize("index", [(0, 0, 0, 0), (..., ...), 7, -4, "a", ([0, 1],)])
def test_indices_that_cannot_be(index: object) -> None:
    with pytest.raises(IndexError):
        full_index(index, SHAPE)


@given(INDEX)
def test_a_stack_reads_like_numpy(index: tuple[int | slice, ...]) -> None:
    source = np.arange(60).reshape(SHAPE)
    stack = StackedArray(list(source))
    if isinstance(index[0], slice) and not len(range(*index[0].indices(3))):
        return
    np.testing.assert_array_equal(stack[index], source[index])


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; pages are given back on Linux")
def test_a_map_read_and_written_in_blocks_stays_small(tmp_path: Path) -> None:
    size = 64 * 2**20
    mapped = np.memmap(tmp_path / "a", np.uint8, "w+", 0, (64, 2**20))
    mapped[:] = 1
    release(mapped)
    assert (mapped[::8, 5] == 1).all()
    before = resident_bytes()
    lazy = DiskArray(mapped, limit=2**22)
    assert sum(int(lazy[k].sum()) for k in range(64)) == size
    assert resident_bytes() - before < size // 3
    kept = lazy[3]
    lazy[3:].sum()
    lazy[0].sum()
    assert kept.min() == 1  # a view outlives the pages


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; pages are given back on Linux")
def test_a_thin_sample_of_a_map_stays_small(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "a", np.uint8, "w+", 0, (2**13, 2**14))
    mapped[:] = np.arange(2**13, dtype=np.uint16)[:, None] % 251
    release(mapped)
    before = resident_bytes()
    thin = DiskArray(mapped, limit=2**24)[4::9, ::8]  # some of every page of the 2**27 bytes
    assert resident_bytes() - before < 2**26
    np.testing.assert_array_equal(thin[:, 7], np.arange(4, 2**13, 9) % 251)
    assert thin.shape == (910, 2**11)
