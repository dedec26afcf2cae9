"""Options that several commands take, and the text of their values made into values.

What can be judged without an image or a model is judged here, so that a slip costs no time.
This module must not know any command.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Literal

from napari_unetpp.core.events import Note

Level = int | Literal["ensemble", "auto"]

KINDS = ("labels", "probabilities", "instances")
DEVICES = ("auto", "cpu", "cuda", "mps")
BACKENDS = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

_Wrong = argparse.ArgumentTypeError


def level(text: str) -> Level:
    """Return a level: a whole number from 1, "ensemble" or "auto".

    Raises
    ------
    argparse.ArgumentTypeError
        If it is neither. Whether the model has the level is for the model to say.
    """
    word = text.strip().lower()
    if word == "ensemble":
        return "ensemble"
    if word == "auto":
        return "auto"
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise _Wrong(f"expected 1, 2, 3, 4, ensemble or auto, got {text!r}; choose one of them.")
    return number


def levels(text: str) -> tuple[Level, ...]:
    """Return levels from a list such as ``1,2,4,ensemble``.

    Raises
    ------
    argparse.ArgumentTypeError
        If one of them is no level.
    """
    return tuple(dict.fromkeys(level(part) for part in text.split(",")))


def spacing(text: str) -> tuple[float, ...]:
    """Return two or three positive numbers from a list such as ``2.5,1,1``.

    Raises
    ------
    argparse.ArgumentTypeError
        If they are not positive, finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(v) and v > 0 for v in values):
        raise _Wrong(
            f"expected positive numbers with commas in the order Z,Y,X, got {text!r}; "
            "give for example 2.5,1,1."
        )
    return values


def threshold(text: str) -> float:
    """Return a number between 0 and 1, both excluded.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1.0:
        raise _Wrong(f"expected a number between 0 and 1, got {text!r}; 0.5 is usual.")
    return value


def count_from(least: int, example: int) -> Callable[[str], int]:
    """Return a converter for whole numbers that are at least `least`."""

    def count(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise _Wrong(
                f"expected a whole number from {least}, got {text!r}; give for example {example}."
            )
        return value

    return count


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``."""
    parser.add_argument(
        "--model",
        default="nuclei",
        metavar="NAME|FILE",
        help="a bundled model (see napari-unetpp models) or a .safetensors file; default nuclei",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device`` and ``--precision``."""
    parser.add_argument(
        "--device", default="auto", choices=DEVICES, help="where to run; auto takes the fastest"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="auto takes the fastest that the device does in hardware",
    )


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add ``--backend``."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="who computes on a processor; auto takes the faster one, measured once and kept; "
        "default NAPARI_UNETPP_BACKEND, or auto",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add ``--channel`` and ``--tile``."""
    parser.add_argument(
        "--channel",
        type=count_from(0, 1),
        metavar="N",
        help="channel of the image, from 0, for a model that takes one",
    )
    parser.add_argument(
        "--tile",
        type=count_from(1, 512),
        metavar="N",
        help="largest tile in pixels; chosen by level and memory by default",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document and nothing else"
    )


def as_json(note: Note) -> dict[str, str]:
    """Return a note as plain JSON values."""
    return {"code": note.code, "message": note.message}
