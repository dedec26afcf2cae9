"""Where to paint next: unsure places of what is on screen, and not what is painted."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from engine_helpers import LONG, NUCLEI, cells, heard, source_of
from numpy.typing import NDArray

from napari_unetpp.core.tune.disagreement import uncertainty
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import (
    EngineError,
    LayerSource,
    LevelReady,
    Suggestion,
    SuggestRequest,
    ViewRequest,
)
from napari_unetpp.engine.worker.paint import Paint
from napari_unetpp.engine.worker.suggest import LIMIT, _middle


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint16]:
    """Return discs that fade to the right until the model is not sure of them, (Y, X)."""
    tiles = np.tile(cells().astype(np.float32), (2, 3))
    fade = np.linspace(1.0, 0.05, tiles.shape[1])
    return (100 + (tiles - 100) * fade).clip(0, 65535).astype(np.uint16)


def map_of(engine: Engine, source: LayerSource, region: Any, **more: Any) -> NDArray[Any]:
    events = heard(engine.view(source, ViewRequest(NUCLEI, 4, region, **more)))
    # The class alone: the other channel helps to separate objects.
    return uncertainty([e.probabilities[:1] for e in events if isinstance(e, LevelReady)])


def centre(one: Suggestion) -> NDArray[Any]:
    return np.array([(a + b) / 2 for a, b in one.box])


def test_places_are_unsure_unpainted_and_apart(engine: Engine, picture: NDArray[Any]) -> None:
    region = ((8, 192), (16, 336))
    source = source_of(picture, key="suggest")
    expected = map_of(engine, source, region)
    nodes = engine.stats().wait(LONG)["nodes"]
    sink = np.full((184, 320), -1, np.float32)
    request = SuggestRequest(NUCLEI, region, count=4)
    free = engine.suggest(source, request, sink=sink).wait(LONG)
    assert engine.stats().wait(LONG)["nodes"] == nodes  # those of what is on screen
    np.testing.assert_allclose(sink, expected, atol=1e-6)
    assert 0 <= sink.min() < 0.1
    assert 0.9 < sink.max() <= 1
    assert 1 <= len(free) <= 4
    assert [s.score for s in free] == sorted((s.score for s in free), reverse=True)
    assert free[0].score > 2 * sink.mean()
    for one in free:
        inside = tuple(slice(a - r, b - r) for (a, b), (r, _) in zip(one.box, region, strict=True))
        assert one.score == pytest.approx(float(sink[inside].mean()), abs=1e-6)
        for (a, b), (start, stop) in zip(one.box, region, strict=True):
            assert start <= a < b <= stop
            assert b - a <= 48
    # Chebyshev: they may touch, and do not overlap but at the region's ends.
    for one, two in itertools.combinations(free, 2):
        assert np.abs(centre(one) - centre(two)).max() >= 36

    painted = np.zeros(picture.shape, np.uint8)
    (y0, y1), (x0, x1) = free[0].box
    painted[(y0 + y1) // 2, x0:x1] = 1
    others = engine.suggest(source, request, source_of(painted)).wait(LONG)
    assert others
    for one in others:
        assert not painted[tuple(slice(a, b) for a, b in one.box)].any()


def test_axes_of_the_layer_are_kept(engine: Engine, picture: NDArray[Any]) -> None:
    # (X, C, T, Y): boxes name X, T, Y; the painted layer has another order.
    data = np.zeros((336, 2, 3, 192), np.uint16)
    data[:, 1, 2] = picture.T
    region = ((100, 336), (2, 3), (0, 192))
    sink = np.zeros((236, 1, 192), np.float32)
    painted = np.zeros((3, 192, 336), np.int32)
    painted[1] = 1  # another time
    request = SuggestRequest(NUCLEI, region, channel=1, count=3)
    source = source_of(data, "XCTY")
    found = engine.suggest(source, request, source_of(painted, "TYX"), sink).wait(LONG)
    assert len(found) == 3
    assert {one.box[1] for one in found} == {(2, 3)}
    assert all(100 <= one.box[0][0] < one.box[0][1] <= 336 for one in found)
    np.testing.assert_allclose(sink, map_of(engine, source, region, channel=1), atol=1e-5)
    assert sink.max() > 0.9
    painted[2] = 2
    assert engine.suggest(source, request, source_of(painted, "TYX")).wait(LONG) == ()


@pytest.mark.parametrize(
    ("painted", "sink", "message"),
    [
        (np.zeros((10, 336), np.uint8), None, "must have the image's shape Y=192 x X=336"),
        (None, np.zeros((5, 5), np.float32), "must have the region's shape"),
    ],
)
def test_what_does_not_fit(
    engine: Engine, picture: NDArray[Any], painted: Any, sink: Any, message: str
) -> None:
    request = SuggestRequest(NUCLEI, ((0, 64), (0, 64)))
    layer = None if painted is None else source_of(painted)
    with pytest.raises(EngineError, match=message) as caught:
        engine.suggest(source_of(picture), request, layer, sink).wait(LONG)
    assert caught.value.code == "input"


def test_a_large_region_is_searched_in_its_middle() -> None:
    small = (slice(3, 10), slice(0, 100))
    assert _middle(small) == small
    y, x = _middle((slice(0, 100_000), slice(1000, 2000)))
    assert x == slice(1000, 2000)
    assert y.stop - y.start == LIMIT // 1000
    assert abs((y.start + y.stop) / 2 - 50_000) <= 1
    sizes = [s.stop - s.start for s in _middle((slice(0, 10**6),) * 3)]
    assert sizes == [203, 203, 203]  # the third root of the limit


def test_paint_is_kept_by_what_is_painted() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((3, 700, 900), np.int32)
    labels[1, 300:310, 100:800] = rng.integers(0, 4, (10, 700))
    labels[2, 699, 899] = 255
    paint = Paint(labels)
    labels_then, labels[:] = labels.copy(), 9  # painting goes on
    assert paint.dtype == np.uint8
    assert sum(block.nbytes for _, block in paint._blocks) < labels.nbytes / 8
    for index in [..., 1, (1, slice(305, 400), 150), (slice(None, None, 2), slice(5), 3), (-1, -1)]:
        np.testing.assert_array_equal(paint[index], labels_then[index])
    assert Paint(np.full((2, 2), -1)).dtype == np.int64  # left to be refused
    assert Paint(np.ones((2, 2), np.float32))[0, 0] == 1.0
