"""An image through a model: requests, events, cancel, levels of a region, the one-liner."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from inference_helpers import codes, model_of, pass_through, run, runner_of
from numpy.typing import NDArray

from napari_unetpp.core.config import NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, TileDone, drain
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.api import segment_array
from napari_unetpp.core.run.inference import (
    fit_normalisers,
    predict,
    predict_levels,
)
from napari_unetpp.core.run.runtime import Device, Runner


@pytest.fixture
def noise(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((50, 70), dtype=np.float32)


# Bad requests are refused at once, before anything is read or written


class Untouchable:
    """An array that must not be read and a sink that must not be written."""

    shape = (40, 50)
    dtype = np.dtype(np.float32)

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("read")

    def __setitem__(self, index: Any, block: Any) -> None:
        raise AssertionError("written")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 3}, "was trained at level 1, 2, got 3"),
        ({"level": "2"}, "was trained at level 1, 2, got '2'"),
        ({"kind": "mask"}, "labels, probabilities or instances, got 'mask'"),
        ({"threshold": 0.0}, "threshold must lie between 0 and 1, got 0"),
        ({"threshold": float("nan")}, "threshold must lie between 0 and 1, got nan"),
        ({"tile": 1}, "at least 2 pixels wide at level 1, got 1"),
        ({"tile": 1.5}, "whole number of pixels, got 1.5"),
        ({"channel": 1}, "the image has one channel, got channel 1"),
    ],
)
def test_bad_requests_touch_nothing(options: dict[str, Any], message: str) -> None:
    nothing = Untouchable()
    with pytest.raises(InputError, match=message):
        predict(Image(nothing, "YX"), runner_of(), nothing, **{"level": 1, **options})


def test_a_sink_of_another_shape_is_refused() -> None:
    image = Image(np.zeros((8, 9)), "YX")
    with pytest.raises(InputError, match=r"the result has shape \(8, 9\) \(YX\), got a sink"):
        predict(image, runner_of(), np.zeros((9, 8)), level=1)


# Events, cancelling, laziness, batches


def test_events_count_up_and_cover_the_result(noise: NDArray[np.float32]) -> None:
    stack = np.stack([noise, 1 - noise])
    _, done, events = run(stack, "ZYX", tile=16, level=2)
    tiles = [e for e in events if isinstance(e, TileDone)]
    assert [t.done for t in tiles] == list(range(1, 41))
    assert {t.total for t in tiles} == {40} == {done.n_tiles}
    assert {t.level for t in tiles} == {2}
    seen = np.zeros(stack.shape, int)
    for tile in tiles:
        seen[tile.region] += 1
    assert (seen == 1).all()


class Recorder:
    """A lazy array that remembers what was read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.sizes: list[int] = []

    def __getitem__(self, index: Any) -> NDArray[Any]:
        block = self.array[index]
        self.sizes.append(block.size)
        return block


def test_only_windows_are_read() -> None:
    lazy = Recorder(np.random.default_rng(0).random((300, 400), dtype=np.float32))
    runner = runner_of()
    image = Image(lazy, "YX")
    sink = np.zeros(lazy.shape, np.uint8)
    events = predict(image, runner, sink, level=1, tile=64)
    next(events)
    lazy.sizes.clear()
    drain(events)
    assert max(lazy.sizes) <= 80 * 80
    assert np.array_equal(sink, lazy.array > 0.5)


def test_closing_stops_between_two_tiles() -> None:
    lazy = Recorder(np.random.default_rng(0).random((512, 2048), dtype=np.float32))
    sink = np.full(lazy.shape, 99, np.uint8)
    events = predict(Image(lazy, "YX"), runner_of(), sink, level=1, tile=512)
    for _ in range(2):
        assert isinstance(next(events), TileDone)
    events.close()
    reads = len(lazy.sizes)
    assert 3 <= reads <= 5  # the sample, two tiles, one that was computed and one read ahead
    assert not [t for t in threading.enumerate() if t.name.startswith("unetpp-")]
    assert (sink[:, :1024] < 2).all()
    assert (sink[:, 1024:] == 99).all()


def test_small_planes_run_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).random((50, 96, 96), dtype=np.float32)
    runner = runner_of()
    batches = []
    plain = runner.probabilities

    def counted(x: NDArray[np.float32], *rest: Any, **more: Any) -> NDArray[np.float32]:
        batches.append(x.shape[0])
        return plain(x, *rest, **more)

    monkeypatch.setattr(runner, "probabilities", counted)
    found, done, _ = run(array, "TYX", runner)
    assert np.array_equal(found, array > 0.5)
    assert done.n_tiles == 50
    assert batches == [28, 22]  # 28 * 96² is just below 2^18


def test_a_listener_that_raises_stops_the_run(noise: NDArray[np.float32]) -> None:
    def stop(event: Event) -> None:
        raise KeyboardInterrupt

    sink = np.full(noise.shape, 99, np.uint8)
    with pytest.raises(KeyboardInterrupt):
        drain(predict(Image(noise, "YX"), runner_of(), sink, level=1, tile=16), stop)
    assert (sink[16:] == 99).all()


# The preview and the one-liner


def test_levels_of_a_region_equal_runs_of_each_level(rng: np.random.Generator) -> None:
    torch.manual_seed(1)
    network = NestedUNet(NetworkConfig(filters=(4, 6, 8)))
    runner = runner_of(network, normalisation=Normalisation())
    array = rng.integers(0, 1000, (32, 44), dtype=np.uint16)
    seen = []
    for level, found in predict_levels(array, runner):
        expected, _, _ = run(array, "YX", runner, kind="probabilities", level=level)
        assert found.shape == (1, 32, 44)
        np.testing.assert_allclose(found[0], expected, atol=1e-6)
        seen.append(level)
    assert seen == [1, 2]


def test_levels_take_the_whole_images_normaliser(rng: np.random.Generator) -> None:
    array = rng.integers(0, 1000, (64, 64), dtype=np.uint16)
    runner = runner_of(normalisation=Normalisation())
    maps, notes = fit_normalisers(Image(array, "YX"), runner.card)
    whole = dict(predict_levels(array, runner, maps))
    part = dict(predict_levels(array[8:24, 16:48], runner, maps))
    assert notes == []
    for level in (1, 2):
        np.testing.assert_allclose(part[level], whole[level][:, 8:24, 16:48], atol=1e-6)


def test_levels_refuse_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="axes YX or CYX and 1 channel"):
        next(predict_levels(np.zeros((2, 8, 8)), runner_of()))


def test_one_line_keeps_the_arrays_axis_order(rng: np.random.Generator) -> None:
    array = rng.random((10, 3, 2, 12), dtype=np.float32)
    heard: list[Event] = []
    options: dict[str, Any] = {"axes": "YTCX", "device": "cpu", "precision": "float32"}
    model = model_of(pass_through(outputs=2), classes=2)
    found = segment_array(array, model, 2, channel=1, listen=heard.append, **options)
    assert np.array_equal(found > 0, array[:, :, 1] > 0.5)
    found = segment_array(array, model, 2, channel=1, kind="probabilities", **options)
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(0.5 - array[:, :, 1])), atol=1e-6)
    assert any(isinstance(e, TileDone) for e in heard)


def test_prediction_as_json(noise: NDArray[np.float32]) -> None:
    noise[0, 0] = np.nan
    _, done, _ = run(noise, "YX")
    values = done.to_json()
    assert values.pop("seconds") > 0
    assert values.pop("notes")[0]["code"] == "non-finite"
    assert values == {
        "level": 1,
        "kind": "labels",
        "axes": "YX",
        "shape": [50, 70],
        "device": "cpu",
        "precision": "float32",
        "backend": "torch",
        "n_tiles": 1,
        "megapixels": 0.0035,
    }


def test_precision_fallback_is_told_with_the_first_tile(
    noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_unetpp.core.run.precision.MAX_DIFFERENCE", -1.0)
    device = Device("cpu", "test", "bfloat16", "a test")
    runner = Runner(model_of(pass_through()), device)
    found, done, events = run(noise, "YX", runner, tile=16)
    assert codes(done) == ["precision-fallback"]
    assert isinstance(events[0], Note)
    assert done.precision == "float32"
    assert np.array_equal(found, noise > 0.5)
