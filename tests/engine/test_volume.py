"""Views of volumes: the whole is computed once, and any region is cut from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import LONG, heard, source_of, whole_run
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.model.modelfile import load_model, save_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.tiling import Tile
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import LevelReady, ModelRequest, ViewRequest
from napari_unetpp.engine.worker.views import View

AFFINE = np.array([[0, 0, 1.5, 3], [0, -1.0, 0, 4], [2.5, 0, 0, 5], [0, 0, 0, 1.0]])


def make(path: Path, **card: Any) -> ModelRequest:
    """Save a small 3D model whose heads say something different everywhere."""
    config = NetworkConfig(ndim=3, filters=(4, 6, 8), out_channels=3, activation="softmax")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = NestedUNet(config)
    made = ModelCard(
        "small", config, (ClassInfo("a"), ClassInfo("b")), axes="ZYX", levels_trained=(1, 2),
        normalisation=Normalisation("window", 0.0, 100.0), **card,
    )  # fmt: skip
    save_model(path, network, made, dtype="float32")
    return ModelRequest(str(path), "cpu", "float32")


@pytest.fixture
def volume(rng: np.random.Generator) -> NDArray[np.float32]:
    """Return two time points of a smooth volume, (T, Z, Y, X).

    Its sizes, and those on the models' grids, are multiples of 4: a run at L1 ends an image at
    a multiple of 2, a view that goes on to L2 at a multiple of 4.
    """
    noise = rng.random((2, 12, 32, 24)).astype(np.float32) * 100
    return (noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3)) / 3


@pytest.mark.parametrize(
    "card", [{}, {"spacing": (1.25, 2.0, 3.0)}, {"spacing": (3.0, 2.0, 1.25), "orientation": "LAS"}]
)
def test_any_slice_of_a_volume(
    engine: Engine, volume: NDArray[Any], tmp_path: Path, card: dict[str, Any]
) -> None:
    request = make(tmp_path / "a model.safetensors", **card)
    runner = Runner(load_model(request.model), choose_device("cpu", "float32"))
    image = Image(volume, "TZYX", (2.5, 1.0, 1.5), "mm", AFFINE)
    source = source_of(
        volume, "TZYX", key="volume", spacing=image.spacing, unit="mm", affine=AFFINE
    )
    wanted: dict[Any, NDArray[Any]] = {}
    for level in (1, 2):
        wanted[level] = whole_run(runner, image, level=level, kind="probabilities")
    before = engine.stats().wait(LONG)["nodes"]
    computed = []
    for region in (
        ((1, 2), (5, 6), (0, 32), (0, 24)),
        ((1, 2), (0, 12), (7, 8), (3, 20)),
        ((1, 2), (0, 12), (0, 32), (0, 24)),
    ):
        job = engine.view(source, ViewRequest(request, "ensemble", region))
        events = heard(job)
        found = {e.level: e.probabilities for e in events if isinstance(e, LevelReady)}
        assert job.wait(1) == (1, 2, "ensemble")
        place = tuple(slice(a, b) for a, b in region)
        for level in (1, 2):
            # The result has no background, which is channel 0 of the network. (T, C, Z, Y, X)
            expected = wanted[level].transpose(1, 0, 2, 3, 4)[(slice(None), *place)]
            assert found[level].shape == (3, *expected.shape[1:])
            np.testing.assert_allclose(found[level][1:], expected, atol=1e-5)
            np.testing.assert_allclose(found[level].sum(axis=0), 1, atol=1e-5)
        np.testing.assert_allclose(found["ensemble"], (found[1] + found[2]) / 2, atol=1e-6)
        computed.append(engine.stats().wait(LONG)["nodes"] - before)
    assert computed == [6, 6, 6]  # one volume, once


def test_a_window_too_large_to_keep_its_nodes_gives_the_same(
    volume: NDArray[Any], tmp_path: Path
) -> None:
    request = make(tmp_path / "model.safetensors")
    runner = Runner(load_model(request.model), choose_device("cpu", "float32"))
    x = np.pad(volume[:1] / 100, [(0, 0), (0, 4), (0, 0), (0, 0)], mode="edge")
    inner = (slice(0, 12), slice(0, 32), slice(0, 24))
    tile = Tile(inner, tuple(slice(0, n) for n in x.shape[1:]))
    views = [View(("a",), x, tile, runner, lambda found, region: found) for _ in range(2)]
    assert views[0]._keeps_nodes
    views[1]._keeps_nodes = False
    for level in (2, 1):
        kept, tiled = (view.probabilities(level, inner) for view in views)
        assert kept.shape == (3, 12, 32, 24)
        np.testing.assert_allclose(kept, tiled, atol=1e-5)
    assert views[0].levels_done == (1, 2)
    assert views[1].levels_done == (2, 1)
    assert views[1].seconds[2] > 0
