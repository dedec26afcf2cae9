"""A region of an image gives what a run over everything gives there."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, TileDone, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run import memory
from napari_unetpp.core.run.inference import (
    Prediction,
    fit_normalisers,
    output_axes,
    predict,
)
from napari_unetpp.core.run.instances import label_instances
from napari_unetpp.core.run.runtime import Device, Level, Runner
from napari_unetpp.core.run.streaming import Block, plan_tiles, stream
from napari_unetpp.core.run.tiling import Tile, TilePlan, aligned, aligned_halo

FLOAT32 = Device("cpu", "test", "float32", "a test")
UNTOUCHED = 77
Slices = tuple[slice, ...]


@cache
def runner_of(ndim: int = 2, channels: int = 1, classes: int = 1, **card: Any) -> Runner:
    """Random weights; logits of mean 0 and deviation 1 on random input."""
    torch.manual_seed(3)
    filters = (4, 6, 8, 10, 12) if ndim == 2 else (2, 3, 4)
    config = NetworkConfig(
        ndim=ndim, in_channels=channels, out_channels=classes, filters=filters,
        norm=card.pop("norm", "none"),
    )  # fmt: skip
    network = NestedUNet(config).eval()
    with torch.no_grad():
        x = torch.rand((1, channels, *(32,) * ndim))
        for level, logits in network.forward_heads(x).items():
            head = network.heads[str(level)]
            head.weight.div_(logits.std())
            head.bias.sub_(logits.mean()).div_(logits.std())
    full = ModelCard(
        "test", config, tuple(ClassInfo(f"c{k}") for k in range(classes)),
        "YX" if ndim == 2 else "ZYX", levels_trained=config.head_levels,
        input_channels=tuple(f"in{k}" for k in range(channels)), **card,
    )  # fmt: skip
    return Runner(Model(full, network, Path("m.safetensors"), ""), FLOAT32)


def run(image: Image, runner: Runner, **options: Any) -> tuple[NDArray[Any], Prediction, list[Any]]:
    """Return what is in the sink afterwards, the summary and the tiles."""
    _, shape, dtype = output_axes(image, runner.card, options.get("kind", "labels"))
    sink = np.full(shape, UNTOUCHED, dtype)
    events: list[Event] = []
    done = drain(predict(image, runner, sink, **options), events.append)
    return sink, done, [e for e in events if isinstance(e, TileDone)]


def with_channels(region: Slices, axes: str, plain: str) -> Slices:
    """Return a region in a result's axes, which may have C, from one in axes without."""
    by_letter = dict(zip(plain, region, strict=True))
    return tuple(by_letter.get(a, slice(None)) for a in axes)


def assert_only_the_region(
    image: Image, runner: Runner, region: Slices, level: Level, tile: int | None
) -> Prediction:
    """Compare probabilities and labels with those of a whole run, and what is left alone."""
    plain, _, _ = output_axes(image, runner.card, "labels")
    axes, _, _ = output_axes(image, runner.card, "probabilities")
    options: dict[str, Any] = {"level": level, "tile": tile}
    whole, _, _ = run(image, runner, kind="probabilities", **options)
    part, done, tiles = run(image, runner, kind="probabilities", region=region, **options)
    inside = with_channels(region, axes, plain)
    np.testing.assert_allclose(part[inside], whole[inside], rtol=0, atol=1e-5)
    written = np.zeros(part.shape, bool)
    for event in tiles:
        written[event.region] = True
    wanted = np.zeros(part.shape, bool)
    wanted[inside] = True
    assert np.array_equal(written, wanted)
    assert (part[~wanted] == UNTOUCHED).all()
    assert [e.done for e in tiles] == list(range(1, done.n_tiles + 1))
    assert {e.total for e in tiles} == {done.n_tiles}

    everything, _, _ = run(image, runner, **options)
    labels, summary, _ = run(image, runner, region=region, **options)
    wanted = np.zeros(labels.shape, bool)
    wanted[region] = True
    # Rounding turns the label of a pixel that lies on the threshold, if there is one.
    channels = np.moveaxis(whole, axes.index("C"), 0) if "C" in axes else whole[None]
    ranked = np.sort(np.concatenate([channels, np.full_like(channels[:1], 0.5)]), axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-5
    assert np.array_equal(labels[wanted & clear], everything[wanted & clear])
    assert (labels[~wanted] == UNTOUCHED).all()
    assert summary.shape == labels.shape
    assert summary.pixels == wanted.sum()
    return done


def pixels(shape: tuple[int, ...], seed: int = 0, dtype: str = "u2") -> NDArray[Any]:
    return (np.random.default_rng(seed).random(shape) * 60000).astype(dtype)


def span(data: st.DataObject, length: int) -> slice:
    start = data.draw(st.integers(0, length - 1), label="start")
    return slice(start, data.draw(st.integers(start + 1, length), label="stop"))


# Equal to a whole run


@settings(deadline=None, max_examples=6)
@pytest.mark.parametrize("level", [1, 2, 3, 4, "ensemble"])
@given(data=st.data())
def test_a_region_of_a_plane_at_every_level(level: Level, data: st.DataObject) -> None:
    long = {1: 90, 2: 150, 3: 260}.get(level, 400)  # type: ignore[arg-type]
    shape = (data.draw(st.integers(1, 50)), data.draw(st.integers(1, long)))
    if data.draw(st.booleans(), label="turned"):
        shape = shape[::-1]
    region = tuple(span(data, n) for n in shape)
    tile = data.draw(st.sampled_from((None, 16, 48)))
    assert_only_the_region(Image.from_array(pixels(shape), "YX"), runner_of(), region, level, tile)


@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_region_over_any_axes(data: st.DataObject) -> None:
    """T, Z, P, C and RGB samples in any order; models of one channel and of three."""
    outer = "".join(a for a in "PTZ" if data.draw(st.booleans(), label=a))
    channels = data.draw(st.sampled_from(("", "C", "S")))
    axes = "".join(data.draw(st.permutations(outer + channels.replace("S", "") + "YX")))
    axes += "S" if channels == "S" else ""
    sizes = dict(zip("PTZYXCS", (2, 3, 4, 40, 50, 3, 3), strict=True))
    dtype = "u1" if channels == "S" else "u2"
    image = Image.from_array(pixels(tuple(sizes[a] for a in axes), dtype=dtype), axes)
    three = channels != "" and data.draw(st.booleans(), label="three channels")
    runner = runner_of(2, 3 if three else 1, 2)
    if channels == "C" and not three:
        image = Image.from_array(np.take(image.data, [1], axis=axes.index("C")), axes)
    plain, shape, _ = output_axes(image, runner.card, "labels")
    assert plain == outer + "YX"
    region = tuple(span(data, n) for n in shape)
    done = assert_only_the_region(image, runner, region, 1, 32)
    planes = math.prod(r.stop - r.start for r in region[: len(outer)])
    assert done.n_tiles % planes == 0


@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_a_region_of_volumes(data: st.DataObject) -> None:
    axes = "".join(data.draw(st.permutations("TZYX")))
    sizes = {"T": 2, "Z": 20, "Y": 30, "X": 70}
    image = Image.from_array(pixels(tuple(sizes[a] for a in axes)), axes)
    region = tuple(span(data, sizes[a]) for a in "TZYX")
    level = data.draw(st.sampled_from((1, 2, "ensemble")))
    tile = data.draw(st.sampled_from((None, 16)))
    assert_only_the_region(image, runner_of(3), region, level, tile)


def test_one_plane_of_a_stack_reads_that_plane_alone() -> None:
    stack = pixels((5, 40, 60))
    seen: list[Any] = []

    class Watched:
        shape, dtype = stack.shape, stack.dtype

        def __getitem__(self, index: Any) -> NDArray[Any]:
            seen.append(index)
            return stack[index]

    runner = runner_of()
    maps, _ = fit_normalisers(Image.from_array(stack, "ZYX"), runner.card)
    region = (slice(3, 4), slice(None), slice(None))
    image = Image(Watched(), "ZYX")
    found, done, _ = run(image, runner, level=2, region=region, normalisers=maps)
    expected, _, _ = run(Image.from_array(stack, "ZYX"), runner, level=2)
    assert np.array_equal(found[3], expected[3])
    assert (found[[0, 1, 2, 4]] == UNTOUCHED).all()
    assert done.n_tiles == 1
    assert [np.arange(5)[index[0]].tolist() for index in seen] == [3]


def test_intensities_are_those_of_the_whole_image_or_as_given() -> None:
    plane = pixels((64, 64))
    plane[:32] //= 20  # a region that is fitted by itself would look brighter
    image = Image.from_array(plane, "YX")
    runner = runner_of()
    region = (slice(0, 32), slice(0, 64))
    options: dict[str, Any] = {"level": 1, "kind": "probabilities"}
    whole, _, _ = run(image, runner, **options)
    part, _, _ = run(image, runner, region=region, **options)
    np.testing.assert_allclose(part[region], whole[region], atol=1e-5)
    maps, _ = fit_normalisers(image, runner.card)
    assert np.array_equal(run(image, runner, normalisers=maps, **options)[0], whole)
    mine = [Normaliser(0.0, 3000.0)]
    brighter, _, _ = run(image, runner, region=region, normalisers=mine, **options)
    assert np.abs(brighter[region] - whole[region]).max() > 0.01
    for wrong in ([], maps * 2):
        with pytest.raises(InputError, match=r"expected 1 normaliser\(s\), got [02]"):
            predict(image, runner, np.zeros((64, 64)), level=1, normalisers=wrong)


def test_given_normalisers_are_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.from_array(pixels((30, 30)), "YX")
    runner = runner_of()
    maps, _ = fit_normalisers(image, runner.card)

    def fitted(*_: Any, **__: Any) -> Any:
        raise AssertionError("fitted again")

    monkeypatch.setattr(Normaliser, "fit", fitted)
    run(image, runner, level=1, normalisers=maps)
    with pytest.raises(AssertionError, match="fitted again"):
        run(image, runner, level=1)


# Models with a grid of their own


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_a_fixed_spacing_computes_whole_volumes_and_writes_the_region(kind: str) -> None:
    runner = runner_of(3, 1, 2, spacing=(2.0, 2.0, 2.0), orientation="LPS")
    stack = pixels((3, 10, 24, 20))
    image = Image.from_array(stack, "TZYX", (1.0, 1.5, 1.5), unit="mm")
    region = (slice(1, 3), slice(2, 5), slice(7, 20), slice(0, 9))
    axes, _, _ = output_axes(image, runner.card, kind)
    inside = with_channels(region, axes, "TZYX")
    whole, everything, _ = run(image, runner, level=2, kind=kind, tile=8)
    part, done, tiles = run(image, runner, level=2, kind=kind, tile=8, region=region)
    assert np.array_equal(part[inside], whole[inside])
    part[inside] = UNTOUCHED
    assert (part == UNTOUCHED).all()
    assert done.n_tiles == everything.n_tiles * 2 // 3  # two of three volumes
    assert done.pixels == 2 * 3 * 13 * 9
    written = [e.region for e in tiles if e.region]
    shape = whole.shape
    assert [tuple(s.indices(n) for s, n in zip(w, shape, strict=True)) for w in written] == [
        tuple(s.indices(n) for s, n in zip((slice(t, t + 1), *inside[1:]), shape, strict=True))
        for t in (1, 2)
    ]


def test_objects_are_found_in_the_region_alone() -> None:
    runner = runner_of()
    image = Image.from_array(pixels((2, 60, 70)), "TYX")
    region = (slice(1, 2), slice(11, 50), slice(23, 64))
    options: dict[str, Any] = {"level": 2, "tile": 16, "region": region}
    heights, _, _ = run(image, runner, kind="probabilities", **options)
    found, done, _ = run(image, runner, kind="instances", **options)
    expected = label_instances(heights[region], runner.card)  # one channel: T takes its place
    assert expected.max() > 3
    assert np.array_equal(found[region][0], expected)
    found[region] = UNTOUCHED
    assert (found == UNTOUCHED).all()
    assert done.pixels == 39 * 41


def test_objects_on_another_grid_are_found_in_the_region_alone() -> None:
    runner = runner_of(3, spacing=(2.0, 2.0, 2.0))
    image = Image.from_array(pixels((8, 20, 20)), "ZYX", (1.0, 1.0, 1.0), unit="mm")
    region = (slice(2, 7), slice(3, 17), slice(4, 20))
    heights, _, _ = run(image, runner, level=1, kind="probabilities", region=region)
    found, _, _ = run(image, runner, level=1, kind="instances", region=region)
    expected = label_instances(heights[region][None], runner.card)
    assert expected.max() > 1
    assert np.array_equal(found[region], expected)


def test_a_network_that_sees_its_tile_says_so_for_a_region() -> None:
    runner = runner_of(norm="instance")
    image = Image.from_array(pixels((32, 32)), "YX")
    everything = (slice(0, 32), slice(0, 32))
    assert run(image, runner, level=1, region=everything)[1].notes == ()
    _, done, _ = run(image, runner, level=1, region=(slice(0, 32), slice(0, 16)))
    assert [n.code for n in done.notes] == ["tile-dependent"]


# Only what is needed


@pytest.mark.parametrize(
    ("region", "tiles", "computed"),
    [
        ((slice(0, 320), slice(0, 320)), 25, None),
        ((slice(64, 128), slice(128, 192)), 1, (112, 112)),  # 64 and the halo of 24
        ((slice(100, 101), slice(200, 201)), 1, (52, 52)),  # 4 and the halo
        ((slice(0, 64), slice(60, 68)), 1, (88, 56)),  # no halo outside the image
        ((slice(40, 168), slice(0, 64)), 2, None),  # two of 64, not three of a fixed raster
        ((slice(0, 320), slice(256, 320)), 5, None),
    ],
)
def test_only_the_needed_tiles_are_computed(
    region: Slices, tiles: int, computed: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of()
    windows: list[tuple[int, ...]] = []
    plain = Runner.probabilities

    def counted(self: Runner, x: NDArray[np.float32], *rest: Any, **more: Any) -> Any:
        windows.extend([x.shape[2:]] * len(x))
        return plain(self, x, *rest, **more)

    monkeypatch.setattr(Runner, "probabilities", counted)
    image = Image.from_array(pixels((320, 320)), "YX")
    _, done, _ = run(image, runner, level=2, tile=64, region=region)
    assert done.n_tiles == len(windows) == tiles
    if computed:
        assert windows == [computed]


def test_the_tiles_of_a_region_fit_into_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region in the middle of an image has a halo where the image itself has an end."""
    runner = runner_of()
    monkeypatch.setattr(memory, "budget_bytes", lambda kind: 400e6)
    needed = memory.bytes_per_pixel(runner.card.network, 4, 4)
    for region in (None, (slice(100, 860), slice(1000, 2001))):
        plan = plan_tiles(runner, 4, (960, 3000), region=region)
        largest = max(math.prod(tile.window_shape) for tile in plan)
        assert 0.1 < largest * needed / 400e6 < 1


@settings(deadline=None)
@given(data=st.data())
def test_tiles_of_a_region_cover_it_once(data: st.DataObject) -> None:
    level = data.draw(st.integers(1, 4))
    step, reach = 2**level, aligned_halo(level)
    shape = tuple(data.draw(st.integers(1, 300)) for _ in range(2))
    region = tuple(span(data, n) for n in shape)
    plan = TilePlan(shape, level, data.draw(st.integers(step, 200)), region)
    smaller = data.draw(st.integers(step, 100))
    tiles = list(plan)
    assert len(tiles) == len(plan)
    pieces = [piece for tile in tiles for piece in plan.split(tile, (smaller, smaller))]
    for found in (tiles, pieces):
        count = np.zeros(shape, int)
        for tile in found:
            count[tile.core] += 1
            for core, window, n in zip(aligned(tile.core, level), tile.window, shape, strict=True):
                end = -(-n // step) * step
                assert window == slice(max(0, core.start - reach), min(end, core.stop + reach))
        expected = np.zeros(shape, int)
        expected[region] = 1
        assert np.array_equal(count, expected)
    for tile in pieces:
        assert max(s.stop - s.start for s in aligned(tile.core, level)) <= max(smaller, step)


def test_a_region_is_cut_smaller_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to 2^level, also where the region begins between two multiples of it."""
    runner = runner_of()
    plan = TilePlan((64, 64), 2, 64, (slice(3, 6), slice(10, 40)))
    x = pixels((64, 64), dtype="f4") / 60000
    plain = Runner.probabilities

    def load(_: int, tile: Tile) -> tuple[NDArray[np.float32], int]:
        return x[(None, *tile.window)], 0

    (whole,) = stream(runner, 2, load, plan, 1)

    def small_only(self: Runner, x: NDArray[Any], level: Level, crop: Slices) -> Any:
        if any(s.stop - s.start > 4 for s in aligned(crop, 2)):
            raise MemoryError
        return plain(self, x, level, crop)

    monkeypatch.setattr(Runner, "probabilities", small_only)
    blocks = [b for b in stream(runner, 2, load, plan, 1) if isinstance(b, Block)]
    assert isinstance(whole, Block)
    assert len(blocks) == 2 * 8  # rows 0-4 and 4-8, columns 8 to 40
    for block in blocks:
        where = tuple(
            slice(c.start - r.start, c.stop - r.start)
            for c, r in zip(block.tile.core, plan.region, strict=True)
        )
        expected = whole.probabilities[(slice(None), *where)]
        np.testing.assert_allclose(block.probabilities, expected, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("region", "match"),
    [
        ((slice(0, 4),), "one slice for each axis of TYX, got 1"),
        ((slice(0, 1),) * 4, "one slice for each axis of TYX, got 4"),
        ((slice(0, 2), slice(0, 21), slice(0, 5)), "along Y must be .* within 0 and 20"),
        ((slice(0, 2), slice(-5, 20), slice(0, 5)), "along Y must be .* within 0 and 20"),
        ((slice(0, 2), slice(0, 20), slice(5, 5)), "along X .* not empty"),
        ((slice(0, 2), slice(0, 20), slice(6, 5)), "along X .* not empty"),
        ((slice(2, 3), slice(0, 20), slice(0, 5)), "along T must be .* within 0 and 2"),
        ((slice(0, 2), slice(0, 20, 2), slice(0, 5)), "along Y .* without a step"),
        ((0, slice(0, 20), slice(0, 5)), "along T .* without a step"),
        ((slice(0, 2), slice(0, 20), slice(0.5, 5)), "along X .* whole numbers"),
    ],
)
def test_bad_regions_are_refused_before_anything_is_read(region: Any, match: str) -> None:
    class Unread:
        shape, dtype = (2, 20, 30), np.dtype("u2")

        def __getitem__(self, index: Any) -> Any:
            raise AssertionError("pixels were read")

    sink = np.zeros((2, 20, 30), np.uint8)
    with pytest.raises(InputError, match=match):
        predict(Image(Unread(), "TYX"), runner_of(), sink, level=1, region=region)


def test_ends_may_be_left_out_and_a_sink_is_of_the_whole_image() -> None:
    image = Image.from_array(pixels((20, 30)), "YX")
    runner = runner_of(normalisation=Normalisation("window", 0.0, 60000.0))
    whole, _, _ = run(image, runner, level=1)
    region = (slice(None, 8), slice(np.int64(10), None))
    part, _, _ = run(image, runner, level=1, region=region)
    assert np.array_equal(part[:8, 10:], whole[:8, 10:])
    with pytest.raises(InputError, match=r"shape \(20, 30\) \(YX\), got a sink of \(8, 20\)"):
        predict(image, runner, np.zeros((8, 20)), level=1, region=region)
