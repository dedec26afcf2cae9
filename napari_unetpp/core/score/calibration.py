"""How much the first two levels may disagree before "auto" goes to the deepest one.

Measured on images that were held out: each is run at the first two levels and at the deepest,
and the tolerance is the largest one with which the mean score stays within a bound of the deepest
level's. Knows images, models and scores; not the command line.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event
from napari_unetpp.core.run.adaptive import disagreement
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.results import deciding_channels, labels_of, output_axes
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.core.score.evaluation import Pair, Source
from napari_unetpp.core.score.truth import prepare_truth, turned_to

BOUND = 0.004
"""Loss of mean IoU that is accepted, less than the 0.005 that is promised: a tolerance that was
chosen on one half of the held-out nuclei lost 0.0048 on the other, the mean of 400 halvings."""


@dataclass(frozen=True)
class Judged:
    """One image: how far the first levels disagree, and what going deep is worth.

    Attributes
    ----------
    disagreement : float
        0 to 1.
    shallow, deep : float
        Mean IoU of the classes that its truth contains, at the second and the deepest level.
    """

    disagreement: float
    shallow: float
    deep: float


@dataclass(frozen=True)
class Calibration:
    """A tolerance and what it does on the images it was chosen by.

    Attributes
    ----------
    tolerance : float
        For the card.
    share_deep : float
        Share of the images that go deep with it.
    shallow, auto, deep : float
        Mean IoU at the second level, with the tolerance, and at the deepest level.
    """

    tolerance: float
    share_deep: float
    shallow: float
    auto: float
    deep: float


def choose_tolerance(judged: Sequence[Judged], bound: float = BOUND) -> Calibration:
    """Choose the largest tolerance that costs at most `bound` of the mean IoU.

    Parameters
    ----------
    judged : sequence of Judged
        At least one.
    bound : float
        Loss that is accepted.

    Returns
    -------
    Calibration
        With a tolerance between two of the disagreements, 0 if every image has to go deep; a
        multiple of 0.0001, with which it was judged.
    """
    if not judged:
        raise InputError("a calibration needs at least one labelled image, got none; add some.")
    deep = float(np.mean([one.deep for one in judged]))
    seen = sorted({one.disagreement for one in judged})
    middles = ((low + high) / 2 for low, high in pairwise(seen))
    # Rounded as the card keeps it before it is judged: so it does there what is said here.
    allowed = [
        tolerance
        for tolerance in (*(math.floor(1e4 * t) / 1e4 for t in middles), 1.0)
        if deep - float(np.mean(_scores(judged, tolerance))) <= bound
    ]
    tolerance = max(allowed, default=0.0)
    return Calibration(
        tolerance=tolerance,
        share_deep=sum(one.disagreement > tolerance for one in judged) / len(judged),
        shallow=float(np.mean([one.shallow for one in judged])),
        auto=float(np.mean(_scores(judged, tolerance))),
        deep=deep,
    )


def _scores(judged: Sequence[Judged], tolerance: float) -> list[float]:
    """Return what each image scores with a tolerance."""
    return [one.shallow if one.disagreement <= tolerance else one.deep for one in judged]


def calibrate(
    runner: Runner, pairs: Iterable[Pair | tuple[Source, Source]], bound: float = BOUND
) -> Generator[Event, None, Calibration]:
    """Calibrate "auto" on images with known labels.

    Parameters
    ----------
    runner : Runner
        The model on its device.
    pairs : iterable of Pair or tuple
        Images and labels that were held out of training.
    bound : float
        Loss of mean IoU that is accepted.

    Yields
    ------
    Event
        Those of the runs.

    Returns
    -------
    Calibration
        The tolerance and what it does on these images.

    Raises
    ------
    InputError
        If the model has less than three levels, or no pair holds any foreground.
    """
    card = runner.card
    trained = sorted(card.levels_trained)
    if len(trained) < 3:
        raise InputError(
            f"auto chooses between the second and a deeper level, but {card.name!r} was trained "
            f"at {len(trained)}; use one of its levels."
        )
    judged: list[Judged] = []
    for pair in pairs:
        image_source, label_source = pair if isinstance(pair, tuple) else (pair.image, pair.labels)
        image = image_source if isinstance(image_source, Image) else read_image(image_source)
        labels = label_source if isinstance(label_source, Image) else read_labels(label_source)
        image = image.replace(data=np.asarray(image.data))
        axes, shape, _ = output_axes(image, card, "labels")
        truth = prepare_truth(turned_to(image, labels), axes, shape, card, image.name)
        found = {}
        for level in (trained[0], trained[1], trained[-1]):
            found[level] = yield from _run(runner, image, level)
        scores = [_iou(found[k], truth, card) for k in (trained[1], trained[-1])]
        if not any(math.isnan(score) for score in scores):
            first, second = (_with_background(found[k], card) for k in trained[:2])
            judged.append(Judged(disagreement(first, second, card), *scores))
    return choose_tolerance(judged, bound)


def _run(runner: Runner, image: Image, level: int) -> Generator[Event, None, NDArray[np.float32]]:
    """Return the probabilities of an image, (channels, *axes of the labels)."""
    axes, shape, dtype = output_axes(image, runner.card, "probabilities")
    sink = np.zeros(shape, dtype)
    yield from predict(image, runner, sink, level=level, kind="probabilities")
    return np.moveaxis(sink, axes.index("C"), 0) if "C" in axes else sink[None]


def _with_background(found: NDArray[np.float32], card: ModelCard) -> NDArray[np.float32]:
    """Give a softmax its background back, which results leave out."""
    if card.network.activation != "softmax":
        return found
    return np.concatenate([1 - found.sum(axis=0, keepdims=True), found])


def _iou(found: NDArray[np.float32], truth: NDArray[np.integer], card: ModelCard) -> float:
    """Return the mean IoU of the classes in the truth; NaN if it holds none."""
    full = _with_background(found, card)
    labels = labels_of((full[k] for k in deciding_channels(card)), card, card.threshold)
    scores: list[Any] = []
    for value in range(1, len(card.classes) + 1):
        true = truth > 0 if len(card.classes) == 1 else truth == value
        if true.any():
            ours = labels == value
            scores.append((ours & true).sum() / (ours | true).sum())
    return float(np.mean(scores)) if scores else math.nan
