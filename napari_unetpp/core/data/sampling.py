"""Training patches: which image, where, and the targets that the loss wants.

A batch is a function of (seed, step) alone, so a resumed training goes on with the very
same patches. Knows prepared samples, not files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED, Augmenter
from napari_unetpp.core.errors import InputError

PLACES_PER_CLASS = 4096


@dataclass(frozen=True)
class Sample:
    """An image on the model's grid, normalised, with its truth; arrays may be memory-mapped.

    Attributes
    ----------
    name : str
        Where it came from.
    image : ndarray of float16
        (C, *space).
    labels : ndarray of uint8
        (*space): 0 background, k the card's k-th class, 255 unlabelled.
    aux : ndarray of float16, optional
        (A, *space), the card's auxiliary channels.
    known : tuple of bool
        For each class: whether it was annotated in this image at all.
    weight : float
        How often it is drawn, relative to others.
    """

    name: str
    image: NDArray[Any]
    labels: NDArray[Any]
    aux: NDArray[Any] | None
    known: tuple[bool, ...]
    weight: float = 1.0

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial shape, (Y, X) or (Z, Y, X)."""
        return tuple(int(n) for n in self.labels.shape)


@dataclass(frozen=True)
class Batch:
    """Patches and their targets.

    Attributes
    ----------
    image : Tensor
        (N, C, *patch), float32.
    target, known : Tensor
        (N, channels, *patch), float32: truth in [0, 1] and weight (0 = unlabelled).
    """

    image: Tensor
    target: Tensor
    known: Tensor


def make_targets(
    labels: Tensor, aux: Tensor | None, known: Tensor, card: ModelCard
) -> tuple[Tensor, Tensor]:
    """Turn class maps into the targets and weights of the loss.

    Where a class was not annotated in an image, a pixel that carries no other class may or
    may not belong to it: it is unknown for that class, not background.

    Parameters
    ----------
    labels : Tensor of int64
        (N, *space): 0 background, k class, 255 unlabelled.
    aux : Tensor, optional
        (N, A, *space), in [0, 1].
    known : Tensor of bool
        (N, classes): whether a class was annotated in the image.
    card : ModelCard
        Classes, auxiliary channels and activation.

    Returns
    -------
    target, weight : Tensor of float32
        (N, channels, *space).
    """
    count = len(card.classes)
    labelled = labels != UNLABELLED
    values = torch.arange(1, count + 1, device=labels.device)
    shape = (1, count) + (1,) * (labels.ndim - 1)
    classes = (labels[:, None] == values.view(shape)).float()
    annotated = known.view(known.shape + (1,) * (labels.ndim - 1))
    occupied = (labels > 0)[:, None]
    weight = (labelled[:, None] & (annotated | occupied)).float()
    if card.network.activation == "softmax":
        background = (labels == 0)[:, None].float()
        target = torch.cat([background, classes], dim=1)
        # One weight for all channels: a pixel that might be an unknown class says nothing.
        certain = weight.amin(dim=1, keepdim=True)
        return target, certain.expand_as(target).contiguous()
    if aux is None:
        return classes, weight
    soft = labelled[:, None].float().expand_as(aux)
    return torch.cat([classes, aux], dim=1), torch.cat([weight, soft], dim=1)


def channel_shares(samples: Sequence[Sample], card: ModelCard) -> list[float]:
    """Return the share of labelled pixels that each output channel covers.

    Parameters
    ----------
    samples : sequence of Sample
        Training images; a class counts in those where it was annotated.
    card : ModelCard
        Classes, auxiliary channels and activation.

    Returns
    -------
    list of float
        One for each output channel of the network, in [0, 1]; 0 for a class never seen.
    """
    count = len(card.classes)
    covered, seen = np.zeros(count), np.zeros(count)
    soft, labelled_all = np.zeros(len(card.auxiliary)), 0
    for sample in samples:
        hits = np.bincount(np.asarray(sample.labels).ravel(), minlength=256)
        labelled = int(hits.sum() - hits[UNLABELLED])
        known = np.array(sample.known)
        covered += hits[1 : count + 1] * known
        seen += labelled * known
        labelled_all += labelled
        if sample.aux is not None:
            soft += np.asarray(sample.aux, np.float32).sum(axis=tuple(range(1, sample.aux.ndim)))
    shares = list(covered / np.maximum(seen, 1))
    if card.network.activation == "softmax":
        shares.insert(0, max(1.0 - sum(shares), 0.0))
    return [float(s) for s in [*shares, *(soft / max(labelled_all, 1))]]


def _places(sample: Sample, seed: int) -> list[NDArray[np.int64]]:
    """Return places to draw patches around: one array (n, ndim) for each class present."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(sample.labels)
    found: list[NDArray[np.int64]] = []
    # In a painted image background is a stroke like any other, and nothing else is drawn.
    partial = bool((labels == UNLABELLED).any())
    for value in np.unique(labels):
        if value == UNLABELLED or (value == 0 and not partial):
            continue
        flat = np.flatnonzero(labels == value)
        chosen = rng.choice(flat, size=min(PLACES_PER_CLASS, flat.size), replace=False)
        found.append(np.stack(np.unravel_index(chosen, labels.shape), axis=1))
    return found


class PatchSampler:
    """Draws batches of patches from samples.

    Parameters
    ----------
    samples : sequence of Sample
        The training images.
    card : ModelCard
        What the targets look like.
    augmenter : Augmenter
        Varies the patches and fixes their size.
    batch : int
        Patches in a batch.
    margin : float
        Factor by which a crop is larger than a patch, so that a turned patch is filled.
    foreground : float
        Share of patches that are drawn around a class (each class equally often); the rest
        is drawn anywhere. Partly labelled images are always drawn where there is paint.
    seed : int
        Of everything random.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        card: ModelCard,
        augmenter: Augmenter,
        *,
        batch: int,
        margin: float,
        foreground: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not samples:
            raise InputError("training needs at least one image, got none; add labelled images.")
        self.samples = list(samples)
        self.card = card
        self.augmenter = augmenter
        self.batch_size = batch
        self.crop = tuple(int(np.ceil(n * margin)) for n in augmenter.patch)
        self.foreground = foreground
        self.seed = seed
        self._places = [_places(s, seed + k) for k, s in enumerate(self.samples)]
        self._partial = [bool((np.asarray(s.labels) == UNLABELLED).any()) for s in self.samples]
        weights = np.array([s.weight for s in self.samples], float)
        if not (weights >= 0).all() or weights.sum() <= 0:
            raise InputError("sampling weights must be at least 0 and not all 0; mend the table.")
        self._weights = weights / weights.sum()

    def _centre(self, index: int, rng: np.random.Generator) -> tuple[int, ...]:
        sample, places = self.samples[index], self._places[index]
        if places and (self._partial[index] or rng.random() < self.foreground):
            group = places[rng.integers(len(places))]
            return tuple(int(v) for v in group[rng.integers(len(group))])
        return tuple(int(rng.integers(n)) for n in sample.space)

    def _crop(
        self, sample: Sample, centre: tuple[int, ...]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """Cut a crop; what lies outside the image repeats its edge and is unlabelled."""
        inside, pads = [], []
        for place, size, patch, length in zip(
            centre, self.crop, self.augmenter.patch, sample.space, strict=True
        ):
            # The patch itself stays inside the image wherever it fits.
            half = patch // 2
            middle = min(max(place, half), max(length - (patch - half), half))
            start = middle - size // 2
            inside.append(slice(max(start, 0), min(start + size, length)))
            pads.append((max(-start, 0), max(start + size - length, 0)))
        region = tuple(inside)
        image = np.pad(sample.image[(slice(None), *region)], [(0, 0), *pads], mode="edge")
        labels = np.pad(sample.labels[region], pads, constant_values=UNLABELLED)
        aux = None
        if sample.aux is not None:
            aux = np.pad(sample.aux[(slice(None), *region)], [(0, 0), *pads])
        return image, labels, aux

    def batch(self, step: int) -> Batch:
        """Return the batch of a step; the same step always gives the same batch."""
        images, labels, auxes, known = [], [], [], []
        for place in range(self.batch_size):
            rng = np.random.default_rng([self.seed, step, place])
            index = int(rng.choice(len(self.samples), p=self._weights))
            sample = self.samples[index]
            crop = self._crop(sample, self._centre(index, rng))
            image, label, aux = self.augmenter(*crop, seed=int(rng.integers(2**32)))
            images.append(image)
            labels.append(label)
            if aux is not None:
                auxes.append(aux)
            known.append(sample.known)
        target, weight = make_targets(
            torch.stack(labels),
            torch.stack(auxes) if auxes else None,
            torch.tensor(known),
            self.card,
        )
        return Batch(torch.stack(images), target, weight)
