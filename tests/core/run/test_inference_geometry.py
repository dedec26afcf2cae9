"""An image through a model of another grid: orientation and spacing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inference_helpers import codes, pass_through, run, runner_of

from napari_unetpp.core.config import Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import TileDone


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
