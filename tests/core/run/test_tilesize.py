"""The size of tiles: what the halo costs, what fits into memory, and what is hardly dearer."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_unetpp.core.run.tilesize import default_core
from napari_unetpp.core.run.tiling import TilePlan, aligned_halo, balanced

GIB = 2**30


def windows(shape: tuple[int, ...], level: int, core: tuple[int, ...]) -> list[int]:
    return [math.prod(tile.window_shape) for tile in TilePlan(shape, level, core)]


@pytest.mark.parametrize(
    ("shape", "level"), [((96, 96), 1), ((512, 512), 1), ((700, 900), 4), ((64, 64, 64), 4)]
)
def test_a_small_image_is_one_tile(shape: tuple[int, ...], level: int) -> None:
    core = default_core(shape, level, 500.0, 5e9, easy=GIB)
    assert len(TilePlan(shape, level, core)) == 1


@pytest.mark.parametrize(
    ("level", "bytes_per_pixel", "most"),
    [(1, 230, 1.07), (2, 350, 1.11), (3, 474, 1.2), (4, 600, 1.42)],
)
def test_a_large_image_computes_little_twice(
    level: int, bytes_per_pixel: float, most: float
) -> None:
    """Memory of a bundled 2D model in bfloat16."""
    shape = (20_000, 20_000)
    found = windows(shape, level, default_core(shape, level, bytes_per_pixel, 5e9, easy=GIB))
    assert sum(found) <= most * math.prod(shape)
    assert max(found) * bytes_per_pixel <= GIB


def test_the_memory_does_not_grow_with_the_image() -> None:
    largest = [
        max(windows((n, n), 2, default_core((n, n), 2, 350.0, 5e9, easy=GIB)))
        for n in (2048, 4096, 8192, 16_384)
    ]
    for smaller, larger in itertools.pairwise(largest):
        assert 0.8 * smaller < larger <= 1.05 * smaller


def test_shrinks_to_the_budget() -> None:
    sizes = [default_core((5000, 5000), 1, 100.0, budget) for budget in (30e6, 10e6, 1.0)]
    # (512 + 16)² pixels at 100 bytes are 28 MB, (256 + 16)² are 7.4 MB.
    for core, budget in zip(sizes[:2], (30e6, 10e6), strict=True):
        needed = max(windows((5000, 5000), 1, core)) * 100.0
        assert 0.5 * budget < needed <= budget
    assert max(windows((5000, 5000), 1, sizes[2])) == (32 + 16) ** 2


@pytest.mark.parametrize("side", [256, 300])
def test_a_volume_is_cut_where_that_costs_least(side: int) -> None:
    """Cubes of one size for all axes would compute a hundred times the volume at L4."""
    shape, budget = (side,) * 3, 5.4e9
    core = default_core(shape, 4, 400.0, budget, easy=GIB)
    found = windows(shape, 4, core)
    assert max(found) * 400.0 <= 2 * budget
    assert sum(found) <= 12 * math.prod(shape)


def test_more_than_the_budget_only_where_it_is_far_dearer() -> None:
    shape = (256, 256, 256)
    whole = math.prod(shape) * 100.0
    # Halves: 5 of 4 windows of three quarters, less than twice the whole.
    halves = windows(shape, 1, default_core(shape, 1, 100.0, 0.6 * whole))
    assert max(halves) * 100.0 <= 0.6 * whole
    # At L4 a window of 0.6 of it is none at all: halves see 0.67 of it and compute 5.4 times.
    assert windows(shape, 4, default_core(shape, 4, 100.0, 0.6 * whole)) == [math.prod(shape)]
    # Twice the budget is all that may be taken.
    found = windows(shape, 4, default_core(shape, 4, 100.0, 0.4 * whole))
    assert max(found) * 100.0 <= 0.8 * whole


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_mixture_of_a_grid_is_much_cheaper(data: st.DataObject) -> None:
    """Against every pair of cores on a grid, costed by the plans themselves."""
    level = data.draw(st.integers(1, 4))
    step = 2**level
    shape = tuple(data.draw(st.integers(60, 500)) for _ in range(2))
    budget = data.draw(st.floats(0.15, 1.0)) * math.prod(shape)
    core = default_core(shape, level, 1.0, budget)
    assert all(c % step == 0 and c >= step for c in core)
    mine = windows(shape, level, core)
    spans = [-(-n // step) * step for n in shape]
    edges = [{balanced(n, e, step) for e in (32, 64, 128, n // 2, n)} for n in spans]
    others = [windows(shape, level, pair) for pair in itertools.product(*edges)]
    fitting = [sum(other) for other in others if max(other) <= budget]
    if max(mine) > budget:  # nothing fits, or only what is far dearer
        assert max(mine) <= max(2 * budget, min(map(max, others)))
    elif fitting:
        # 5 % may be given for smaller windows, and each pass costs something beside its pixels.
        slack = 4000 * max(len(other) for other in others)
        assert sum(mine) <= 1.05 * (min(fitting) + slack)


def test_a_region_is_cut_by_itself() -> None:
    region = (slice(500, 756), slice(1000, 1256))
    core = default_core((5000, 5000), 3, 100.0, 1e9, region=region)
    (tile,) = TilePlan((5000, 5000), 3, core, region)
    assert tile.core == region
    reach = aligned_halo(3)
    assert tile.window_shape == (264 + 2 * reach, 256 + 2 * reach)  # 500 is no multiple of 8
