"""A fine-tuning as the panel would do it, as a command line that does it without a viewer.

Knows paths, images, cards and the options of ``napari-unetpp finetune``; no widget and no layer.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image, millimetres
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.cards import SUFFIX, bundled_models
from napari_unetpp.widget.command import PROGRAM, quoted
from napari_unetpp.widget.drafts import tuned_name

SAVE = "press Save as… below Training set, which keeps image and strokes, and copy again"


@dataclass(frozen=True)
class TuneChoices:
    """What the panel says of a fine-tuning, but for its images.

    Attributes
    ----------
    model : str
        A bundled name or the path of a model file.
    card : ModelCard
        Of that model.
    scratch : bool
        A new network with the card's axes in its place.
    classes : tuple of str
        Names of all classes, without background.
    seconds : float
        Budget.
    device, precision : str
        Where, and in which numbers.
    """

    model: str
    card: ModelCard
    scratch: bool
    classes: tuple[str, ...]
    seconds: float
    device: str = "auto"
    precision: str = "auto"


def finetune_command(
    data: Sequence[str], folder: Path, choices: TuneChoices, *, windows: bool | None = None
) -> str:
    """Return the command that fine-tunes as the panel would.

    Parameters
    ----------
    data : sequence of str
        Of `project_words` or `file_words`.
    folder : Path
        Where the new model goes, under a name that is free.
    choices : TuneChoices
        What the panel says.
    windows : bool, optional
        Quote for a Windows shell; that of this computer if None.

    Raises
    ------
    InputError
        If a class has a name that cannot be said on a command line.
    """
    card, scratch = choices.card, choices.scratch
    base = choices.model if choices.model in bundled_models() else os.path.abspath(choices.model)
    name = tuned_name("scratch" if scratch else card.name)
    # A model may have any name, a file not.
    out = _unused(folder, re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "-", name).strip(" .") or "model")
    words = [PROGRAM, "finetune", *data, "--base", "scratch" if scratch else base]
    words += ["--out", str(out)]
    words += [f"--name={name}"] if out.stem != name else []
    if scratch or choices.classes != tuple(c.name for c in card.classes):
        words += _classes(choices.classes)
    words += ["--axes", card.axes] if scratch and card.axes != "YX" else []
    words += ["--max-seconds", f"{choices.seconds:g}"]
    words += ["--device", choices.device] if choices.device != "auto" else []
    words += ["--precision", choices.precision] if choices.precision != "auto" else []
    return quoted(words, windows=windows)


def project_words(folder: Path) -> list[str]:
    """Return the words that name the images of a project."""
    return ["--project", str(folder)]


def file_words(
    image: Image, painted: Image, card: ModelCard | None, channel: int | None
) -> list[str]:
    """Return the words that name an image and its paint, after a look into their files.

    Parameters
    ----------
    image, painted : Image
        As the layers have them, with the paths of their files.
    card : ModelCard, optional
        Of the model, which may go by the pixels' size; None from scratch.
    channel : int, optional
        Of the image, from 0.

    Raises
    ------
    InputError
        If there is no such file, or the layers are not what is in them.
    FileError
        If one cannot be read.
    """
    for what in (image, painted):
        if what.path is None:
            raise InputError(f"{what.name} is in no file that a command could read: {SAVE}.")
    assert image.path is not None
    assert painted.path is not None
    there = read_image(image.path)
    if not same_axes(there, image):
        raise InputError(
            f"{image.name} has the axes {image.axes} here and {there.axes} in its file: {SAVE}."
        )
    if card is not None and card.spacing is not None and not _same_spacing(there, image):
        raise InputError(f"{image.name} has another pixel size than its file: {SAVE}.")
    if not same_labels(read_labels(painted.path), painted):
        raise InputError(f"{painted.name} is not what is in its file: save it, or {SAVE}.")
    words = ["--image", os.path.abspath(image.path), "--painted", os.path.abspath(painted.path)]
    return words if channel is None else [*words, "--channel", str(channel)]


def same_axes(one: Image, other: Image) -> bool:
    """Return whether two images have the same axes; those of length 1 do not count."""
    first, second = (
        [(a, n) for a, n in image.sizes.items() if n > 1] for image in (one, other)
    )  # fmt: skip
    return first == second


def same_labels(one: Image, other: Image) -> bool:
    """Return whether two images hold the same labels, read plane by plane."""
    if not same_axes(one, other):
        return False
    first: Any = np.asarray(one.data).reshape(other.shape)
    places = np.ndindex(*other.shape[:-2])
    return all(np.array_equal(first[at], np.asarray(other.data[at])) for at in places)


def _same_spacing(one: Image, other: Image) -> bool:
    scales = (millimetres(one.unit) or 1.0, millimetres(other.unit) or 1.0)
    first, second = (
        [v * scale for v in image.spacing or ()]
        for image, scale in zip((one, other), scales, strict=True)
    )
    return len(first) == len(second) and all(
        math.isclose(a, b, rel_tol=1e-4) for a, b in zip(first, second, strict=True)
    )


def _classes(names: Sequence[str]) -> list[str]:
    for name in names:
        if "," in name:
            raise InputError(
                f"a comma separates classes on the command line, and {name!r} has one: rename it."
            )
    return [f"--classes={','.join(names)}"]  # a name may begin with a minus


def _unused(folder: Path, name: str) -> Path:
    path, number = folder / f"{name}{SUFFIX}", 2
    while path.exists():
        path, number = folder / f"{name}-{number}{SUFFIX}", number + 1
    return path
