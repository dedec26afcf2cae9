"""Scores on strokes: how much of the painted pixels a network gets right.

IoU where painted, pooled over all windows, mean over background and classes. Knows windows
and tensors; no files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.nn.padding import pad_to_multiple
from napari_unetpp.core.run.results import labels_of
from napari_unetpp.core.tune.inputs import Window

SIDE = {2: 256, 3: 72}
"""Largest size of the crops in which held-out strokes are scored, with the `MARGIN`."""

MARGIN = {2: 32, 3: 12}
"""What a crop holds around the strokes that are scored in it, where the window goes so far."""

CROPS = {2: 8, 3: 4}
"""Crops that are scored while training; the time of a scoring is bounded by it."""


def decide(channels: NDArray[np.float32], card: ModelCard) -> NDArray[np.uint8]:
    """Return the class map that a model's channels stand for, (*space)."""
    return labels_of(channels[: card.class_channels.stop], card, card.threshold).astype(np.uint8)


class Counts:
    """Painted pixels by truth and answer.

    Parameters
    ----------
    classes : int
        Foreground classes.
    """

    def __init__(self, classes: int) -> None:
        self.table = np.zeros((classes + 1, classes + 1), np.int64)

    def add(self, answer: NDArray[np.uint8], window: Window, side: int) -> None:
        """Count a class map where the window has strokes of a side."""
        inside = (window.sides == side) & (window.labels != UNLABELLED)
        np.add.at(self.table, (window.labels[inside], answer[inside]), 1)

    def score(self) -> float | None:
        """Return the mean IoU of what is painted, background included; None if nothing is.

        Strokes do not tell how much of an image is background: without it as a class of its
        own, a network that calls everything foreground would do well.
        """
        chosen = [k for k in range(len(self.table)) if self.table[k].sum()]
        if not chosen:
            return None
        values = []
        for k in chosen:
            overlap = self.table[k, k]
            union = self.table[k].sum() + self.table[:, k].sum() - overlap
            values.append(float(overlap / union))
        return float(np.mean(values))


@dataclass(frozen=True)
class Score:
    """How a network does on held-out strokes.

    Attributes
    ----------
    iou : dict of int to float
        By level: IoU on the strokes, mean over background and classes.
    loss : float
        Cross-entropy on them, each class and each level counting the same.
    """

    iou: dict[int, float]
    loss: float

    @property
    def mean(self) -> float:
        """Mean over the levels, so that no level is left to rot."""
        return float(np.mean(list(self.iou.values())))

    def better_than(self, other: Score | None) -> bool:
        """Compare in steps of a hundredth; among equals the surer one is better."""
        if other is None:
            return True
        return (round(self.mean, 2), -self.loss) > (round(other.mean, 2), -other.loss)


def crops(windows: Sequence[Window], side: int) -> list[Window]:
    """Cut the parts of windows that hold strokes of a side, at most `CROPS`; classes come first."""
    found: list[Window] = []
    for window in windows:
        left = (window.sides == side) & (window.labels != UNLABELLED)
        margin = MARGIN[left.ndim]
        size = SIDE[left.ndim] - 2 * margin
        while left.any() and len(found) < CROPS[left.ndim]:
            first = [int(axis.min()) for axis in np.nonzero(left)]
            shown = left & (window.labels > 0)  # dense labels begin with a corner of background
            corner = np.argwhere(shown if shown.any() else left)[0]
            inner, outer = [], []
            for place, low, n in zip(corner, first, window.space, strict=True):
                # As far back as strokes of this side reach, so that a crop holds many.
                start = max(min(max(low, int(place) - size // 2), n - size), 0)
                inner.append(slice(start, min(start + size, n)))
                outer.append(slice(max(start - margin, 0), min(start + size + margin, n)))
            chosen = np.zeros_like(left)
            chosen[tuple(inner)] = left[tuple(inner)]
            left &= ~chosen
            box = tuple(outer)
            found.append(
                Window(
                    window.name,
                    window.image[(slice(None), *box)],
                    window.labels[box],
                    np.where(chosen[box], window.sides[box], 0).astype(np.uint8),
                )
            )
    return found


def head_probabilities(
    network: NestedUNet, image: NDArray[np.float32], precision: str = "float32"
) -> dict[int, NDArray[np.float32]]:
    """Return every head's probabilities on a window, (channels, *space), from one pass."""
    device = next(network.parameters()).device
    space = image.shape[1:]
    last = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    x = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None].to(device)
    x = pad_to_multiple(x, 2**network.config.levels).contiguous(memory_format=last)
    mode = network.training
    network.eval()
    inside = tuple(slice(0, n) for n in space)
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        heads = network.forward_heads(x)
        found = {
            level: network.probabilities(logits.float())[0].cpu().numpy()[(slice(None), *inside)]
            for level, logits in heads.items()
        }
    network.train(mode)
    return found


def score_network(
    network: NestedUNet,
    windows: Sequence[Window],
    card: ModelCard,
    side: int,
    precision: str = "float32",
) -> Score | None:
    """Score every head on the strokes of one side; None where there are none.

    Parameters
    ----------
    network : NestedUNet
        Run in evaluation mode.
    windows : sequence of Window
        Crops, see `crops`.
    card : ModelCard
        Classes and threshold.
    side : int
        `HELD_OUT` or `TRAINING`.
    precision : {"float32", "bfloat16"}
        As in training.
    """
    count = len(card.classes)
    counts = {level: Counts(count) for level in network.config.head_levels}
    losses: dict[tuple[int, int], list[float]] = {}
    for window in windows:
        inside = (window.sides == side) & (window.labels != UNLABELLED)
        if not inside.any():
            continue
        for level, channels in head_probabilities(network, window.image, precision).items():
            counts[level].add(decide(channels, card), window, side)
            for value in np.unique(window.labels[inside]):
                where = inside & (window.labels == value)
                loss = _surprise(channels[:, where], int(value), card)
                entry = losses.setdefault((level, int(value)), [0.0, 0.0])
                entry[0] += float(loss.sum())
                entry[1] += loss.size
    found = {level: one.score() for level, one in counts.items()}
    iou = {level: value for level, value in found.items() if value is not None}
    if not iou:
        return None
    loss_mean = float(np.mean([total / n for total, n in losses.values()]))
    return Score(iou, loss_mean if math.isfinite(loss_mean) else math.inf)


def _surprise(channels: NDArray[np.float32], value: int, card: ModelCard) -> NDArray[np.float32]:
    """Return the cross-entropy of pixels (channels, n) that all have one class map value."""
    p = channels.clip(1e-6, 1 - 1e-6)
    if card.network.activation == "softmax":
        return np.asarray(-np.log(p[value]), np.float32)
    classes = p[card.class_channels]
    truth = np.zeros(len(classes), bool)
    if value:
        truth[value - 1] = True
    terms = np.where(truth[:, None], np.log(classes), np.log1p(-classes))
    return np.asarray(-terms.mean(axis=0), np.float32)
