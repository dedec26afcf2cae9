"""Tiled equals whole: properties over shapes, types, axes, tile sizes and levels."""

from __future__ import annotations

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
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.inference import output_axes, predict
from napari_unetpp.core.run.runtime import Device, Level, Runner
from napari_unetpp.core.run.tiling import aligned_halo

FLOAT32 = Device("cpu", "test", "float32", "a test")
DTYPES = ("bool", "u1", "i1", "u2", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8")


@cache
def random_runner(ndim: int, norm: str = "none", topology: str = "unet++") -> Runner:
    """Random weights; logits of mean 0 and deviation 1 on random input."""
    torch.manual_seed(3)
    filters = (4, 8, 12, 16, 20) if ndim == 2 else (3, 4, 5, 6, 7)
    config = NetworkConfig(topology=topology, ndim=ndim, filters=filters, norm=norm)
    network = NestedUNet(config).eval()
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
    with torch.no_grad():
        x = torch.rand((1, 1, *(32,) * ndim))
        for level, logits in network.forward_heads(x).items():
            head = network.heads[str(level)]
            head.weight.div_(logits.std())
            head.bias.sub_(logits.mean()).div_(logits.std())
    return Runner(Model(card_of(config), network, Path("m.safetensors"), ""), FLOAT32)


def card_of(config: NetworkConfig) -> ModelCard:
    axes = "YX" if config.ndim == 2 else "ZYX"
    return ModelCard("test", config, (ClassInfo("thing"),), axes, levels_trained=config.head_levels)


def whole(runner: Runner, plane: NDArray[Any], level: int, rule: Normaliser) -> NDArray[Any]:
    """Return the probabilities of one pass over the padded plane, without any tile."""
    step = 2**level
    past = [(0, -n % step) for n in plane.shape]
    x = torch.from_numpy(np.pad(rule(plane), past, mode="edge"))[None, None]
    with torch.inference_mode():
        network = runner.reference.network
        found = network.probabilities(network(x, level))[0, 0].numpy()
    return found[tuple(slice(0, n) for n in plane.shape)]


def tiled(runner: Runner, image: Image, level: Level, tile: int | None) -> tuple[NDArray[Any], int]:
    _, shape, dtype = output_axes(image, runner.card, "probabilities")
    result = np.full(shape, np.nan, dtype)
    done = drain(predict(image, runner, result, level=level, kind="probabilities", tile=tile))
    return result, done.n_tiles


def pixels(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    values = np.random.default_rng(seed).random(shape)
    if dtype == "bool":
        return values > 0.5
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return (values * 1000).astype(kind)
    info = np.iinfo(kind)
    return (values * (float(info.max) - info.min) * 0.99 + info.min).astype(kind)


# Images that need several tiles along one axis at their level, and few enough pixels.
PLANES = {1: (70, 70), 2: (60, 120), 3: (24, 260), 4: (20, 500)}
VOLUMES = {1: (9, 40, 40), 2: (6, 20, 90), 3: (9, 12, 180), 4: (5, 17, 330)}


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_tiled_equals_whole(data: st.DataObject) -> None:
    ndim = data.draw(st.sampled_from((2, 3)), label="ndim")
    level = data.draw(st.integers(1, 4), label="level")
    norm = data.draw(st.sampled_from(("none", "batch")), label="norm")
    most = (PLANES if ndim == 2 else VOLUMES)[level]
    space = tuple(data.draw(st.integers(1, n), label="size") for n in most)
    if data.draw(st.booleans(), label="turned"):
        space = space[::-1]
    outer = data.draw(st.sampled_from(("", "T", "P", "Z") if ndim == 2 else ("", "T")))
    axes = data.draw(st.permutations(outer + "ZYX"[-ndim:]), label="axes")
    dtype = data.draw(st.sampled_from(DTYPES), label="dtype")
    tile = data.draw(st.integers(2**level, 80), label="tile")
    if level >= 3:
        tile = max(tile, 32)

    runner = random_runner(ndim, norm)
    canonical = pixels((*(2,) * len(outer), *space), dtype, seed=tile)
    order = [(outer + "ZYX"[-ndim:]).index(a) for a in axes]
    image = Image.from_array(canonical.transpose(order), "".join(axes))
    found, _ = tiled(runner, image, level, tile)

    plain = canonical.view(np.uint8) if dtype == "bool" else canonical
    rule, _ = Normaliser.fit(plain, Normalisation())
    planes = plain.reshape(-1, *space)
    expected = np.stack([whole(runner, plane, level, rule) for plane in planes])
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("topology", ["unet", "unet-e", "unet+"])
def test_the_rest_of_the_family(topology: str) -> None:
    runner = random_runner(2, topology=topology)
    level = runner.card.network.levels
    array = pixels((18, 400), "f4", 5)
    rule, _ = Normaliser.fit(array, Normalisation())
    found, n_tiles = tiled(runner, Image.from_array(array, "YX"), level, 64)
    assert n_tiles == 7
    np.testing.assert_allclose(found, whole(runner, array, level, rule), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("shape", "tile"), [((140, 260), 48), ((300, 280), 96)])
def test_both_axes_at_the_deepest_level(shape: tuple[int, int], tile: int) -> None:
    runner = random_runner(2, "batch")
    array = pixels(shape, "u2", 6)
    rule, _ = Normaliser.fit(array, Normalisation())
    found, n_tiles = tiled(runner, Image.from_array(array, "YX"), 4, tile)
    assert n_tiles > 10
    np.testing.assert_allclose(found, whole(runner, array, 4, rule), rtol=0, atol=1e-5)


def test_ensemble_is_the_mean_of_the_whole_passes() -> None:
    runner = random_runner(2)
    array = pixels((32, 320), "f4", 7)  # a multiple of 16: every level pads alike
    rule, _ = Normaliser.fit(array, Normalisation())
    found, n_tiles = tiled(runner, Image.from_array(array, "YX"), "ensemble", 64)
    expected = np.mean([whole(runner, array, k, rule) for k in (1, 2, 3, 4)], axis=0)
    assert n_tiles == 5
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_the_halo_is_as_large_as_it_must_be_and_no_larger(level: int) -> None:
    """With positive weights nothing cancels: what can reach a core does reach it."""
    step = 2**level
    network = NestedUNet(NetworkConfig(filters=(1,) * 5)).double().eval()
    network.pool = torch.nn.AvgPool2d(2)  # the same reach, and gradient for every pixel
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0 if parameter.ndim > 1 else 0.0)
    start, stop, length = 8 * step, 9 * step, 17 * step
    x = torch.zeros((1, 1, step, length), dtype=torch.float64, requires_grad=True)
    network(x + 1.0, level)[..., start:stop].sum().backward()
    assert x.grad is not None
    reached = np.flatnonzero(x.grad[0, 0].sum(0).numpy())
    left, right = start - reached.min(), reached.max() + 1 - stop
    assert left == right
    assert aligned_halo(level) - step < left <= aligned_halo(level)


@pytest.mark.parametrize("level", [1, 2])
def test_a_smaller_halo_would_be_seen(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is sharp enough to catch missing context.

    At deeper levels the outermost pixel's share is less than float32 resolves.
    """
    short = aligned_halo(level) - 2**level
    monkeypatch.setattr("napari_unetpp.core.run.tiling.aligned_halo", lambda k: short)
    runner = wired_runner(2, level, deep=False)
    with torch.no_grad():
        for parameter in runner.reference.network.parameters():
            parameter.fill_(0.1 if parameter.ndim > 1 else 0.0)
    array = np.random.default_rng(0).random((2**level, 20 * 2**level), dtype=np.float32)
    rule = Normaliser(0.0, 1.0, clip=(0.0, 1.0))
    image = Image.from_array(array, "YX")
    found, n_tiles = tiled(runner, image, level, 4 * 2**level)
    assert n_tiles == 5
    difference = np.abs(found - whole(runner, array, level, rule)).max()
    monkeypatch.undo()
    exact, _ = tiled(runner, image, level, 4 * 2**level)
    assert np.abs(exact - whole(runner, array, level, rule)).max() < difference / 10


# Networks whose answer is known without running any


def wired_runner(ndim: int, level: int, deep: bool) -> Runner:
    """Pass channel 0 through: the pixel itself, or the maximum of its 2^level block.

    With `deep` the signal goes down column 0 and up the last diagonal; otherwise along the
    skips of the top row. The logit is the normalised intensity.
    """
    config = NetworkConfig(ndim=ndim, filters=(2,) * (level + 1))
    network = NestedUNet(config).eval()
    centre = (1,) * ndim
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for (_, j), block in zip(network.edges, network.nodes.values(), strict=True):
            convs = [m for m in block if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
            # Skips come first and the up-sampled node last, two channels each.
            source = convs[0].weight.shape[1] - 2 if deep and j else 0
            convs[0].weight[(0, source, *centre)] = 1.0
            convs[1].weight[(0, 0, *centre)] = 1.0
        for up in network.ups.values():
            up.weight[0, 0] = 1.0
        for head in network.heads.values():
            head.weight[0, 0] = 1.0
    card = card_of(config).replace(normalisation=Normalisation("window", 0.0, 1.0))
    return Runner(Model(card, network, Path("m.safetensors"), ""), FLOAT32)


def block_maximum(array: NDArray[Any], step: int) -> NDArray[Any]:
    padded = np.pad(array, [(0, -n % step) for n in array.shape], mode="edge")
    for axis in range(array.ndim):
        starts = np.arange(0, padded.shape[axis], step)
        padded = np.maximum.reduceat(padded, starts, axis=axis).repeat(step, axis=axis)
    return padded[tuple(slice(0, n) for n in array.shape)]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_pixel_comes_back_at_its_own_place(data: st.DataObject) -> None:
    ndim = data.draw(st.sampled_from((2, 3)))
    level = data.draw(st.integers(1, 3))
    deep = data.draw(st.booleans())
    most = (PLANES if ndim == 2 else VOLUMES)[level]
    shape = tuple(data.draw(st.integers(1, n)) for n in most)
    tile = max(data.draw(st.integers(2**level, 50)), 4 * level)
    array = np.random.default_rng(tile).random(shape, dtype=np.float32)
    found, _ = tiled(wired_runner(ndim, level, deep), Image(array, "ZYX"[-ndim:]), level, tile)
    logit = block_maximum(array, 2**level) if deep else array
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logit)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("level", [1, 2, 3, 4, "ensemble"])
def test_a_constant_network_is_constant(ndim: int, level: Level) -> None:
    runner = wired_runner(ndim, 4, deep=False)
    for head in runner.reference.network.heads.values():
        head.weight.zero_()
        head.bias.fill_(float(np.log(3.0)))  # sigmoid(log 3) = 3/4
    shape = (37, 270) if ndim == 2 else (3, 5, 270)
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    found, n_tiles = tiled(runner, Image(array, "ZYX"[-ndim:]), level, 64)
    assert n_tiles == 5
    np.testing.assert_allclose(found, 0.75, rtol=0, atol=1e-6)
