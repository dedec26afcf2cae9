"""Augmentation: image and labels move together, the seed decides, nothing is invented."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_unetpp.core.data.augment import UNLABELLED, AugmentConfig, Augmenter
from napari_unetpp.core.errors import InputError

GEOMETRY = AugmentConfig(contrast=0, brightness=0, noise=0, blur=0)


def disc(shape: tuple[int, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - (np.array(shape) - 1).reshape(-1, *[1] * len(shape)) / 2
    return (np.sqrt((grid**2).sum(0)) < radius).astype(np.uint8)


@pytest.mark.parametrize("patch", [(32, 32), (16, 24, 24)])
def test_image_labels_and_maps_move_together(patch: tuple[int, ...]) -> None:
    crop = tuple(2 * n for n in patch)
    labels = np.roll(disc(crop, 7), 3, axis=-1)
    augmenter = Augmenter(GEOMETRY, patch)
    moved = 0
    for seed in range(12):
        image, out, aux = augmenter(labels[None].astype(np.float32), labels, labels[None], seed)
        assert image.shape == (1, *patch)
        assert out.shape == patch
        assert aux is not None
        assert set(out.unique().tolist()) <= {0, 1}
        # Linear and nearest interpolation of the same mask agree but for its edge.
        assert ((image[0] > 0.5) != (out > 0)).float().mean() < 0.03
        assert torch.allclose(image, aux, atol=1e-5)
        moved += not torch.equal(out, augmenter(labels[None], labels, None, seed + 100)[1])
    assert moved > 6


def test_the_seed_decides_everything() -> None:
    augmenter = Augmenter(AugmentConfig(), (32, 32))
    image, labels = np.random.default_rng(0).random((1, 48, 48)), disc((48, 48), 9)
    first = augmenter(image, labels, None, 5)
    augmenter(image, labels, None, 6)
    again = augmenter(image, labels, None, 5)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], augmenter(image, labels, None, 6)[0])


def test_no_setting_changes_a_patch() -> None:
    still = AugmentConfig(0, 0, 0, flip=False, contrast=0, brightness=0, noise=0, blur=0)
    image = np.arange(24 * 24, dtype=np.float32).reshape(1, 24, 24)
    out, labels, _ = Augmenter(still, (16, 16))(image, image[0] % 7, None, 1)
    assert torch.allclose(out, torch.from_numpy(image[:, 4:20, 4:20]), atol=1e-3)
    assert torch.equal(labels, torch.from_numpy(image[0, 4:20, 4:20] % 7).long())


def test_an_oriented_volume_is_never_mirrored() -> None:
    """Left stays left: the bright side of a volume is on the same side in every patch."""
    config = AugmentConfig.volumes(oriented=True)
    augmenter = Augmenter(config, (16, 16, 16))
    image = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32), (1, 24, 24, 24))
    for seed in range(20):
        out = augmenter(image, np.zeros((24, 24, 24)), None, seed)[0][0]
        assert out[..., 8:].mean() > out[..., :8].mean()


def test_intensity_changes_leave_the_labels_alone() -> None:
    only = AugmentConfig(0, 0, 0, flip=False)
    image, labels = np.random.default_rng(0).random((1, 32, 32)), disc((32, 32), 8)
    seen = set()
    for seed in range(10):
        out, same, _ = Augmenter(only, (32, 32))(image, labels, None, seed)
        assert torch.equal(same, torch.from_numpy(labels).long())
        seen.add(round(float(out.std()), 4))
    assert len(seen) > 5


def test_unlabelled_stays_unlabelled_or_moves() -> None:
    labels = np.full((48, 48), UNLABELLED, np.uint8)
    out = Augmenter(GEOMETRY, (32, 32))(labels[None] * 0.0, labels, None, 3)[1]
    assert (out == UNLABELLED).all()


def test_margin_covers_what_a_turn_needs() -> None:
    assert AugmentConfig(0, 0, 0).margin(2) == 1.0
    assert AugmentConfig(scale=0, shear=0).margin(2) == pytest.approx(2**0.5)
    assert AugmentConfig().margin(3) == 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scale": 1.0}, "below 1"), ({"rotate": -1.0}, "rotate must not be negative")],
)
def test_wrong_strengths_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AugmentConfig(**changes)  # type: ignore[arg-type]
