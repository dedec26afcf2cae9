"""Quick scores of a network in training: prepared samples, all heads from one pass.

The figures that go into a model's card come from `core.score.evaluation`, through the whole
pipeline on the files themselves; these here steer a training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.sampling import Sample
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.nn.padding import pad_to_multiple

# Largest pass in pixels or voxels; a larger sample is scored in pieces.
LIMIT = 2**21


def _pieces(space: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut a sample along its longest axis until a piece fits."""
    if math.prod(space) <= LIMIT:
        yield tuple(slice(0, n) for n in space)
        return
    axis = int(np.argmax(space))
    half = space[axis] // 2
    for start, stop in ((0, half), (half, space[axis])):
        part = (*space[:axis], stop - start, *space[axis + 1 :])
        for piece in _pieces(part):
            shifted = slice(piece[axis].start + start, piece[axis].stop + start)
            yield (*piece[:axis], shifted, *piece[axis + 1 :])


def class_masks(probabilities: Tensor, card: ModelCard) -> Tensor:
    """Decide classes as the finished model will: (N, C, *space) to bool (N, classes, *space)."""
    if card.network.activation == "softmax":
        winner = probabilities.argmax(dim=1, keepdim=True)
        values = torch.arange(1, len(card.classes) + 1, device=winner.device)
        return winner == values.view(1, -1, *([1] * (probabilities.ndim - 2)))
    classes = probabilities[:, card.class_channels]
    winner = classes.argmax(dim=1, keepdim=True)
    values = torch.arange(len(card.classes), device=winner.device)
    first = winner == values.view(1, -1, *([1] * (probabilities.ndim - 2)))
    return first & (classes > card.threshold)


def validate(
    network: NestedUNet, samples: Sequence[Sample], card: ModelCard, *, precision: str = "float32"
) -> dict[int, dict[str, float]]:
    """Score every head on prepared samples, on the model's grid, where labelled.

    Parameters
    ----------
    network : NestedUNet
        Put into evaluation mode and back.
    samples : sequence of Sample
        Held-out images.
    card : ModelCard
        Classes and threshold.
    precision : {"float32", "bfloat16"}
        As in training.

    Returns
    -------
    dict of int to dict of str to float
        By level: ``iou_per_image`` and ``dice_per_image``, means over images for a class
        (where the truth contains it), then over classes; and ``dice_<class>`` with several.
        Empty if no image contains a class that is known in it.
    """
    mode = network.training
    network.eval()
    device = next(network.parameters()).device
    sums: dict[int, dict[str, list[tuple[float, float]]]] = {
        k: {c.name: [] for c in card.classes} for k in network.config.head_levels
    }
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        for sample in samples:
            counts = _counts(network, sample, card, device)
            for level, (overlap, predicted, true) in counts.items():
                for index, info in enumerate(card.classes):
                    if not sample.known[index] or true[index] == 0:
                        continue
                    union = predicted[index] + true[index] - overlap[index]
                    dice = 2 * overlap[index] / (predicted[index] + true[index])
                    sums[level][info.name].append((overlap[index] / union, dice))
    network.train(mode)
    seen = any(rows for by_class in sums.values() for rows in by_class.values())
    return {level: _summary(by_class) for level, by_class in sums.items()} if seen else {}


def _counts(
    network: NestedUNet, sample: Sample, card: ModelCard, device: torch.device
) -> dict[int, tuple[list[float], list[float], list[float]]]:
    """Count overlap, predicted and true pixels by level and class over one sample."""
    total: dict[int, Tensor] = {}
    values = torch.arange(1, len(card.classes) + 1)
    for region in _pieces(sample.space):
        image = np.asarray(sample.image[(slice(None), *region)], np.float32)
        labels = torch.from_numpy(np.array(sample.labels[region])).long()
        x = pad_to_multiple(torch.from_numpy(image)[None].to(device), 2**network.config.levels)
        labelled = (labels != UNLABELLED)[None]
        truth = labels[None] == values.view(-1, *([1] * labels.ndim))  # (classes, *space)
        inside = (slice(None), *(slice(0, n) for n in labels.shape))
        for level, logits in network.forward_heads(x).items():
            probabilities = network.probabilities(logits.float())
            masks = class_masks(probabilities, card)[0].cpu()[inside] & labelled
            dims = list(range(1, truth.ndim))
            rows = [(masks & truth).sum(dims), masks.sum(dims), truth.sum(dims)]
            total[level] = total.get(level, torch.zeros(3, len(values))) + torch.stack(rows)
    return {k: (v[0].tolist(), v[1].tolist(), v[2].tolist()) for k, v in total.items()}


def _summary(by_class: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Average over images, then over the classes that were seen."""
    means = {name: np.mean(rows, axis=0) for name, rows in by_class.items() if rows}
    iou, dice = np.mean(list(means.values()), axis=0)
    result = {"iou_per_image": float(iou), "dice_per_image": float(dice)}
    if len(by_class) > 1:
        result |= {f"dice_{name}": float(row[1]) for name, row in means.items()}
    return result
