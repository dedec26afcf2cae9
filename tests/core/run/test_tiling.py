"""Tiles: cores cover the image once, windows are aligned and hold the halo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.variants import halo
from napari_unetpp.core.run.tiling import (
    Tile,
    TilePlan,
    aligned_halo,
    padded_size,
    read_window,
)


def test_halo_of_cores_at_multiples_of_the_alignment() -> None:
    assert [aligned_halo(k) for k in (1, 2, 3, 4)] == [8, 24, 48, 96]
    for level in range(1, 8):
        # Never more than the halo of any pixel, rounded up to the alignment.
        assert aligned_halo(level) <= padded_size(halo(level), level)


def test_padded_size_by_hand() -> None:
    assert [padded_size(n, 2) for n in (1, 4, 5, 8)] == [4, 4, 8, 8]


def test_tiles_of_one_axis_by_hand() -> None:
    # 50 pixels at L1: padded to 50; cores of at most 20 are balanced to 18, 18, 14.
    plan = TilePlan((50,), 1, 20)
    assert plan.core == (18,)
    assert [(t.core, t.window) for t in plan] == [
        ((slice(0, 18),), (slice(0, 26),)),
        ((slice(18, 36),), (slice(10, 44),)),
        ((slice(36, 50),), (slice(28, 50),)),
    ]


def test_core_past_the_end_is_cut_and_its_window_is_padded() -> None:
    plan = TilePlan((13,), 2, 8)
    tiles = list(plan)
    assert tiles[-1].core == (slice(8, 13),)
    assert tiles[-1].window == (slice(0, 16),)
    assert tiles[-1].inner == (slice(8, 13),)
    assert tiles[-1].window_shape == (16,)


def test_raster_order_and_length() -> None:
    plan = TilePlan((20, 40), 1, (10, 20))
    assert [t.core for t in plan] == [
        (slice(0, 10), slice(0, 20)),
        (slice(0, 10), slice(20, 40)),
        (slice(10, 20), slice(0, 20)),
        (slice(10, 20), slice(20, 40)),
    ]
    assert len(plan) == 4


shapes = st.lists(st.integers(1, 90), min_size=1, max_size=2)


@settings(deadline=None, max_examples=150)
@given(shape=shapes, level=st.integers(1, 4), core=st.integers(2, 70))
def test_cores_cover_once_and_windows_hold_the_halo(
    shape: list[int], level: int, core: int
) -> None:
    step = 2**level
    core = max(core, step)
    plan = TilePlan(shape, level, core)
    seen = np.zeros(shape, int)
    tiles = list(plan)
    assert len(tiles) == len(plan)
    for tile in tiles:
        seen[tile.core] += 1
        for c, w, n in zip(tile.core, tile.window, shape, strict=True):
            end = padded_size(n, level)
            assert c.start % step == w.start % step == w.stop % step == 0
            assert 0 < c.stop - c.start <= core
            assert w.start == 0 or c.start - w.start >= aligned_halo(level)
            assert w.stop == end or w.stop - c.stop >= aligned_halo(level)
            assert 0 <= w.start < w.stop <= end
    assert (seen == 1).all()


@settings(deadline=None, max_examples=80)
@given(shape=shapes, level=st.integers(1, 3), core=st.integers(1, 40), part=st.integers(1, 20))
def test_split_covers_the_core_once(shape: list[int], level: int, core: int, part: int) -> None:
    step = 2**level
    plan = TilePlan(shape, level, max(core, step))
    seen = np.zeros(shape, int)
    for tile in plan:
        for piece in plan.split(tile, [max(part, step)] * len(shape)):
            seen[piece.core] += 1
            for c, w, n in zip(piece.core, piece.window, shape, strict=True):
                assert c.stop - c.start <= max(part, step)
                assert c.start % step == w.start % step == w.stop % step == 0
                assert w.start == 0 or c.start - w.start >= aligned_halo(level)
                assert w.stop == padded_size(n, level) or w.stop - c.stop >= aligned_halo(level)
    assert (seen == 1).all()


def test_split_of_a_small_tile_is_itself() -> None:
    plan = TilePlan((37, 50), 2, 16)
    for tile in plan:
        assert plan.split(tile, plan.core) == [tile]


def test_tiles_are_made_one_by_one() -> None:
    plan = TilePlan((10**6, 10**6), 1, 2)  # 2.5e11 tiles: a list of them would not fit
    assert len(plan) == 250_000_000_000
    assert next(iter(plan)) == Tile((slice(0, 2),) * 2, (slice(0, 10),) * 2)


@pytest.mark.parametrize(
    ("shape", "core", "message"),
    [
        ((0, 5), 8, "at least one pixel"),
        ((), 8, "at least one pixel"),
        ((5, 5), 3, "at least 4 pixels wide at level 2, got 3"),
        ((5, 5), (4,), "expected 2 tile sizes"),
    ],
)
def test_bad_plans(shape: tuple[int, ...], core: int | tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TilePlan(shape, 2, core)


def test_read_window_reads_only_the_image_and_repeats_its_last_rows() -> None:
    image = np.arange(15).reshape(3, 5)
    asked = []

    def read(region: tuple[slice, ...]) -> np.ndarray:
        asked.append(region)
        return image[region]

    window = (slice(2, 4), slice(4, 8))
    block = read_window(read, window, image.shape)
    assert asked == [(slice(2, 3), slice(4, 5))]
    assert block.tolist() == [[14, 14, 14, 14], [14, 14, 14, 14]]
    window = (slice(0, 4), slice(0, 4))
    expected = [[0, 1, 2, 3], [5, 6, 7, 8], [10, 11, 12, 13], [10, 11, 12, 13]]
    assert read_window(read, window, image.shape).tolist() == expected


def test_read_window_leaves_leading_axes_alone() -> None:
    image = np.arange(6).reshape(2, 3)
    block = read_window(lambda r: image[(slice(None), *r)], (slice(0, 4),), (3,))
    assert block.tolist() == [[0, 1, 2, 2], [3, 4, 5, 5]]
