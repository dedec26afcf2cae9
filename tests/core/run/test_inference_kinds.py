"""An image through a model: kinds of result, axes and channels."""

from __future__ import annotations

import numpy as np
import pytest
from inference_helpers import codes, pass_through, run, runner_of
from numpy.typing import NDArray

from napari_unetpp.core.config import Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import to_gray
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import TileDone
from napari_unetpp.core.run.inference import (
    output_axes,
)
from napari_unetpp.core.run.results import labels_of


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
