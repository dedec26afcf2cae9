"""What is on screen: equal to a run, from kept nodes, dropped for what is newer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_helpers import LONG, NUCLEI, Recording, heard, source_of, until, whole_run
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import (
    EngineError,
    LayerSource,
    LevelReady,
    Noted,
    ViewRequest,
)


def levels_of(engine: Engine, source: LayerSource, request: ViewRequest) -> dict[Any, NDArray[Any]]:
    job = engine.view(source, request)
    events = heard(job)
    job.wait(LONG)
    return {e.level: e.probabilities for e in events if isinstance(e, LevelReady)}


def nodes(engine: Engine) -> int:
    return int(engine.stats().wait(LONG)["nodes"])


@pytest.fixture(scope="module")
def wide(picture: NDArray[Any]) -> NDArray[Any]:
    """Return a picture whose inside lies further from its ends than a halo, (Y, X)."""
    return np.tile(picture, (2, 3))[:256, :400]


@pytest.mark.parametrize("region", [((0, 256), (0, 400)), ((101, 150), (203, 290))])
def test_levels_equal_a_run(
    engine: Engine, runner: Runner, wide: NDArray[Any], region: Any
) -> None:
    request = ViewRequest(NUCLEI, "ensemble", region)
    found = levels_of(engine, source_of(wide), request)
    assert list(found) == [1, 2, 3, 4, "ensemble"]
    inside = (slice(None), *(slice(a, b) for a, b in region))
    for level, probabilities in found.items():
        expected = whole_run(runner, Image(wide, "YX"), level=level, kind="probabilities")
        np.testing.assert_allclose(probabilities, expected[inside], atol=1e-5)
        assert probabilities.flags.owndata
        assert probabilities.max() > 0.5


def test_axes_of_the_layer_are_kept(engine: Engine, runner: Runner, picture: NDArray[Any]) -> None:
    # (X, C, T, Y): the region names X, T, Y.
    data = np.zeros((176, 2, 3, 160), np.uint16)
    data[:170, 1, 2, :150] = picture.T
    request = ViewRequest(NUCLEI, 1, ((16, 96), (2, 3), (32, 144)), channel=1)
    found = levels_of(engine, source_of(data, "XCTY"), request)[1]
    assert found.shape == (2, 80, 1, 112)
    image = Image(data, "XCTY")
    expected = whole_run(runner, image, level=1, kind="probabilities", channel=1)  # T C Y X
    np.testing.assert_allclose(
        found[:, :, 0], expected[2, :, 32:144, 16:96].transpose(0, 2, 1), atol=1e-5
    )


def test_going_deeper_computes_only_what_is_missing(engine: Engine, wide: NDArray[Any]) -> None:
    source = Recording(wide)
    layer = source_of(source, key="deeper")
    region = ((64, 128), (64, 128))
    start = nodes(engine)
    assert list(levels_of(engine, layer, ViewRequest(NUCLEI, 2, region))) == [1, 2]
    assert nodes(engine) - start == 6  # 1 + 2 + 3: X00, X10 X01, X20 X11 X02
    reads = len(source.read)
    assert list(levels_of(engine, layer, ViewRequest(NUCLEI, 2, region))) == [1, 2]
    assert nodes(engine) - start == 6
    assert list(levels_of(engine, layer, ViewRequest(NUCLEI, 4, region, skip=(1, 2)))) == [3, 4]
    assert nodes(engine) - start == 15
    inner = ((70, 80), (90, 128))  # zoomed in: part of what is known
    assert list(levels_of(engine, layer, ViewRequest(NUCLEI, 3, inner))) == [1, 2, 3]
    assert list(levels_of(engine, layer, ViewRequest(NUCLEI, 3, inner, skip=(1, 2, 3)))) == []
    assert nodes(engine) - start == 15
    assert len(source.read) == reads


def test_nothing_is_kept_of_a_layer_without_a_key(engine: Engine, wide: NDArray[Any]) -> None:
    region = ((0, 32), (0, 32))
    before = levels_of(engine, source_of(wide), ViewRequest(NUCLEI, 1, region))[1]
    changed = levels_of(engine, source_of(wide[::-1, ::-1]), ViewRequest(NUCLEI, 1, region))[1]
    assert not np.array_equal(before, changed)


def test_a_newer_view_drops_the_older_ones(engine: Engine, wide: NDArray[Any]) -> None:
    pid = engine.worker_pid
    slow = np.tile(wide, (3, 2))
    whole = ((0, slow.shape[0]), (0, slow.shape[1]))
    jobs = [engine.view(source_of(slow), ViewRequest(NUCLEI, 4, whole))]
    until(lambda: jobs[0].state == "running")
    started = engine.jobs_started
    jobs += [engine.view(source_of(slow), ViewRequest(NUCLEI, 4, whole)) for _ in range(5)]
    last = engine.view(source_of(wide), ViewRequest(NUCLEI, 1, ((0, 32), (0, 32))))
    assert last.wait(LONG) == (1,)
    assert [j.state for j in jobs] == ["cancelled"] * 6
    assert engine.jobs_started == started + 1  # those between were never sent
    assert engine.worker_pid == pid


def test_a_dropped_job_is_over_at_once_and_the_worker_lives(
    engine: Engine, wide: NDArray[Any]
) -> None:
    pid = engine.worker_pid
    slow = np.tile(wide, (3, 2))
    job = engine.view(
        source_of(slow), ViewRequest(NUCLEI, 4, ((0, slow.shape[0]), (0, slow.shape[1])))
    )
    until(lambda: job.state == "running")
    job.drop()
    until(lambda: job.state == "cancelled", 1.0)
    with pytest.raises(EngineError, match="cancelled") as caught:
        job.wait(LONG)
    assert caught.value.code == "cancelled"
    assert engine.stats().wait(LONG)
    assert engine.worker_pid == pid


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (((0, 10),), "for each axis of TYX"),
        (((0, 2), (0, 9), (0, 9)), "one position"),
        (((0, 1), (9, 9), (0, 9)), "not empty"),
        (((0, 1), (0, 9), (0, 999)), "within 0 and 64"),
    ],
)
def test_a_view_that_does_not_fit_is_refused(engine: Engine, region: Any, words: str) -> None:
    stack = np.zeros((3, 64, 64), np.uint8)
    job = engine.view(source_of(stack, "TYX"), ViewRequest(NUCLEI, 1, region))
    with pytest.raises(EngineError, match=words) as caught:
        job.wait(LONG)
    assert caught.value.code == "input"


def test_notes_are_told_with_the_first_view_alone(engine: Engine) -> None:
    layer = source_of(np.zeros((64, 64), np.uint8), key="constant")
    told = []
    for start in (0, 32):
        request = ViewRequest(NUCLEI, 1, ((start, start + 32), (0, 32)))
        events = heard(engine.view(layer, request))
        told.append([e.code for e in events if isinstance(e, Noted)])
    assert told == [["constant-image"], []]


@pytest.mark.parametrize("region", [((0, 256), (0, 400)), ((101, 150), (203, 290))])
def test_levels_of_one_graph_equal_a_run(
    engine: Engine, runner: Runner, wide: NDArray[Any], region: Any
) -> None:
    """The first level alone and at once, then the deepest, then those between."""
    pytest.importorskip("openvino")
    model = replace(NUCLEI, backend="openvino")
    layer = source_of(wide, key=f"one graph {region}")
    found = levels_of(engine, layer, ViewRequest(model, 4, region))
    assert list(found) == [1, 4, 3, 2]
    assert list(levels_of(engine, layer, ViewRequest(model, 3, region, skip=(1,)))) == [3, 2]
    inside = (slice(None), *(slice(a, b) for a, b in region))
    for level, probabilities in found.items():
        expected = whole_run(runner, Image(wide, "YX"), level=level, kind="probabilities")
        np.testing.assert_allclose(probabilities, expected[inside], atol=1e-4)
        assert probabilities.max() > 0.5


def test_a_graph_goes_as_far_as_the_view(engine: Engine, wide: NDArray[Any]) -> None:
    pytest.importorskip("openvino")
    model, region = replace(NUCLEI, backend="openvino"), ((64, 128), (64, 128))
    layer = source_of(wide, key="as far")
    assert list(levels_of(engine, layer, ViewRequest(model, 2, region))) == [1, 2]
    assert engine.stats().wait(LONG)["kept"] == [1, 2]
    found = levels_of(engine, layer, ViewRequest(model, "ensemble", region, skip=(1, 2)))
    assert list(found) == [3, 4, "ensemble"]
    assert engine.stats().wait(LONG)["kept"] == [1, 2, 3, 4]
