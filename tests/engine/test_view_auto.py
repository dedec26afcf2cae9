"""A view at "auto": L1, and then what a run over the same region comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_helpers import LONG, NUCLEI, heard, source_of
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import Model, load_model, save_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.tiling import Tile
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import LevelReady, ModelRequest, Noted, ViewRequest
from napari_unetpp.engine.worker.by_tile import in_words
from napari_unetpp.engine.worker.view import View


def run_at(
    runner: Runner, image: NDArray[Any], level: Any, region: Any
) -> tuple[NDArray[Any], dict[int, int]]:
    """Return the probabilities of a region, and the tiles by level, by a run."""
    sink = np.zeros((2, *image.shape), np.float32)  # nuclei and centres
    place = tuple(slice(a, b) for a, b in region)
    done = drain(
        predict(Image(image, "YX"), runner, sink, level=level, kind="probabilities", region=place)
    )
    return sink[(slice(None), *place)], dict(done.tiles_by_level)


@pytest.mark.parametrize("region", [((0, 150), (0, 170)), ((37, 90), (41, 133))])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, None])
def test_it_is_what_a_run_comes_to(
    engine: Engine, picture: NDArray[Any], tmp_path: Path, region: Any, tolerance: float | None
) -> None:
    """At the image's far ends too, where L2 is padded less than L4."""
    model = load_model("nuclei")
    card = model.card.replace(auto_tolerance=tolerance)
    path = save_model(tmp_path / "m.safetensors", model.network, card)
    runner = Runner(load_model(path), choose_device("cpu", "float32"))
    expected, tiles = run_at(runner, picture, "auto", region)
    request = ModelRequest(str(path), "cpu", "float32", backend="torch")
    job = engine.view(source_of(picture), ViewRequest(request, "auto", region))
    events = heard(job)
    assert job.wait(LONG) == (1, "auto")
    found = {e.level: e for e in events if isinstance(e, LevelReady)}
    assert list(found) == [1, "auto"]
    np.testing.assert_allclose(found["auto"].probabilities, expected, atol=1e-5)
    assert found["auto"].seconds > 0
    (told,) = [e for e in events if isinstance(e, Noted) and e.code == "auto-tiles"]
    assert told.message == in_words(tiles)
    if tolerance is not None:
        assert list(tiles) == [4 if tolerance == 0.0 else 2]


def test_it_is_computed_once(engine: Engine, picture: NDArray[Any]) -> None:
    source, region = source_of(picture, key="auto once"), ((16, 90), (16, 99))

    def ask(*skip: int) -> tuple[list[Any], int]:
        job = engine.view(source, ViewRequest(NUCLEI, "auto", region, skip=skip))
        levels = [e.level for e in heard(job) if isinstance(e, LevelReady)]
        return levels, engine.stats().wait(LONG)["nodes"]

    first, nodes = ask(1)
    assert first == ["auto"]
    again, after = ask(1)
    assert (again, after) == (["auto"], nodes)
    assert ask()[0] == [1, "auto"]


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_of_a_volume_it_is_the_whole(tolerance: float) -> None:
    """12 planes are padded to 12 for L2 and to 16 for L3; any region is cut from one run."""
    torch.manual_seed(2)
    config = NetworkConfig(ndim=3, filters=(2, 3, 4, 5))
    card = ModelCard(
        "v", config, (ClassInfo("a"),), "ZYX", levels_trained=(1, 2, 3), auto_tolerance=tolerance
    )
    runner = Runner(
        Model(card, NestedUNet(config).eval(), Path("v.safetensors"), ""),
        choose_device("cpu", "float32"),
    )
    block = np.random.default_rng(1).random((1, 12, 32, 24), dtype=np.float32)
    x = np.pad(block, [(0, 0), (0, 4), (0, 0), (0, 0)], mode="edge")
    core = tuple(slice(0, n) for n in block.shape[1:])
    tile = Tile(core, tuple(slice(0, n) for n in x.shape[1:]))

    def cut(found: NDArray[np.float32], region: Any) -> NDArray[np.float32]:
        return found[(slice(None), *region)]

    view = View(("v",), x, tile, runner, cut, block.shape[1:])
    level, depth = (3, 16) if tolerance == 0.0 else (2, 12)
    expected = runner.probabilities(x[None, :, :depth], level)[0]
    for region in (core, (slice(3, 9), slice(0, 32), slice(5, 6))):
        found = view.auto(region)
        np.testing.assert_allclose(found.probabilities, expected[(slice(None), *region)], atol=1e-5)
        assert found.tiles == {level: 1}
    assert view.auto(core).seconds == found.seconds  # of one run


@pytest.mark.parametrize(
    ("tiles", "text"),
    [
        ({4: 1}, "1 tile at L4"),
        ({2: 12, 4: 3}, "12 tiles at L2, 3 at L4"),
        ({2: 2}, "2 tiles at L2"),
    ],
)
def test_tiles_in_words(tiles: dict[int, int], text: str) -> None:
    assert in_words(tiles) == text
