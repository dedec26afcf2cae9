"""Patches for fine-tuning: where there is paint, with what the teacher says of the rest.

A batch is a function of (seed, step) alone. Turns, sizes and intensities are varied by a few
tensor operations on the whole batch: the budget is seconds, and importing and running MONAI's
transforms patch by patch would take a good part of it. Knows windows; no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.sampling import make_targets
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.strokes import TRAINING

ANYWHERE = 0.4
"""Share of patches that are drawn anywhere, for the teacher; the rest around strokes."""


@dataclass(frozen=True)
class TunedBatch:
    """Patches, the strokes in them, and the teacher's view of the rest.

    Attributes
    ----------
    image : Tensor
        (N, C, *patch), float32.
    target, known : Tensor
        (N, channels, *patch): strokes and their weight, as the loss takes them.
    soft, sure : Tensor
        (N, channels, *patch): the teacher's probabilities and weight.
    """

    image: Tensor
    target: Tensor
    known: Tensor
    soft: Tensor
    sure: Tensor


class PatchDrawer:
    """Draws batches around training strokes.

    Parameters
    ----------
    windows : sequence of Window
        With paint.
    card : ModelCard
        Classes and channels.
    patch : tuple of int
        Size; multiples of 2^levels.
    batch : int
        Patches in a batch.
    seed : int
        Of everything random.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        card: ModelCard,
        patch: tuple[int, ...],
        batch: int,
        seed: int,
    ) -> None:
        self.windows = list(windows)
        channels = card.network.out_channels
        # Nobody teaches until `teach` is called.
        self.maps = [np.zeros((channels, *w.space), np.float32) for w in self.windows]
        self.sure = [np.zeros_like(m) for m in self.maps]
        self.card, self.patch, self.size, self.seed = card, patch, batch, seed
        # Channels that the base teaches: a stroke corrects it where it is wrong, and only there.
        self.trusted = np.zeros(channels, bool)
        self._places: list[NDArray[np.int64]] = []  # by class: (n, 1 + ndim)
        by_value: dict[int, list[NDArray[np.int64]]] = {}
        for number, window in enumerate(self.windows):
            inside = (window.sides == TRAINING) & (window.labels != UNLABELLED)
            for value in np.unique(window.labels[inside]):
                places = np.argwhere(inside & (window.labels == value))
                lead = np.full((len(places), 1), number)
                by_value.setdefault(int(value), []).append(np.hstack([lead, places]))
        self._places = [np.concatenate(by_value[v]) for v in sorted(by_value)]

    def teach(self, number: int, maps: NDArray[np.float32], sure: NDArray[np.float32]) -> None:
        """Set what the teacher says of a window and how sure it is, (channels, *space) both."""
        self.maps[number], self.sure[number] = maps, sure

    def _centre(self, rng: np.random.Generator) -> tuple[int, list[int]]:
        if not self._places or rng.random() < ANYWHERE:
            number = int(rng.integers(len(self.windows)))
            return number, [int(rng.integers(n)) for n in self.windows[number].space]
        group = self._places[rng.integers(len(self._places))]
        number, *place = (int(v) for v in group[rng.integers(len(group))])
        return number, [p + int(rng.integers(-n // 4, n // 4 + 1)) for p, n in
                        zip(place, self.patch, strict=True)]  # fmt: skip

    def _crop(self, number: int, centre: Sequence[int]) -> tuple[NDArray[Any], ...]:
        window = self.windows[number]
        inside, pads = [], []
        for place, size, length in zip(centre, self.patch, window.space, strict=True):
            start = max(min(place - size // 2, length - size), 0)
            stop = min(start + size, length)
            inside.append(slice(start, stop))
            pads.append((0, size - (stop - start)))
        box = tuple(inside)
        strokes = np.where(window.sides[box] == TRAINING, window.labels[box], UNLABELLED)
        return (
            np.pad(window.image[(slice(None), *box)], [(0, 0), *pads], mode="edge"),
            np.pad(strokes, pads, constant_values=UNLABELLED),
            np.pad(self.maps[number][(slice(None), *box)], [(0, 0), *pads]),
            np.pad(self.sure[number][(slice(None), *box)], [(0, 0), *pads]),
        )

    def batch(self, step: int) -> TunedBatch:
        """Return the batch of a step; the same step always gives the same batch."""
        rng = np.random.default_rng([self.seed, step])
        rows = [self._crop(*self._centre(rng)) for _ in range(self.size)]
        image, strokes, soft, sure = (
            torch.from_numpy(np.stack([np.ascontiguousarray(row[k]) for row in rows]))
            for k in range(4)
        )
        channels = (image.shape[1], soft.shape[1], sure.shape[1])
        smooth = torch.cat([image.float(), soft.float(), sure.float()], dim=1)
        smooth, marks = _turned(smooth, strokes[:, None].float(), rng, self.card)
        image, soft, sure = torch.split(smooth, list(channels), dim=1)
        labels = marks[:, 0].round().long()
        known = torch.ones(len(labels), len(self.card.classes), dtype=torch.bool)
        aux = torch.zeros(len(labels), len(self.card.auxiliary), *labels.shape[1:])
        target, weight = make_targets(
            labels, aux if self.card.auxiliary else None, known, self.card
        )
        if self.card.auxiliary:
            # A stroke shows a class, not how far its object reaches.
            weight[:, -len(self.card.auxiliary) :] = 0.0
        painted = (labels != UNLABELLED)[:, None]
        free = torch.ones_like(sure)
        free[:, : sure.shape[1] - len(self.card.auxiliary)] = (~painted).float()
        if self.card.network.activation == "sigmoid":
            trusted = torch.from_numpy(self.trusted)[None, :, *(None,) * (labels.ndim - 1)]
            right = (soft > self.card.threshold) == (target > 0.5)
            settled = trusted & right & (sure > 0) & painted
            weight, free = weight * ~settled, free.masked_fill(settled, 1.0)
        return TunedBatch(_relit(image, rng), target, weight, soft, sure * free)


def _turned(
    smooth: Tensor, marks: Tensor, rng: np.random.Generator, card: ModelCard
) -> tuple[Tensor, Tensor]:
    """Mirror, turn and scale image and targets alike; the edge is reflected in all of them."""
    ndim = smooth.ndim - 2
    if card.orientation is not None:
        return smooth, marks
    for axis in range(2, smooth.ndim):
        if rng.random() < 0.5:
            smooth, marks = smooth.flip(axis), marks.flip(axis)
    if ndim == 3:
        return smooth, marks
    angle = rng.uniform(-math.pi, math.pi, len(smooth))
    scale = np.exp(rng.uniform(-0.2, 0.2, len(smooth)))
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    zero = np.zeros_like(cos)
    theta = torch.from_numpy(
        np.stack([np.stack([cos, -sin, zero], 1), np.stack([sin, cos, zero], 1)], 1)
    ).float()
    # The grid is in halves of each side: what is not square must not be sheared.
    height, width = smooth.shape[2:]
    theta[:, 0, 1] *= height / width
    theta[:, 1, 0] *= width / height
    grid = F.affine_grid(theta, [len(smooth), 1, height, width], align_corners=False)
    options = {"padding_mode": "reflection", "align_corners": False}
    return (
        F.grid_sample(smooth, grid, mode="bilinear", **options),  # type: ignore[arg-type]
        F.grid_sample(marks, grid, mode="nearest", **options),  # type: ignore[arg-type]
    )


def _relit(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Vary contrast, brightness and noise of each patch."""
    shape = (len(image),) + (1,) * (image.ndim - 1)
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.1, shape))).float()
    offset = torch.from_numpy(rng.normal(0, 0.05, shape)).float()
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    return image * gain + offset + 0.02 * noise
