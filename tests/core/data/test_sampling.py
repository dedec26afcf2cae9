"""Patches: where they are drawn, what they carry, and that they follow from the seed alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.augment import UNLABELLED, AugmentConfig, Augmenter
from napari_unetpp.core.data.sampling import (
    PatchSampler,
    Sample,
    channel_shares,
    make_targets,
)
from napari_unetpp.core.errors import InputError

STILL = AugmentConfig(0, 0, 0, flip=False, contrast=0, brightness=0, noise=0, blur=0)
ONE = ModelCard("one", NetworkConfig(out_channels=1), (ClassInfo("a"),))
TWO = ModelCard("two", NetworkConfig(out_channels=2), (ClassInfo("a"), ClassInfo("b")))
SOFT = ModelCard(
    "soft",
    NetworkConfig(out_channels=3, activation="softmax"),
    (ClassInfo("a"), ClassInfo("b")),
)


def sample(labels: np.ndarray, known: tuple[bool, ...] = (True,), **changes: object) -> Sample:
    """Make a sample whose image is its labels, so that both can be compared."""
    image = labels[None].astype(np.float16)
    made = Sample("s", image, labels.astype(np.uint8), None, known)
    return replace(made, **changes)


def sampler(samples: list[Sample], card: ModelCard = ONE, **options: object) -> PatchSampler:
    settings = {"batch": 4, "margin": 1.0, "seed": 3} | options
    return PatchSampler(samples, card, Augmenter(STILL, (16, 16)), **settings)  # type: ignore[arg-type]


def blob(size: int = 64) -> np.ndarray:
    labels = np.zeros((size, size), np.uint8)
    labels[40:44, 8:12] = 1
    return labels


def test_targets_of_sigmoids_with_an_unknown_class() -> None:
    labels = torch.tensor([[[0, 1, 2, UNLABELLED]]])
    target, weight = make_targets(labels, None, torch.tensor([[True, False]]), TWO)
    assert target.tolist() == [[[[0, 1, 0, 0]], [[0, 0, 1, 0]]]]
    # b was not annotated: background may be b, a pixel of a is certainly not b.
    assert weight.tolist() == [[[[1, 1, 1, 0]], [[0, 1, 1, 0]]]]


def test_targets_of_a_softmax_with_an_unknown_class() -> None:
    labels = torch.tensor([[[0, 1, 2, UNLABELLED]]])
    target, weight = make_targets(labels, None, torch.tensor([[True, False]]), SOFT)
    assert target.tolist() == [[[[1, 0, 0, 0]], [[0, 1, 0, 0]], [[0, 0, 1, 0]]]]
    assert weight[0, :, 0].tolist() == [[0, 1, 1, 0]] * 3
    _, certain = make_targets(labels, None, torch.tensor([[True, True]]), SOFT)
    assert certain[0, 0, 0].tolist() == [1, 1, 1, 0]


def test_auxiliary_maps_are_targets_too() -> None:
    card = replace(ONE, network=NetworkConfig(out_channels=2), auxiliary=("centre",))
    labels = torch.tensor([[[0, 1, UNLABELLED]]])
    aux = torch.tensor([[[[0.0, 0.25, 0.5]]]])
    target, weight = make_targets(labels, aux, torch.tensor([[True]]), card)
    assert target[0, 1, 0].tolist() == [0.0, 0.25, 0.5]
    assert weight[0, 1, 0].tolist() == [1.0, 1.0, 0.0]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    first, second = sampler([sample(blob())]), sampler([sample(blob())])
    second.batch(0)
    assert torch.equal(first.batch(5).image, second.batch(5).image)
    assert not torch.equal(first.batch(5).image, first.batch(6).image)
    other = sampler([sample(blob())], seed=4)
    assert not torch.equal(first.batch(5).image, other.batch(5).image)


def test_image_and_labels_are_cut_at_the_same_place() -> None:
    labels = np.random.default_rng(0).integers(0, 2, (40, 50)).astype(np.uint8)
    batch = sampler([sample(labels)]).batch(1)
    assert torch.equal(batch.image, batch.target)
    assert batch.known.min() == 1


def test_foreground_share_decides_where_patches_lie() -> None:
    always = sampler([sample(blob())], foreground=1.0, batch=16).batch(0)
    assert (always.target.amax(dim=(1, 2, 3)) == 1).all()
    empty = sampler([sample(np.zeros((64, 64), np.uint8))], foreground=1.0).batch(0)
    assert empty.target.max() == 0


def test_painted_images_are_drawn_where_there_is_paint() -> None:
    labels = np.full((200, 200), UNLABELLED, np.uint8)
    labels[150:153, 20:23] = 0  # a stroke of background alone
    batch = sampler([sample(labels)], foreground=0.0, batch=16).batch(0)
    assert (batch.known.amax(dim=(1, 2, 3)) == 1).all()
    assert batch.known.sum() <= 16 * 9


def test_painted_background_is_drawn_as_often_as_a_class() -> None:
    labels = np.full((300, 300), UNLABELLED, np.uint8)
    labels[20:23, 100:140] = 1
    labels[270:273, 100:140] = 0  # farther away than a patch reaches
    batch = sampler([sample(labels)], batch=64).batch(0)
    background = ((batch.known == 1) & (batch.target == 0)).any(dim=3).any(dim=2).sum()
    foreground = (batch.target == 1).any(dim=3).any(dim=2).sum()
    assert background + foreground == 64
    assert 20 <= background <= 44


def test_what_lies_outside_the_image_is_unlabelled() -> None:
    batch = sampler([sample(np.ones((10, 12), np.uint8))]).batch(0)
    assert batch.known.sum(dim=(1, 2, 3)).tolist() == [120] * 4
    assert batch.image.min() == 1  # the edge is repeated, no border is invented


def test_weights_decide_how_often_an_image_is_drawn() -> None:
    never = sample(np.zeros((32, 32), np.uint8), weight=0.0)
    drawn = sampler([never, sample(np.ones((32, 32), np.uint8))], batch=32).batch(0)
    assert drawn.image.min() == 1


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(InputError, match="at least one image, got none"):
        sampler([])
    with pytest.raises(InputError, match="not all 0"):
        sampler([sample(blob(), weight=0.0)])


def test_shares_count_a_class_where_it_was_annotated() -> None:
    half = np.array([[1, 1, 0, 0]], np.uint8)
    painted = np.array([[2, UNLABELLED, UNLABELLED, 0]], np.uint8)
    samples = [sample(half, (True, False)), sample(painted, (True, True))]
    # a: 2 of 4 and 0 of 2 labelled pixels; b: not annotated in the first, 1 of 2 in the second.
    assert channel_shares(samples, TWO) == pytest.approx([2 / 6, 1 / 2])
    assert channel_shares(samples, SOFT) == pytest.approx([1 / 6, 2 / 6, 1 / 2])
