"""From files to training samples: normalised, on the model's grid, cached on disk.

An image comes in by the very path that inference takes (`core.run.source`,
`core.run.spaces`), so a network sees in use what it saw in training. The arrays of a sample
are memory-mapped ``.npy`` files, so a training set larger than the memory is no trouble.
Knows files and cards; no network.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.geometry import Grid, GridMap, grid_of
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.data.io.atomic import replacing
from napari_unetpp.core.data.labels import LabelRule, auxiliary_maps, class_map
from napari_unetpp.core.data.pairs import Pair
from napari_unetpp.core.data.sampling import Sample
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Event, Note, TileDone
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import space_for
from napari_unetpp.core.run.tiling import Tile
from napari_unetpp.core.score.truth import geometry_differs

CACHE_VERSION = 1


@dataclass(frozen=True)
class TableRow:
    """What a table says about one image.

    Attributes
    ----------
    split : {"", "train", "held-out"}
        Which side it is on; drawn by lot if empty.
    classes : tuple of str, optional
        Classes that were annotated in it; all if None.
    weight : float
        How often it is drawn, relative to others.
    """

    split: str = ""
    classes: tuple[str, ...] | None = None
    weight: float = 1.0


def read_table(path: Path, card: ModelCard) -> dict[str, TableRow]:
    """Read a CSV with the columns name, and any of split, classes (by ``;``) and weight.

    Raises
    ------
    FileError
        If it cannot be read.
    InputError
        If a column, a split, a class or a weight is not what was expected.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"the table {path} cannot be read ({error}); give a CSV file.") from error
    known = {c.name for c in card.classes}
    table: dict[str, TableRow] = {}
    for number, row in enumerate(rows, start=2):
        name = (row.get("name") or "").strip()
        if not name:
            raise InputError(f"{path}, line {number}: expected a column 'name'; add the name.")
        split = (row.get("split") or "").strip()
        if split not in ("", "train", "held-out"):
            raise InputError(
                f"{path}, line {number}: split must be train or held-out, got {split!r}."
            )
        classes = None
        if row.get("classes"):
            classes = tuple(c.strip() for c in row["classes"].split(";") if c.strip())
            odd = [c for c in classes if c not in known]
            if odd:
                raise InputError(
                    f"{path}, line {number}: unknown class {odd[0]!r}; expected some of "
                    f"{', '.join(sorted(known))}."
                )
        try:
            weight = float(row.get("weight") or 1.0)
        except ValueError:
            weight = -1.0
        if not 0.0 <= weight < float("inf"):
            raise InputError(
                f"{path}, line {number}: weight must be a number from 0, got {row['weight']!r}."
            )
        table[name] = TableRow(split, classes, weight)
    return table


def split_names(
    names: Sequence[str], table: Mapping[str, TableRow], share: float, seed: int
) -> set[str]:
    """Return the names that are held out.

    What the table says is kept. The rest is drawn by a hash of name and seed, each by itself,
    so that adding images moves none to the other side; the share is met on average. With two
    images or more and a share above 0, at least one is held out and at least one is not.

    Parameters
    ----------
    names : sequence of str
        All images.
    table : mapping of str to TableRow
        May fix sides.
    share : float
        Share to hold out, in [0, 1).
    seed : int
        Of the draw.
    """
    if not 0.0 <= share < 1.0:
        raise InputError(f"the held-out share must lie in [0, 1), got {share}; 0.2 is usual.")
    fixed = {n for n in names if n in table and table[n].split == "held-out"}
    free = [n for n in names if n not in table or not table[n].split]
    if share == 0.0 or len(names) < 2 or not free:
        return fixed
    draw = {n: hashlib.sha256(f"{seed}:{n}".encode()).digest() for n in free}
    held_out = fixed | {n for n in free if int.from_bytes(draw[n][:8]) < share * 2**64}
    if not held_out:
        return {min(free, key=draw.__getitem__)}
    if len(held_out) == len(names):
        held_out.remove(max(free, key=draw.__getitem__))
    return held_out


@dataclass(frozen=True)
class TrainingSet:
    """Samples on both sides of the split.

    Attributes
    ----------
    training, held_out : list of Sample
        Planes (2D network) or volumes (3D).
    held_out_pairs : list of Pair
        Files of the held-out images, for the final scores.
    digest : str
        A hash of the files, of how they were read, and of the split.
    """

    training: list[Sample]
    held_out: list[Sample]
    held_out_pairs: list[Pair]
    digest: str = ""


def prepare(
    pairs: Sequence[Pair],
    card: ModelCard,
    rule: LabelRule,
    cache: Path,
    *,
    table: Mapping[str, TableRow] | None = None,
    share: float = 0.2,
    seed: int = 0,
    channel: int | None = None,
) -> Generator[Event, None, TrainingSet]:
    """Read, normalise and resample every image, or take it from the cache.

    Parameters
    ----------
    pairs : sequence of Pair
        Images and labels.
    card : ModelCard
        Axes, channels, spacing, orientation, normalisation, classes.
    rule : LabelRule
        How label values are meant.
    cache : Path
        Folder for the arrays; made if missing. Finished entries are used again.
    table : mapping of str to TableRow, optional
        See `read_table`.
    share : float
        Share of images to hold out where the table does not say.
    seed : int
        Of the split.
    channel : int, optional
        Channel of the images, see `Source`.

    Yields
    ------
    TileDone, Note
        One `TileDone` an image.

    Returns
    -------
    TrainingSet
        With at least one training sample.

    Raises
    ------
    UNetPPError
        If a file cannot be read or used; the message names it.
    """
    table = table or {}
    held_out = split_names([p.name for p in pairs], table, share, seed)
    missing = sorted(n for n in table if n not in {p.name for p in pairs})
    if missing:
        yield Note(
            f"{len(missing)} name(s) of the table have no image, such as {missing[0]}.", "table"
        )
    if not held_out:
        yield Note("no image is held out: there will be no scores.", "no-held-out")
    if len(held_out) == len(pairs):
        raise InputError("training needs at least one image that is not held out; add images.")
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    digest = hashlib.sha256()
    for done, pair in enumerate(pairs, start=1):
        row = table.get(pair.name, TableRow())
        key = _key(pair, card, rule, channel)
        digest.update(repr((key, pair.name in held_out, row.classes, row.weight)).encode())
        samples = yield from _cached(pair, card, rule, cache, row, channel, key)
        sides[pair.name in held_out].extend(samples)
        yield TileDone(done, len(pairs), 0)
    held_out_pairs = [p for p in pairs if p.name in held_out]
    return TrainingSet(sides[0], sides[1], held_out_pairs, digest.hexdigest())


def _key(pair: Pair, card: ModelCard, rule: LabelRule, channel: int | None) -> str:
    """Return a hash of everything that the cached arrays depend on."""
    parts: list[Any] = [CACHE_VERSION, vars(rule), channel]
    for path in (pair.image, pair.labels):
        parts.append(str(path.resolve()))
        # An OME-Zarr is a folder; its own time does not change with what lies deeper in it.
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            status = file.stat()
            parts.append([str(file.relative_to(path)), status.st_size, status.st_mtime_ns])
    json_card = card.to_json()
    fields = ("axes", "classes", "auxiliary", "spacing", "spacing_unit", "orientation")
    parts += [json_card[name] for name in (*fields, "normalisation")]
    parts.append(card.network.in_channels)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _cached(
    pair: Pair,
    card: ModelCard,
    rule: LabelRule,
    cache: Path,
    row: TableRow,
    channel: int | None,
    key: str,
) -> Generator[Event, None, list[Sample]]:
    """Return an image's samples from the cache, filling it first where needed."""
    done = cache / f"{key}.json"
    if not done.exists():
        image, truth = read_image(pair.image), read_labels(pair.labels)
        if geometry_differs(image, truth):
            yield Note(
                f"the labels of {pair.name} say that they lie elsewhere than the image; they are "
                "taken voxel by voxel.",
                "label-geometry",
            )
        count = 0
        for number, arrays in enumerate(_arrays(pair, image, truth, card, rule, channel)):
            for name, array in arrays.items():
                with (
                    replacing(cache / f"{key}-{number}.{name}.npy") as staged,
                    staged.open("wb") as file,
                ):
                    np.save(file, array)
            count = number + 1
        with replacing(done) as staged:
            staged.write_text(json.dumps({"parts": count, "name": pair.name}), encoding="utf-8")
    count = int(json.loads(done.read_text(encoding="utf-8"))["parts"])
    known = tuple(row.classes is None or c.name in row.classes for c in card.classes)
    samples = []
    for number in range(count):
        stem = f"{key}-{number}"
        image = np.load(cache / f"{stem}.image.npy", mmap_mode="r")
        labels = np.load(cache / f"{stem}.labels.npy", mmap_mode="r")
        aux = np.load(cache / f"{stem}.aux.npy", mmap_mode="r") if card.auxiliary else None
        name = pair.name if count == 1 else f"{pair.name}#{number}"
        samples.append(Sample(name, image, labels, aux, known, row.weight / count))
    return samples


def _arrays(
    pair: Pair,
    image: Image,
    truth: Image,
    card: ModelCard,
    rule: LabelRule,
    channel: int | None,
) -> Generator[dict[str, NDArray[Any]], None, None]:
    """Yield the arrays of each plane or volume of an image."""
    source = Source(image, card, channel)
    labels_card = card.replace(
        network=replace(card.network, in_channels=1), input_channels=("labels",)
    )
    truth_source = Source(truth, labels_card)
    if source.sizes != truth_source.sizes:
        raise InputError(
            f"image and labels of {pair.name} must have the same shape, got "
            f"{_sizes(source)} and {_sizes(truth_source)}; check that they belong together."
        )
    normalisers, _ = source.fit()
    space = space_for(source)
    whole = tuple(slice(0, n) for n in space.shape)
    labelled = False
    for part, truth_part in zip(source.parts, truth_source.parts, strict=True):
        everything = tuple(slice(0, n) for n in truth_source.shape)
        values = truth_source.read(truth_part, everything)[0]
        if not rule.dense and not values.any():
            continue  # a plane without paint teaches nothing
        labelled = True
        values = to_model_grid(values, image, card)
        classes, objects = class_map(values, rule, card, pair.name)
        if (classes == UNLABELLED).all():
            continue
        x, _ = space.load(part, Tile(whole, whole), normalisers)
        arrays: dict[str, NDArray[Any]] = {"image": x.astype(np.float16), "labels": classes}
        aux = auxiliary_maps(objects, classes, card)
        yield arrays if aux is None else arrays | {"aux": aux}
    if not labelled:
        raise InputError(f"nothing is labelled in {pair.labels.name}; paint or leave it out.")


def _sizes(source: Source) -> str:
    return " x ".join(f"{a}={n}" for a, n in source.sizes.items())


def to_model_grid(values: NDArray[Any], image: Image, card: ModelCard) -> NDArray[Any]:
    """Bring labels of a plane or volume to the model's grid by the nearest voxel.

    Parameters
    ----------
    values : ndarray of int
        (Y, X) or (Z, Y, X), on the grid of `image`.
    image : Image
        The image that they belong to; its geometry counts, not the label file's.
    card : ModelCard
        Spacing and orientation of the model.
    """
    if card.spacing is None and card.orientation is None:
        return values
    grid, _ = grid_of(image, card)
    if values.ndim == 2:
        grid = Grid((1, *grid.shape[1:]), grid.affine)
    grid_map = GridMap.for_card(grid, card)
    moved = grid_map.to_model(values.reshape(grid.shape), order=0)
    return moved.reshape(grid_map.model_shape[-values.ndim :])
