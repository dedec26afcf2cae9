"""What the panel shows, as a command line that does the same without a viewer.

Knows paths, cards and the options of ``napari-unetpp segment``; no widget and no layer.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image, millimetres
from napari_unetpp.core.data.io import output_path, read_image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.cards import bundled_models

PROGRAM = "napari-unetpp"
DEFAULT_MODEL = "nuclei"

_SAVE = "save it with File > Save Selected Layers, open that file and copy the command again"


def segment_command(
    path: str | os.PathLike[str] | None,
    model: str,
    card: ModelCard,
    *,
    level: int | str | None = None,
    kind: str = "labels",
    out: str | os.PathLike[str] | None = None,
    axes: str | None = None,
    channel: int | None = None,
    threshold: float | None = None,
    min_size: int | None = None,
    spacing: Sequence[float] | None = None,
    unit: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    windows: bool | None = None,
) -> str:
    """Return the command that segments a file as the panel would.

    Parameters
    ----------
    path : path or None
        The layer's file; its header is read, so that only what differs from it is said.
    model : str
        A bundled name or the path of a model file.
    card : ModelCard
        Of that model; says what the defaults are.
    level : int, "ensemble" or "auto", optional
        Where to stop; the model's deepest if None.
    kind : {"labels", "probabilities", "instances"}
        What to write.
    out : path, optional
        Where to; beside the image if None.
    axes : str, optional
        What the layer's axes mean, one letter of PTCZYXS for each.
    channel : int, optional
        From 0, for a model that takes one.
    threshold, min_size : float, int, optional
        In place of the model's.
    spacing : sequence of float, optional
        The layer's pixel size in Z, Y, X order. It is said where the model goes by it.
    unit : str, optional
        Of `spacing`; that of the file if None.
    device, precision : str
        Where, and in which numbers.
    windows : bool, optional
        Quote for a Windows shell; that of this computer if None.

    Returns
    -------
    str
        One line to paste into a terminal.

    Raises
    ------
    InputError
        If there is no file that a command could read, or the layer is not what is in it.
    FileError
        If the file cannot be read.
    """
    source = _file(path)
    image = read_image(source)
    image = image.replace(path=source) if image.path is None else image
    target = os.path.abspath(output_path(f"{source.parent}{os.sep}" if out is None else out,
                                         image, kind))  # fmt: skip
    words = [PROGRAM, "segment", str(source)]
    if model != DEFAULT_MODEL:
        words += ["--model", model if model in bundled_models() else os.path.abspath(model)]
    if level is not None and level != _default_level(card):
        words += ["--level", str(level)]
    if kind != "labels":
        words += ["--kind", kind]
    words += ["--out", target]
    words += _axes(image, axes, source)
    words += _spacing(image, card, spacing, unit)
    soft = card.network.activation == "softmax"
    if threshold is not None and kind != "probabilities" and not soft:
        words += _number("--threshold", threshold, card.threshold)
    if min_size is not None and kind == "instances" and min_size != _default_size(card):
        words += ["--min-size", str(min_size)]
    if channel is not None:
        words += ["--channel", str(channel)]
    words += ["--device", device] if device != "auto" else []
    words += ["--precision", precision] if precision != "auto" else []
    return quoted(words, windows=windows)


def quoted(words: Sequence[str], *, windows: bool | None = None) -> str:
    """Return words as one line that a shell takes apart into the same words.

    Parameters
    ----------
    words : sequence of str
        Program and arguments.
    windows : bool, optional
        For cmd and PowerShell instead of a POSIX shell; as on this computer if None.

    Returns
    -------
    str
        The line.
    """
    if not (os.name == "nt" if windows is None else windows):
        return shlex.join(words)
    return " ".join(_windows_word(word) for word in words)


def _windows_word(word: str) -> str:
    """Quote a word for Windows: neither shell takes single quotes as both should."""
    if word and all(c.isalnum() or c in "-_./\\:" for c in word):
        return word
    # A backslash before a quote escapes it; no name of a file holds a quote itself.
    ending = len(word) - len(word.rstrip("\\"))
    return '"' + word.replace('"', '\\"') + "\\" * ending + '"'


def _file(path: str | os.PathLike[str] | None) -> Path:
    """Return the absolute path of a layer's file, or say which file there should be."""
    if path is None or not os.fspath(path):
        raise InputError(f"the command needs a file, and this layer came from none; {_SAVE}.")
    text = os.fspath(path)
    if "://" in text:
        raise InputError(f"the command needs a local file, got {text}; {_SAVE}.")
    if not os.path.exists(text):
        raise InputError(f"the layer's file {text} is not there any more; {_SAVE}.")
    return Path(os.path.abspath(text))


def _default_level(card: ModelCard) -> int:
    return 4 if 4 in card.levels_trained else max(card.levels_trained)


def _default_size(card: ModelCard) -> int:
    return 0 if card.instances is None else card.instances.min_size


def _axes(image: Image, axes: str | None, source: Path) -> list[str]:
    """Return ``--axes`` where the layer reads the file's axes in another way."""
    if axes is None or axes == image.axes:
        return []
    if len(axes) == len(image.axes):
        return ["--axes", axes]
    # Viewers drop axes of length 1; then it is the same picture.
    long = "".join(a for a, n in zip(image.axes, image.shape, strict=True) if n > 1)
    if long == axes or "".join(a for a in axes if a in long) == long:
        return []
    raise InputError(
        f"the layer has the axes {axes} and its file {source} has {image.axes}, so the command "
        f"would segment something else; {_SAVE}."
    )


def _spacing(
    image: Image, card: ModelCard, spacing: Sequence[float] | None, unit: str | None
) -> list[str]:
    """Return ``--spacing`` where the model goes by it and the file says something else."""
    if spacing is None or card.spacing is None:
        return []
    values = [float(v) for v in spacing]
    # The command reads numbers in the file's unit, or the model's where it names none.
    here = millimetres(unit)
    there = millimetres(image.unit) or millimetres(card.spacing_unit)
    if here and there:
        values = [v * here / there for v in values]
    known = image.spacing or ()
    if len(known) == len(values) and all(
        math.isclose(a, b, rel_tol=1e-4) for a, b in zip(values, known, strict=True)
    ):
        return []
    return ["--spacing", ",".join(f"{v:.6g}" for v in values)]


def _number(option: str, value: float, default: float) -> list[str]:
    # Sliders give 0.30000000000000004.
    if math.isclose(value, default, abs_tol=1e-6):
        return []
    return [option, f"{value:.6g}"]
