"""Strokes: connected painted pieces, and which of them are held out.

The side of a painted pixel is fixed when it is first seen, by its place, and kept in a small
JSON file beside the labels: painting on, repainting and retraining move nothing to the other
side. New strokes are added. Knows arrays and that file; no image, no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.errors import FileError, InputError

FORMAT = "napari-unetpp strokes 1"
SUFFIX = ".strokes.json"

TRAINING, HELD_OUT = 1, 2
"""Sides of a pixel; 0 where it was never painted."""

BLOCK = 64
"""A piece that is longer than this along an axis is cut into blocks of this size."""

SHARE = 0.34
"""Share of the painted pixels of a class that is held out, about."""


@dataclass(frozen=True)
class Piece:
    """A connected painted piece of one value, or a block of it.

    Attributes
    ----------
    part : str
        Which plane or volume it lies in.
    value : int
        Painted value: 1 background, 2 and more the classes.
    pixels : ndarray of int64
        Flat indices into the part's array, ascending.
    """

    part: str
    value: int
    pixels: NDArray[np.int64]


def pieces(painted: NDArray[Any], part: str = "", block: int = BLOCK) -> list[Piece]:
    """Return the connected pieces of painted labels, large ones cut into blocks.

    Parameters
    ----------
    painted : ndarray of int, shape (Y, X) or (Z, Y, X)
        0 unlabelled, 1 background, 2 and more the classes.
    part : str
        Which plane or volume it is.
    block : int
        Longest piece along an axis that is left whole.

    Returns
    -------
    list of Piece
        Neighbours touch by a face, an edge or a corner.
    """
    painted = np.asarray(painted)
    found: list[Piece] = []
    everywhere = np.ones((3,) * painted.ndim, bool)
    for value, around in enumerate(ndimage.find_objects(_whole(painted)), start=1):
        if around is None:
            continue
        # Only where the value is: an image may be far larger than its paint.
        labels, _ = ndimage.label(painted[around] == value, everywhere)
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            inside = np.nonzero(labels[box] == number)
            places = [
                axis + s.start + offset.start
                for axis, s, offset in zip(inside, box, around, strict=True)
            ]
            flat = np.ravel_multi_index(tuple(places), painted.shape).astype(np.int64)
            if max(s.stop - s.start for s in box) <= block:
                found.append(Piece(part, value, flat))
                continue
            cells = np.stack([axis // block for axis in places])
            _, which = np.unique(cells, axis=1, return_inverse=True)
            which = np.ravel(which)
            found += [Piece(part, value, flat[which == k]) for k in range(int(which.max()) + 1)]
    return found


@dataclass
class Split:
    """Which painted pixels are for training and which are held out.

    Attributes
    ----------
    seed : int
        Of the order in which new pieces are dealt.
    shapes : dict of str to tuple of int
        Shape of each part that was seen.
    sides : dict of str to dict of int to ndarray
        Flat indices on either side, by part; ascending.
    strict : bool
        A part of another shape than before is refused; if False it is another image, whose
        strokes are dealt anew.
    """

    seed: int = 0
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sides: dict[str, dict[int, NDArray[np.int64]]] = field(default_factory=dict)
    strict: bool = True

    def side_of(self, part: str, shape: Sequence[int]) -> NDArray[np.uint8]:
        """Return the side of every pixel of a part: 0, `TRAINING` or `HELD_OUT`."""
        flat = np.zeros(int(np.prod(shape)), np.uint8)
        for side, pixels in self.sides.get(part, {}).items():
            flat[pixels] = side
        return flat.reshape(tuple(shape))

    def update(self, painted: Mapping[str, NDArray[Any]]) -> None:
        """Add what was painted since the last time; nothing that has a side changes it.

        What continues a known piece joins its side. Other new pieces are dealt class by class,
        so that with two pieces of a class one is on each side, and later about a third of its
        pixels is held out.

        Parameters
        ----------
        painted : mapping of str to ndarray
            Painted labels of each plane or volume, by a name that stays.

        Raises
        ------
        InputError
            If a part has another shape than when it was last seen, and the split is strict.
        """
        counts: dict[int, NDArray[np.int64]] = {}
        waiting: list[Piece] = []
        for part, labels in painted.items():
            shape = tuple(int(n) for n in labels.shape)
            if self.shapes.get(part, shape) != shape and not self.strict:
                self.sides.pop(part, None)
                self.shapes[part] = shape
            if self.shapes.setdefault(part, shape) != shape:
                raise InputError(
                    f"the painted labels {part or 'given'} have shape {shape}, but their strokes "
                    f"were split at shape {self.shapes[part]}; give the same labels, or delete "
                    f"the {SUFFIX} file beside them."
                )
            side = self.side_of(part, shape)
            waiting += self._continue(pieces(labels, part), labels, side)
            self._store(part, side)
            for value, here in painted_counts(labels, side).items():
                counts[value] = counts.get(value, np.zeros(3, np.int64)) + here
        self._deal(waiting, counts)

    def _continue(
        self, found: list[Piece], labels: NDArray[Any], side: NDArray[np.uint8]
    ) -> list[Piece]:
        """Give pixels that join a known piece its side; return the pieces that are new."""
        flat = side.reshape(-1)
        fresh: list[Piece] = []
        for piece in found:
            known = np.bincount(flat[piece.pixels], minlength=3)
            if not known[1:].any():
                fresh.append(piece)
                continue
            new = piece.pixels[flat[piece.pixels] == 0]
            flat[new] = HELD_OUT if known[HELD_OUT] > known[TRAINING] else TRAINING
        return fresh

    def _deal(self, waiting: list[Piece], counts: dict[int, NDArray[np.int64]]) -> None:
        rng = np.random.default_rng(self.seed)
        # Large pieces first, so that no side is left with a speck where there is more.
        order = sorted(rng.permutation(len(waiting)), key=lambda k: -waiting[k].pixels.size)
        dealt: dict[str, dict[int, list[NDArray[np.int64]]]] = {}
        for piece in (waiting[k] for k in order):
            count = counts.setdefault(piece.value, np.zeros(3, np.int64))
            share = (count[HELD_OUT] + piece.pixels.size) / (count[1:].sum() + piece.pixels.size)
            if not count[TRAINING]:
                side = TRAINING
            elif not count[HELD_OUT]:
                side = HELD_OUT
            else:
                side = HELD_OUT if share <= SHARE else TRAINING
            count[side] += piece.pixels.size
            dealt.setdefault(piece.part, {}).setdefault(side, []).append(piece.pixels)
        for part, by_side in dealt.items():
            for side, chunks in by_side.items():
                old = self.sides.get(part, {}).get(side, np.zeros(0, np.int64))
                merged = np.unique(np.concatenate([old, *chunks]))
                self.sides.setdefault(part, {})[side] = merged

    def _store(self, part: str, side: NDArray[np.uint8]) -> None:
        flat = side.reshape(-1)
        self.sides[part] = {
            s: np.flatnonzero(flat == s).astype(np.int64) for s in (TRAINING, HELD_OUT)
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values: runs of pixels as start, length, start, length ..."""
        return {
            "format": FORMAT,
            "seed": self.seed,
            "parts": {
                part: {
                    "shape": list(self.shapes[part]),
                    "training": _runs(self.sides.get(part, {}).get(TRAINING)),
                    "held_out": _runs(self.sides.get(part, {}).get(HELD_OUT)),
                }
                for part in self.shapes
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Split:
        """Return what `to_json` gave.

        Raises
        ------
        InputError
            If it is something else.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r}")
            split = cls(int(values["seed"]))
            for part, row in values["parts"].items():
                shape = tuple(int(n) for n in row["shape"])
                sides = {TRAINING: _pixels(row["training"]), HELD_OUT: _pixels(row["held_out"])}
                top = int(np.prod(shape))
                if any(s.size and not 0 <= s.min() <= s.max() < top for s in sides.values()):
                    raise ValueError("a pixel lies outside")
                split.shapes[str(part)], split.sides[str(part)] = shape, sides
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"this is not a split of strokes ({error}); delete it to make a new one."
            ) from error
        return split


def _whole(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels in a dtype that `find_objects` takes, without a copy where it can."""
    if labels.dtype == bool:
        return labels.view(np.uint8)
    return labels if labels.dtype.kind in "ui" else labels.astype(np.int64)


def painted_counts(labels: NDArray[Any], side: NDArray[np.uint8]) -> dict[int, NDArray[np.int64]]:
    """Return how many pixels of each painted value have side 0, `TRAINING` and `HELD_OUT`."""
    inside = labels > 0
    values, sides = labels[inside], side[inside]
    return {int(v): np.bincount(sides[values == v], minlength=3) for v in np.unique(values)}


def _runs(pixels: NDArray[np.int64] | None) -> list[int]:
    if pixels is None or not pixels.size:
        return []
    breaks = np.flatnonzero(np.diff(pixels) != 1) + 1
    starts = np.concatenate([[0], breaks])
    lengths = np.diff(np.concatenate([starts, [pixels.size]]))
    return [int(n) for pair in zip(pixels[starts], lengths, strict=True) for n in pair]


def _pixels(runs: Sequence[int]) -> NDArray[np.int64]:
    pairs = [(int(runs[k]), int(runs[k + 1])) for k in range(0, len(runs), 2)]
    chunks = [np.arange(start, start + length, dtype=np.int64) for start, length in pairs]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)


def split_path(labels: Path) -> Path:
    """Return where the split of a label file lies: beside it, under its name."""
    return labels.with_name(labels.name + SUFFIX)


def load_split(path: Path, seed: int = 0) -> Split:
    """Read a split, or begin one if there is no file yet.

    Raises
    ------
    FileError
        If the file is there and cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Split(seed)
    except (OSError, ValueError) as error:
        raise FileError(
            f"the split of strokes {path} cannot be read ({error}); delete it to make a new one."
        ) from error
    try:
        return Split.from_json(values)
    except InputError as error:
        raise FileError(f"{path}: {error}") from error


def save_split(path: Path, split: Split) -> None:
    """Write a split; the old file stays until the new one is complete."""
    with replacing(path) as staged:
        staged.write_text(json.dumps(split.to_json()), encoding="utf-8")
