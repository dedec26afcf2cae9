"""An image through a model: channels, types, kinds, events, cancel, memory, geometry."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import to_gray
from napari_unetpp.core.errors import InputError, OutOfMemory
from napari_unetpp.core.events import Event, Note, TileDone, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run import memory
from napari_unetpp.core.run.api import segment_array
from napari_unetpp.core.run.inference import (
    Prediction,
    fit_normalisers,
    output_axes,
    predict,
    predict_levels,
)
from napari_unetpp.core.run.results import labels_of
from napari_unetpp.core.run.runtime import Device, Runner
from napari_unetpp.core.run.source import Source

FLOAT32 = Device("cpu", "test", "float32", "a test")
WINDOW = Normalisation("window", 0.0, 1.0)


def pass_through(
    ndim: int = 2, channels: int = 1, outputs: int = 1, gain: float = 1.0, **config: Any
) -> NestedUNet:
    """Return a network of two levels whose logit k is gain * (input channel k - 0.5)."""
    width = max(channels, outputs, 2)
    network = NestedUNet(
        NetworkConfig(
            ndim=ndim,
            in_channels=channels,
            out_channels=outputs,
            filters=(width,) * 3,
            **config,
        )
    ).eval()
    centre = (1,) * ndim
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for block in network.nodes.values():
            for conv in (m for m in block if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)):
                for k in range(min(width, conv.weight.shape[1])):
                    conv.weight[(k, k, *centre)] = 1.0
        for head in network.heads.values():
            for k in range(outputs):
                head.weight[k, min(k, channels - 1)] = gain
                head.bias[k] = -gain / 2
    return network


def model_of(network: NestedUNet, classes: int = 1, **card: Any) -> Model:
    """Wrap a network; intensities 0 to 1 are taken as they are."""
    config = network.config
    card.setdefault("normalisation", WINDOW)
    card.setdefault("levels_trained", config.head_levels)
    full = ModelCard(
        "test",
        config,
        tuple(ClassInfo(f"class{k}") for k in range(1, classes + 1)),
        "YX" if config.ndim == 2 else "ZYX",
        input_channels=tuple(f"in{k}" for k in range(config.in_channels)),
        **card,
    )
    return Model(full, network, Path("m.safetensors"), "")


def runner_of(network: NestedUNet | None = None, classes: int = 1, **card: Any) -> Runner:
    return Runner(model_of(network or pass_through(), classes, **card), FLOAT32)


def run(
    array: Any, axes: str, runner: Runner | None = None, **options: Any
) -> tuple[NDArray[Any], Prediction, list[Event]]:
    """Predict an array or image at L1 unless told otherwise."""
    runner = runner or runner_of()
    image = array if isinstance(array, Image) else Image.from_array(array, axes)
    options.setdefault("level", 1)
    _, shape, dtype = output_axes(image, runner.card, options.get("kind", "labels"))
    sink = np.full(shape, 99, dtype)
    events: list[Event] = []
    done = drain(predict(image, runner, sink, **options), events.append)
    return sink, done, events


def codes(done: Prediction) -> list[str]:
    return [note.code for note in done.notes]


@pytest.fixture
def noise(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((50, 70), dtype=np.float32)


# Kinds of result


def test_labels_are_one_above_the_threshold(noise: NDArray[np.float32]) -> None:
    found, done, _ = run(noise, "YX", tile=16)
    assert found.dtype == np.uint8
    assert np.array_equal(found, noise > 0.5)
    assert (done.axes, done.shape, done.kind, done.level) == ("YX", (50, 70), "labels", 1)
    assert done.n_tiles == 20
    assert done.megapixels == pytest.approx(0.0035)
    assert done.notes == ()


def test_threshold_of_the_caller_and_of_the_card(noise: NDArray[np.float32]) -> None:
    expected = 1 / (1 + np.exp(0.5 - noise)) > 0.6
    assert 0 < expected.mean() < 1
    assert np.array_equal(run(noise, "YX", threshold=0.6)[0], expected)
    assert np.array_equal(run(noise, "YX", runner_of(threshold=0.6))[0], expected)


def test_probabilities_of_one_channel_have_no_channel_axis(noise: NDArray[np.float32]) -> None:
    found, _, _ = run(noise, "YX", kind="probabilities", tile=16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, 1 / (1 + np.exp(0.5 - noise)), atol=1e-6)


def test_several_classes_take_the_likeliest(rng: np.random.Generator) -> None:
    array = rng.random((3, 20, 30), dtype=np.float32)
    runner = runner_of(pass_through(channels=3, outputs=3), classes=3)
    found, _, _ = run(array, "CYX", runner, tile=8)
    expected = np.where(array.max(0) > 0.5, array.argmax(0) + 1, 0)
    assert set(np.unique(found)) == {0, 1, 2, 3}
    assert np.array_equal(found, expected)


def test_softmax_takes_the_likeliest_and_no_threshold(rng: np.random.Generator) -> None:
    array = rng.random((3, 20, 30), dtype=np.float32)
    network = pass_through(channels=3, outputs=3, activation="softmax")
    found, done, _ = run(array, "CYX", runner_of(network, classes=2), threshold=0.9)
    assert np.array_equal(found, array.argmax(0))
    assert codes(done) == ["threshold-unused"]
    found, _, _ = run(array, "CYX", runner_of(network, classes=2), kind="probabilities")
    weights = np.exp(array - 0.5)
    np.testing.assert_allclose(found, weights[1:] / weights.sum(0), atol=1e-6)


def test_probabilities_hold_classes_and_auxiliary_in_canonical_place(
    rng: np.random.Generator,
) -> None:
    array = rng.random((4, 2, 3, 10, 12), dtype=np.float32)  # ZTCYX: C is the input's
    network = pass_through(channels=3, outputs=3)
    runner = runner_of(network, classes=2, auxiliary=("centre",))
    found, done, _ = run(array, "ZTCYX", runner, kind="probabilities", tile=4)
    assert (done.axes, done.shape) == ("TCZYX", (2, 3, 4, 10, 12))
    expected = 1 / (1 + np.exp(0.5 - array.transpose(1, 2, 0, 3, 4)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_auxiliary_channels_are_no_labels(rng: np.random.Generator) -> None:
    array = rng.random((2, 20, 20), dtype=np.float32)
    runner = runner_of(pass_through(channels=2, outputs=2), auxiliary=("centre",))
    assert np.array_equal(run(array, "CYX", runner)[0], array[0] > 0.5)


def test_more_than_255_classes_need_16_bits() -> None:
    card = runner_of(pass_through(outputs=300), classes=300).card
    image = Image(np.zeros((4, 4)), "YX")
    assert output_axes(image, card, "labels") == ("YX", (4, 4), np.dtype(np.uint16))
    channels = [np.full((1, 1), p, np.float32) for p in np.linspace(0, 1, 300)]
    assert labels_of(channels, card, 0.5).tolist() == [[300]]


def test_labels_by_hand() -> None:
    card = runner_of(pass_through(outputs=2), classes=2).card
    first = np.array([0.4, 0.6, 0.6, 0.5, 0.7], np.float32)
    second = np.array([0.4, 0.5, 0.8, 0.5, 0.7], np.float32)
    assert labels_of([first, second], card, 0.5).tolist() == [0, 1, 2, 0, 1]


def test_objects_are_numbered_in_every_plane() -> None:
    array = np.zeros((2, 40, 60), np.float32)
    array[0, 5:15, 5:15] = array[0, 5:15, 25:35] = array[0, 14:26, 44:58] = 1
    array[1, 10:20, 30:36] = 1
    found, done, events = run(array, "TYX", kind="instances", tile=16)
    assert found.dtype == np.int32
    assert sorted(np.unique(found[0])) == [0, 1, 2, 3]
    assert sorted(np.unique(found[1])) == [0, 1]
    assert np.array_equal(found > 0, array > 0)
    regions = [e.region for e in events if isinstance(e, TileDone) and e.region]
    assert regions == [(slice(t, t + 1), slice(0, 40), slice(0, 60)) for t in (0, 1)]
    assert done.n_tiles == 24


def test_small_objects_are_dropped_when_asked() -> None:
    array = np.zeros((20, 40), np.float32)
    array[5:15, 5:15] = array[5:7, 25:27] = 1
    found, _, _ = run(array, "YX", kind="instances", min_size=5)
    assert np.array_equal(found > 0, (array > 0) & (np.arange(40) < 20))


# Axes and channels


def test_2d_networks_run_over_every_further_axis(rng: np.random.Generator) -> None:
    array = rng.random((2, 3, 4, 9, 11), dtype=np.float32)
    found, done, _ = run(array, "PTZYX", tile=4)
    assert np.array_equal(found, array > 0.5)
    assert done.pixels == array.size


def test_3d_networks_run_over_volumes(rng: np.random.Generator) -> None:
    array = rng.random((5, 2, 9, 11), dtype=np.float32)
    found, done, _ = run(array, "ZTYX", runner_of(pass_through(3)), tile=4)
    assert done.axes == "TZYX"
    assert np.array_equal(found, array.transpose(1, 0, 2, 3) > 0.5)
    assert done.n_tiles == 2 * 2 * 3 * 3


def test_a_3d_network_needs_z() -> None:
    with pytest.raises(InputError, match="is 3D and needs axes ZYX, got an image with TYX"):
        run(np.zeros((3, 8, 8)), "TYX", runner_of(pass_through(3)))


def test_one_of_several_channels_must_be_chosen(rng: np.random.Generator) -> None:
    array = rng.random((3, 12, 14), dtype=np.float32)
    with pytest.raises(InputError, match="the image has 3; choose one with --channel 0 to 2"):
        run(array, "CYX")
    assert np.array_equal(run(array, "CYX", channel=2)[0], array[2] > 0.5)
    assert np.array_equal(run(array[:1], "CYX")[0], array[0] > 0.5)
    with pytest.raises(InputError, match="has channels 0 to 2, got channel 3"):
        run(array, "CYX", channel=3)
    with pytest.raises(InputError, match="the image has one channel, got channel 1"):
        run(array[0], "YX", channel=1)


def test_a_network_of_several_channels_takes_all(rng: np.random.Generator) -> None:
    runner = runner_of(pass_through(channels=3, outputs=1))
    with pytest.raises(
        InputError, match=r"takes 3 channels \(in0, in1, in2\), got an image with 1"
    ):
        run(np.zeros((8, 8)), "YX", runner)
    with pytest.raises(InputError, match="none can be chosen; leave --channel out"):
        run(np.zeros((3, 8, 8)), "CYX", runner, channel=1)
    array = rng.random((3, 12, 14), dtype=np.float32)
    assert np.array_equal(run(array, "CYX", runner)[0], array[0] > 0.5)


def test_rgb_becomes_luminance_or_a_sample(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (12, 14, 4), dtype=np.uint8)
    runner = runner_of(normalisation=Normalisation("window", 0.0, 255.0))
    assert np.array_equal(run(array, "YXS", runner)[0], to_gray(array) > 127.5)
    assert np.array_equal(run(array, "YXS", runner, channel=1)[0], array[..., 1] > 127.5)


def test_rgb_without_alpha_for_a_network_of_three(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (2, 12, 14, 4), dtype=np.uint8)
    network = pass_through(channels=3, outputs=3)
    runner = runner_of(network, classes=3, normalisation=Normalisation("window", 0.0, 255.0))
    found, done, _ = run(array, "TYXS", runner, kind="probabilities", tile=4)
    assert done.axes == "TCYX"
    expected = 1 / (1 + np.exp(0.5 - array[..., :3].transpose(0, 3, 1, 2) / 255.0))
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Intensities


@pytest.mark.parametrize(
    "dtype", ["bool", "u1", "i1", ">u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", ">f4", "f8"]
)
def test_every_real_type(dtype: str, rng: np.random.Generator) -> None:
    mask = rng.random((20, 30)) > 0.5
    high = 1 if dtype == "bool" else 100
    array = np.where(mask, high, 0).astype(dtype)
    found, done, _ = run(array, "YX", runner_of(normalisation=Normalisation()), tile=8)
    assert np.array_equal(found, mask)
    assert codes(done) == []


def test_large_integers_keep_their_small_differences(rng: np.random.Generator) -> None:
    mask = rng.random((20, 30)) > 0.5
    array = np.uint64(2**40) + mask.astype(np.uint64) * np.uint64(10)
    found, _, _ = run(array, "YX", runner_of(normalisation=Normalisation()))
    assert np.array_equal(found, mask)


@pytest.mark.parametrize("kind", ["labels", "instances"])
def test_nan_and_infinity_are_read_and_counted_once(kind: str, noise: NDArray[np.float32]) -> None:
    array = noise.copy()
    array[15:18, 15:18] = np.nan  # in the halo of four tiles
    array[0, 0] = np.inf
    array[49, 69] = -np.inf
    found, done, _ = run(array, "YX", tile=16, kind=kind)
    expected = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0) > 0.5
    assert np.array_equal(found > 0, expected)
    assert [n.message.split(" ", 1)[0] for n in done.notes] == ["11"]
    assert codes(done) == ["non-finite"]


def test_an_image_without_any_finite_pixel() -> None:
    array = np.full((12, 12), np.nan, np.float32)
    found, done, _ = run(array, "YX", runner_of(normalisation=Normalisation()))
    assert not found.any()
    assert codes(done) == ["empty", "non-finite"]


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_images_are_said(value: int) -> None:
    array = np.full((3, 20, 20), value, np.uint16)
    found, done, _ = run(array, "ZYX", runner_of(normalisation=Normalisation()))
    assert not found.any()
    assert codes(done) == ["constant-image"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (5, 7), (64, 1)])
def test_images_smaller_than_the_alignment(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    for level in (1, 2, "ensemble"):
        found, _, _ = run(array, "YX", level=level, tile=4)
        assert np.array_equal(found, array > 0.5)


def test_axes_of_length_one(rng: np.random.Generator) -> None:
    array = rng.random((1, 1, 1, 1, 9, 8), dtype=np.float32)
    assert np.array_equal(run(array, "PTCZYX")[0], array[:, :, 0] > 0.5)


def test_empty_images_are_refused() -> None:
    with pytest.raises(InputError, match="at least one pixel"):
        run(np.zeros((3, 0, 5)), "ZYX")


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


# Out of memory


class Starved(Runner):
    """A runner whose device holds only so many pixels."""

    limit = 10**9
    error: Callable[[], Exception] = staticmethod(lambda: torch.OutOfMemoryError("full"))

    def probabilities(self, x: Any, *rest: Any, **more: Any) -> NDArray[np.float32]:
        if x[:, 0].size > self.limit and self.device.kind == type(self).starved_kind:
            raise self.error()
        return super().probabilities(x, *rest, **more)

    starved_kind = "cpu"


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("full"),
        lambda: MemoryError(),
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_tiles_are_halved_until_they_fit(
    error: Callable[[], Exception], noise: NDArray[np.float32]
) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit, runner.error = 40 * 40, error
    found, done, events = run(noise, "YX", runner)
    assert np.array_equal(found, noise > 0.5)
    assert codes(done) == ["smaller-tiles"]
    assert "halved to 26x36" in done.notes[0].message  # 50x70 did not fit, 34x44 does
    tiles = [e for e in events if isinstance(e, TileDone)]
    assert [t.done for t in tiles] == [1, 2, 3, 4]
    assert {t.total for t in tiles} == {4}


def test_batches_are_cut_before_tiles() -> None:
    array = np.random.default_rng(0).random((20, 32, 32), dtype=np.float32)
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit = 6 * 32 * 32
    found, done, _ = run(array, "TYX", runner)
    assert np.array_equal(found, array > 0.5)
    assert codes(done) == ["smaller-batches"] * 2  # 20, 10, 5
    assert done.n_tiles == 20


def test_nothing_fits(noise: NDArray[np.float32]) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit = 0
    with pytest.raises(OutOfMemory, match=r"smallest tile .10x10.* take a lower level"):
        run(noise, "YX", runner)


def test_the_cpu_comes_after_the_gpu(
    noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.device = Device("cuda", "pretended", "float32", "a test")
    runner.limit, type(runner).starved_kind = 0, "cuda"
    monkeypatch.setattr(memory, "budget_bytes", lambda kind: 1e9)
    monkeypatch.setattr(memory, "free_memory", lambda kind: None)
    monkeypatch.setattr("napari_unetpp.core.run.runtime.choose_device", lambda *_: FLOAT32)
    try:
        found, done, _ = run(noise, "YX", runner, tile=8)
    finally:
        Starved.starved_kind = "cpu"
    assert np.array_equal(found, noise > 0.5)
    assert done.device == "cpu"
    assert codes(done)[-1] == "fallback-cpu"
    assert set(codes(done)[:-1]) <= {"smaller-batches", "smaller-tiles"}


def test_other_errors_are_not_taken_for_memory(noise: NDArray[np.float32]) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit, runner.error = 0, lambda: RuntimeError("sizes do not match")
    with pytest.raises(RuntimeError, match="sizes do not match"):
        run(noise, "YX", runner)


# Geometry


def test_a_turned_volume_is_seen_as_the_model_wants_it(rng: np.random.Generator) -> None:
    """Orientation alone: nothing is interpolated, so the answer is exact.

    The image's odd sizes are padded at the end of the model's axes, not of its own.
    """
    network = pass_through(3)
    with torch.no_grad():  # look one voxel ahead along the model's X
        conv = network.nodes["x0_0"][0]
        conv.weight.zero_()
        conv.weight[0, 0, 1, 1, 2] = 1.0
    runner = runner_of(network, orientation="SPL")
    array = rng.random((5, 7, 9), dtype=np.float32)  # axes grow to R, I, A
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = 2.0, -1.0, 0.5, 1.0
    found, done, _ = run(Image(array, "ZYX", affine=affine), "", runner, tile=4)
    turned = array.transpose(1, 2, 0)[::-1, ::-1, ::-1]  # S, P, L
    padded = np.pad(turned, [(0, 0), (0, 0), (0, 1)], mode="edge")
    expected = np.pad(padded[..., 1:], [(0, 0), (0, 0), (0, 1)])[..., :5] > 0.5
    back = expected[::-1, ::-1, ::-1].transpose(2, 0, 1)
    assert np.array_equal(found, back)
    assert codes(done) == []


@pytest.mark.parametrize("kind", ["labels", "instances"])
def test_another_spacing_is_resampled_and_brought_back(kind: str) -> None:
    array = np.zeros((8, 40, 40), np.int16)
    array[2:6, 10:30, 8:32] = 1000
    image = Image(array, "ZYX", spacing=(4.0, 1.0, 1.0), unit="mm")
    card = {
        "spacing": (2.0, 2.0, 2.0),
        "normalisation": Normalisation("window", 0.0, 1000.0),
    }
    runner = runner_of(pass_through(3), **card)
    shapes = []
    plain = runner.probabilities
    runner.probabilities = lambda x, *r, **m: shapes.append(x.shape) or plain(x, *r, **m)  # type: ignore[method-assign]
    found, done, events = run(image, "", runner, kind=kind)
    assert shapes == [(1, 1, 16, 20, 20)]
    # Interpolation rounds the box's edges off and moves none of its faces.
    wrong = np.argwhere((found > 0) != (array > 500))
    edges = ((wrong[:, 0] == 2) | (wrong[:, 0] == 5)).astype(int)
    edges += (wrong[:, 1] == 10) | (wrong[:, 1] == 29)
    edges += (wrong[:, 2] == 8) | (wrong[:, 2] == 31)
    assert (edges >= 2).all()
    assert found.max() == 1
    regions = [e.region for e in events if isinstance(e, TileDone)]
    assert regions == [(slice(0, 8), slice(0, 40), slice(0, 40))]
    assert done.pixels == array.size


def test_probabilities_of_several_channels_come_back_to_the_images_grid() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32), (6, 10, 64))
    array = np.stack([ramp, 1 - ramp])
    image = Image(array, "CZYX", spacing=(1.0, 1.0, 1.0), unit="mm")
    network = pass_through(3, channels=2, outputs=2)
    runner = runner_of(network, classes=2, spacing=(1.0, 1.0, 2.0))
    found, done, _ = run(image, "", runner, kind="probabilities")
    assert (done.axes, found.shape) == ("CZYX", (2, 6, 10, 64))
    expected = 1 / (1 + np.exp(0.5 - array))
    np.testing.assert_allclose(found[..., 2:-2], expected[..., 2:-2], atol=1e-3)


def test_planes_of_another_pixel_size_are_resampled(rng: np.random.Generator) -> None:
    blocks = rng.random((3, 10, 12)) > 0.5
    array = blocks.repeat(4, axis=1).repeat(4, axis=2).astype(np.float32)
    image = Image(array, "ZYX", spacing=(9.0, 0.5, 0.5), unit="µm")
    runner = runner_of(spacing=(2.0, 2.0), spacing_unit="µm")
    found, done, _ = run(image, "", runner)
    assert found.shape == array.shape
    # Block centres are far from any edge that interpolation blurs.
    agree = found[:, 1::4, 1::4] == array[:, 1::4, 1::4]
    assert agree.mean() > 0.95
    assert done.n_tiles == 3


def test_a_missing_spacing_is_asked_for() -> None:
    runner = runner_of(pass_through(3), spacing=(2.0, 1.0, 1.0))
    with pytest.raises(InputError, match="does not state its own; give --spacing"):
        run(np.zeros((4, 8, 8)), "ZYX", runner)


def test_non_finite_voxels_of_a_resampled_volume_are_counted_once() -> None:
    array = np.zeros((8, 20, 20), np.float32)
    array[:, 5:15, 5:15] = 1
    array[0, 0, :3] = np.nan
    image = Image(array, "ZYX", spacing=(1.0, 1.0, 1.0), unit="mm")
    found, done, _ = run(image, "", runner_of(pass_through(3), spacing=(2.0, 1.0, 1.0)), tile=4)
    assert np.array_equal(found, np.nan_to_num(array) > 0.5)
    assert [n.message.split(" ", 1)[0] for n in done.notes if n.code == "non-finite"] == ["3"]


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


def test_levels_that_do_not_fit_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of()

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(runner.reference.network, "run_stages", full)
    with pytest.raises(OutOfMemory, match="a region of 8x8 does not fit"):
        next(predict_levels(np.zeros((8, 8)), runner))


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


def test_instance_norm_is_said_to_depend_on_tiles(noise: NDArray[np.float32]) -> None:
    runner = runner_of(pass_through(norm="instance"))
    assert codes(run(noise, "YX", runner, tile=16)[1]) == ["tile-dependent"]
    assert codes(run(noise, "YX", runner)[1]) == []


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


@pytest.mark.slow
def test_memory_of_a_20000_pixel_wide_file_at_l1(tmp_path: Path) -> None:
    """400 megapixels, as a mapped file in and out, within 1.5 GB over the baseline."""
    size = 20_000
    shape = (size, size)
    image = np.memmap(tmp_path / "in.dat", np.uint16, "w+", shape=shape)
    for row in range(0, size, 1000):
        image[row : row + 1000] = (np.arange(size) % 1000)[None]
        image.flush()
    memory.release_pages(image)
    sink = np.memmap(tmp_path / "out.dat", np.uint8, "w+", shape=shape)
    runner = runner_of(pass_through(), normalisation=Normalisation("window", 0.0, 1000.0))
    with memory.PeakMemory() as peak:
        drain(predict(Image(image, "YX"), runner, sink, level=1))
    assert np.array_equal(sink[::4999], np.broadcast_to(np.arange(size) % 1000 > 500, (5, size)))
    assert peak.megabytes < 1500


def test_whether_an_rgb_image_fits_is_asked_without_reading_pixels() -> None:
    class ShapeOnly:
        shape = (20, 30, 3)
        dtype = np.dtype(np.uint8)

        def __getitem__(self, index: object) -> np.ndarray:
            raise AssertionError("pixels were read")

    rule = Normalisation(rgb="nuclear-stain")
    card = ModelCard("stain", NetworkConfig(), (ClassInfo("a"),), normalisation=rule)
    assert Source(Image(ShapeOnly(), "YXS"), card).shape == (20, 30)


def test_a_stained_image_is_seen_in_red_and_a_dark_one_in_luminance() -> None:
    rng = np.random.default_rng(0)
    light = np.full((40, 40, 3), 230, np.uint8)
    light[5:12, 5:12] = (90, 120, 200)  # a blue nucleus
    light[20:36, 20:36] = (200, 120, 60)  # brown
    rule = Normalisation("percentile", 0, 100, "bright-objects", rgb="nuclear-stain")
    card = ModelCard("stain", NetworkConfig(), (ClassInfo("a"),), normalisation=rule)
    source = Source(Image.from_array(light, "YXS"), card)
    whole = (slice(0, 40), slice(0, 40))
    assert np.array_equal(source.read(source.parts[0], whole)[0], light[..., 0])
    (normaliser,), notes = source.fit()
    assert normaliser.invert
    assert [n.code for n in notes] == ["invert"]
    dark = rng.integers(0, 9, (40, 40, 3)).astype(np.uint8)
    dark[5:12, 5:12, 2] = 250
    source = Source(Image.from_array(dark, "YXS"), card)
    expected = dark @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(source.read(source.parts[0], whole)[0], expected, rtol=1e-5)
