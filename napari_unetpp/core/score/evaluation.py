"""A model against the truth: scores, time and memory of every level.

Each level is run by itself on every image, so that its time and memory are its own. The
figures are named in :mod:`core.score.metrics`. This module knows images, models and scores;
it must not know the command line.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, TileDone, drain
from napari_unetpp.core.run.backends.base import TITLES
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.instances import label_instances
from napari_unetpp.core.run.memory import PeakMemory, return_free_heap
from napari_unetpp.core.run.results import deciding_channels, labels_of, output_axes
from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.score.metrics import PooledObjects
from napari_unetpp.core.score.scores import Evaluation, Tally
from napari_unetpp.core.score.truth import (
    geometry_differs,
    object_evidence,
    prepare_truth,
    turned_to,
    unpaint,
)

__all__ = ["Evaluation", "ImageScored", "Pair", "Source", "evaluate"]

_WARM_UP = {2: 512, 3: 64}  # largest side of what is run once before times are taken

Source = Image | str | os.PathLike[str]


class Pair(Protocol):
    """An image and its true labels, in memory or as files."""

    @property
    def image(self) -> Source:
        """The image or its file."""
        ...

    @property
    def labels(self) -> Source:
        """The labels or their file."""
        ...


@dataclass(frozen=True)
class ImageScored(Event):
    """One more image was run and scored at one level.

    Attributes
    ----------
    done, total : int
        Runs finished and runs in all: images times levels.
    name : str
        The image.
    level : int or "ensemble"
        The level.
    iou : mapping of str to float
        Foreground IoU of the image for each class that its truth contains.
    """

    done: int
    total: int
    name: str
    level: Level
    iou: Mapping[str, float] = field(default_factory=dict)


def evaluate(
    runner: Runner,
    pairs: Iterable[Pair | tuple[Source, Source]],
    levels: Sequence[Level] | None = None,
    *,
    channel: int | None = None,
    tile: int | None = None,
    painted: bool = False,
) -> Generator[Event, None, Evaluation]:
    """Score a model on images with known labels.

    With one class, every label above 0 is foreground. With several, value k is the card's
    k-th class. A class is scored on the images whose truth contains it, and a level's scores
    are the mean over the classes seen. Objects are scored, plane by
    plane or volume by volume, where the card has an instance rule and one class and the
    truth tells objects apart.

    Parameters
    ----------
    runner : Runner
        The model on its device.
    pairs : iterable of Pair or tuple
        Image and labels, each an :class:`Image` or a file.
    levels : sequence of int, "ensemble" or "auto", optional
        Trained levels; all and the ensemble if None.
    channel, tile : int, optional
        As in :func:`core.run.inference.predict`.
    painted : bool
        Labels are paint: 0 unlabelled and not scored, 1 background, 2 and more the classes.

    Yields
    ------
    ImageScored, TileDone or Note
        A note that repeats from image to image is given once.

    Returns
    -------
    Evaluation
        Scores, times and memory.

    Raises
    ------
    InputError
        At once, if there are no pairs or a level was not trained; while running, if an image
        and its labels do not fit together or do not fit the model.
    FileError
        If a file cannot be read.
    """
    work = [_unpack(pair) for pair in pairs]
    if not work:
        raise InputError("an evaluation needs at least one image with labels, got none; add some.")
    wanted = _levels(runner, levels)
    return _evaluate(runner, work, wanted, channel, tile, painted)


def _unpack(pair: Pair | tuple[Source, Source]) -> tuple[Source, Source]:
    return pair if isinstance(pair, tuple) else (pair.image, pair.labels)


def _levels(runner: Runner, levels: Sequence[Level] | None) -> tuple[Level, ...]:
    trained = runner.card.levels_trained
    if levels is None:
        every: tuple[Level, ...] = tuple(sorted(trained))
        return (*every, "ensemble") if len(trained) > 1 else every
    wanted = tuple(dict.fromkeys(levels))
    if not wanted:
        raise InputError("an evaluation needs at least one level, got none; give for example 4.")
    for level in wanted:
        runner.stage_of(level)
    return wanted


def _evaluate(
    runner: Runner,
    work: Sequence[tuple[Source, Source]],
    levels: tuple[Level, ...],
    channel: int | None,
    tile: int | None,
    painted: bool,
) -> Generator[Event, None, Evaluation]:
    card = runner.card
    tallies = {level: Tally(card) for level in levels}
    # A stroke shows where an object is, not where it ends.
    can_separate = card.instances is not None and len(card.classes) == 1 and not painted
    evidence: set[bool | None] = set()
    told: set[Event] = set()
    done = 0
    for number, (image_source, label_source) in enumerate(work):
        image, labels = _load(image_source, label_source)
        labels = turned_to(image, labels)
        axes, shape, _ = output_axes(image, card, "labels")
        labelled: NDArray[Any] | None = None
        if painted:
            labels, mask = unpaint(labels)
            labelled = prepare_truth(mask, axes, shape, card, image.name) > 0
        truth = prepare_truth(labels, axes, shape, card, image.name)
        if geometry_differs(image, labels):
            yield Note(
                f"the labels of {image.name} say that they lie elsewhere than the image; they "
                "are compared voxel by voxel.",
                "label-geometry",
            )
        if can_separate:
            evidence |= {object_evidence(part) for part in _parts(truth, card)}
        for level in levels:
            if number == 0:
                # The precision of the level is settled here, so that all its times are of one.
                before = len(runner.notes)
                _warm_up(runner, image, level, channel)
                if level == "auto":  # it may have stayed shallow there
                    _warm_up(runner, image, runner.stage_of(level), channel)
                yield from runner.notes[before:]
                told |= {*runner.notes[before:]}
            tally = tallies[level]
            probabilities = yield from _run(runner, image, level, channel, tile, tally, told)
            pred = _class_labels(probabilities, card)
            if labelled is not None:
                pred[~labelled] = 0
            found = tally.add_pixels(pred, truth)
            if can_separate:
                _add_objects(tally.objects, probabilities, truth, card)
            done += 1
            yield ImageScored(done, len(work) * len(levels), image.name, level, found)
    as_objects = can_separate and (True in evidence or False not in evidence)
    return Evaluation(
        model=card.name,
        device=_device_text(runner, levels),
        n_images=len(work),
        levels={str(level): tally.row(as_objects) for level, tally in tallies.items()},
        classes={
            c.name: {str(level): tally.class_row(c.name) for level, tally in tallies.items()}
            for c in card.classes
        },
    )


def _device_text(runner: Runner, levels: Sequence[Level]) -> str:
    """Return the device and what the levels ran in: "cpu (NAME, bfloat16; L4 float32)"."""
    by_precision: dict[str, list[str]] = {}
    for level in levels:
        name = f"L{level}" if isinstance(level, int) else level
        by_precision.setdefault(runner.precision_of(level), []).append(name)
    words: list[str] = [runner.device.precision] if runner.device.precision in by_precision else []
    for precision, names in by_precision.items():
        if precision != runner.device.precision:
            words.append(f"{', '.join(names)} {precision}" if words else precision)
    backends = dict.fromkeys(runner.backend_of(level) for level in levels)
    who = "" if tuple(backends) == ("torch",) else ", " + " and ".join(TITLES[b] for b in backends)
    return f"{runner.device.kind} ({runner.device.name}, {'; '.join(words)}{who})"


def _load(image_source: Source, label_source: Source) -> tuple[Image, Image]:
    """Read a pair; the image is held in memory, so that reading it is in no level's time."""
    image = image_source if isinstance(image_source, Image) else read_image(image_source)
    labels = label_source if isinstance(label_source, Image) else read_labels(label_source)
    return image.replace(data=np.asarray(image.data)), labels


def _warm_up(runner: Runner, image: Image, level: Level, channel: int | None) -> None:
    """Run the middle of an image once: kernels are chosen and precision is checked there."""
    side = _WARM_UP[len(runner.card.axes)]
    middle: list[slice] = []
    for axis, size in zip(image.axes, image.shape, strict=True):
        keep = min(size, side if axis in runner.card.axes else 1)
        keep = size if axis in "CS" else keep
        middle.append(slice((size - keep) // 2, (size - keep) // 2 + keep))
    part = image.replace(data=image.data[tuple(middle)])
    _, shape, dtype = output_axes(part, runner.card, "probabilities")
    drain(
        predict(
            part,
            runner,
            np.empty(shape, dtype),
            level=level,
            kind="probabilities",
            channel=channel,
        )
    )


def _run(
    runner: Runner,
    image: Image,
    level: Level,
    channel: int | None,
    tile: int | None,
    tally: Tally,
    told: set[Event],
) -> Generator[Event, None, NDArray[np.float32]]:
    """Return the network's channels for an image, (C, *axes of the labels); add time and memory.

    The time is that of the run alone, not of whoever listens to its events.
    """
    card = runner.card
    axes, shape, dtype = output_axes(image, card, "probabilities")
    sink = np.full(shape, 0, dtype)  # written, so that its pages belong to the baseline
    job = predict(
        image, runner, sink, level=level, kind="probabilities", channel=channel, tile=tile
    )
    pixels = math.prod(n for axis, n in image.sizes.items() if axis not in "CS")
    tally.megapixels += pixels / 1e6
    # Memory follows from the size, and looking at it takes longer than a small image does.
    memory = None
    if pixels > tally.largest:
        # What an earlier run has freed but the process still holds would hide in the baseline,
        # and the next run would seem to need nothing.
        return_free_heap()
        memory = PeakMemory(runner.device.kind)
    with memory or contextlib.nullcontext(), contextlib.closing(job):
        while True:
            start = time.perf_counter()
            event = next(job, None)
            tally.seconds += time.perf_counter() - start
            if event is None:
                break
            if level == "auto" and isinstance(event, TileDone):
                tally.tiles[event.level] += 1
            if not isinstance(event, Note) or event not in told:
                yield event
            if isinstance(event, Note):
                told.add(event)
    if memory is not None:
        tally.largest = pixels
        tally.peak_mb = max(tally.peak_mb, memory.megabytes)
    probabilities: NDArray[np.float32] = (
        np.moveaxis(sink, axes.index("C"), 0) if "C" in axes else sink[None]
    )
    if card.network.activation == "softmax":  # results leave the background out
        background = 1 - probabilities.sum(axis=0, keepdims=True)
        probabilities = np.concatenate([background, probabilities])
    return probabilities


def _class_labels(
    probabilities: NDArray[np.float32], card: ModelCard
) -> NDArray[np.unsignedinteger]:
    """Decide the classes as the finished result does."""
    return labels_of((probabilities[k] for k in deciding_channels(card)), card, card.threshold)


def _parts(array: NDArray[Any], card: ModelCard) -> NDArray[Any]:
    """Return the planes or volumes of an array whose last axes are those of the card."""
    return array.reshape(-1, *array.shape[array.ndim - len(card.axes) :])


def _add_objects(
    tally: PooledObjects,
    probabilities: NDArray[np.float32],
    truth: NDArray[np.integer],
    card: ModelCard,
) -> None:
    """Score the objects of every plane or volume."""
    channels = len(probabilities)
    split = probabilities.reshape(channels, -1, *truth.shape[truth.ndim - len(card.axes) :])
    for index, part in enumerate(_parts(truth, card)):
        tally.add(label_instances(split[:, index], card), part)
