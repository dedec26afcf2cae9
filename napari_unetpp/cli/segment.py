"""``segment``: images in, labels, probabilities or objects out, at one level.

Everything that can be wrong is looked for before the model is loaded, in all images before
the first one is run. This module must not know file formats or networks.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_unetpp.cli import options
from napari_unetpp.cli.common import UsageError, drive, load_runner, print_json, tell
from napari_unetpp.core.axes import parts
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import Sink, open_sink, output_path, read_image, split_name
from napari_unetpp.core.errors import FileError
from napari_unetpp.core.events import Note

if TYPE_CHECKING:
    from napari_unetpp.core.config import ModelCard
    from napari_unetpp.core.run.inference import Prediction
    from napari_unetpp.core.run.runtime import Runner


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "segment",
        description="Segment images. Reads TIFF, PNG, NIfTI, NRRD, OME-Zarr and DICOM folders; "
        "writes TIFF, PNG, NIfTI, NRRD and OME-Zarr with the geometry of the input.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, or folders of slices")
    options.add_model(parser)
    parser.add_argument(
        "--level",
        type=options.level,
        metavar="1|2|3|4|ensemble|auto",
        help="where to stop: 1 is fast, 4 is best, auto goes deep only where that matters; "
        "default 4, or the deepest that was trained",
    )
    parser.add_argument(
        "--kind",
        default="labels",
        choices=options.KINDS,
        help="class labels (default), probabilities, or a number for each object",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="a file, whose extension chooses the format; a folder for several images",
    )
    parser.add_argument("--axes", metavar="ZYX", help="a letter of PTCZYXS for each axis")
    parser.add_argument(
        "--spacing",
        type=options.spacing,
        metavar="Z,Y,X",
        help="pixel size in place of the file's, in its unit (the model's if it names none)",
    )
    parser.add_argument(
        "--threshold", type=options.threshold, metavar="0.5", help="in place of the model's"
    )
    parser.add_argument(
        "--min-size",
        type=options.count_from(0, 20),
        metavar="N",
        help="least size of an object in pixels (voxels), in place of the model's",
    )
    options.add_reading(parser)
    options.add_device(parser)
    options.add_backend(parser)
    options.add_json(parser)


@dataclass(frozen=True)
class _Work:
    """An image file and where its result goes."""

    source: Path
    target: Path


def run(args: argparse.Namespace) -> int:
    """Segment the images in turn and say where each result lies."""
    from napari_unetpp.core.model.modelfile import read_card

    sources = [Path(name) for name in args.images]
    first = _read(sources[0], args)
    work = [_Work(sources[0], _target(first, args))]
    others = []
    for source in sources[1:]:
        image = _read(source, args)
        work.append(_Work(source, _target(image, args)))
        others.append(image.replace(data=_Shape(image)))  # what was read is let go
    _check_targets(work, args.out)
    card = read_card(args.model)
    for image in (first, *others):
        _check_fits(image, card, args.channel)
    if args.level is None:
        args.level = 4 if 4 in card.levels_trained else max(card.levels_trained)
    runner = functools.cache(
        lambda: load_runner(args.model, args.device, args.precision, args.backend)
    )
    done: list[dict[str, Any]] = []
    with _folder(work[0].target.parent, wanted=_names_folder(work, args.out)):
        for number, item in enumerate(work):
            image = first if number == 0 else _read(item.source, args)
            done.append(_segment(image, item, args, card, runner))
            if not args.json:
                print(_line(done[-1]), flush=True)
    if args.json:
        print_json(done)
    return 0


class _Shape:
    """The shape and type of an array whose pixels were let go."""

    def __init__(self, image: Image) -> None:
        self.shape = image.shape
        self.dtype = image.dtype

    def __getitem__(self, index: object) -> Any:
        raise NotImplementedError("only the shape is kept")


def _read(path: Path, args: argparse.Namespace) -> Image:
    image = read_image(path, axes=args.axes, spacing=args.spacing)
    return image.replace(path=path) if image.path is None else image


def _target(image: Image, args: argparse.Namespace) -> Path:
    return output_path(_out(args.out), image, args.kind)


def _out(text: str) -> str:
    """Return the output as given; shells add a slash to the name of an existing OME-Zarr."""
    bare = text.rstrip("/" + os.sep)
    return bare if split_name(bare)[1].lower().endswith(".zarr") else text


def _names_folder(work: Sequence[_Work], out: str) -> bool:
    return work[0].target != Path(_out(out))


def _check_targets(work: Sequence[_Work], out: str) -> None:
    """Refuse targets that would replace an input or each other."""
    if len(work) > 1 and not _names_folder(work, out):
        raise UsageError(
            f"{len(work)} images need a folder for --out, got the file name {out}; give a folder."
        )
    inputs = {item.source.resolve() for item in work}
    seen: dict[Path, Path] = {}
    for item in work:
        target = item.target.resolve()
        inside = next((i for i in inputs if i == target or i in target.parents), None)
        if inside is not None:
            raise UsageError(
                f"the result would replace or change the input {inside}; choose another --out."
            )
        if target in seen:
            raise UsageError(
                f"each image needs a result of its own, but {seen[target]} and {item.source} "
                f"would both become {item.target}; segment them into different folders."
            )
        seen[target] = item.source


def _check_fits(image: Image, card: ModelCard, channel: int | None) -> None:
    """Refuse an image that the model cannot take, before any is run."""
    from napari_unetpp.core.run.source import Source
    from napari_unetpp.core.run.spaces import space_for

    space_for(Source(_with_unit(image, card), card, channel))


def _with_unit(image: Image, card: ModelCard) -> Image:
    """Return the image; a spacing without unit is taken to be in the model's."""
    if image.unit is None and image.spacing is not None:
        return image.replace(unit=card.spacing_unit)
    return image


@contextlib.contextmanager
def _folder(folder: Path, *, wanted: bool) -> Iterator[None]:
    """Make a folder for results; it goes again if it stays empty."""
    if not wanted or folder.is_dir():
        yield
        return
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise FileError(
            f"the folder {folder} for the results cannot be made ({error.strerror or error}); "
            "choose another --out."
        ) from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # refuses where something lies in it
        raise


def _segment(
    image: Image,
    item: _Work,
    args: argparse.Namespace,
    card: ModelCard,
    runner: Callable[[], Runner],
) -> dict[str, Any]:
    """Segment one image and return what the JSON document says of it."""
    from napari_unetpp.core.run.inference import predict
    from napari_unetpp.core.run.results import output_axes, result_names

    image = _with_unit(image, card)
    axes, shape, dtype = output_axes(image, card, args.kind)
    names = result_names(card) if "C" in axes else ()
    notes = _notes(card, args.kind)
    with open_sink(
        item.target, like=image, axes=axes, dtype=dtype, shape=shape, kind=args.kind,
        channel_names=names,
    ) as sink:  # fmt: skip
        job = predict(
            image, runner(), sink, level=args.level, kind=args.kind, threshold=args.threshold,
            channel=args.channel, tile=args.tile, min_size=args.min_size,
        )  # fmt: skip
        for note in () if args.json else notes:
            tell(f"{image.name}: {note.message}")
        prediction = drive(job, label=image.name, quiet=args.json)
        found = {"objects": _count(sink, card)} if args.kind == "instances" else {}
        sink.commit()
    return _entry(item, prediction, card, notes, image.sizes) | found


def _notes(card: ModelCard, kind: str) -> list[Note]:
    if kind != "instances" or card.instances is not None:
        return []
    return [
        Note(
            f"model {card.name!r} has no rule for objects, so connected regions are counted as "
            "one object each.",
            "no-instance-rule",
        )
    ]


def _count(sink: Sink, card: ModelCard) -> int:
    """Return the number of objects: those of each plane or volume are counted from 1."""
    blocks = (sink[part.index] for part in parts(sink.axes, sink.shape, len(card.axes)))
    return sum(int(np.max(block)) for block in blocks)


def _entry(
    item: _Work,
    prediction: Prediction,
    card: ModelCard,
    notes: Sequence[Note],
    sizes: dict[str, int],
) -> dict[str, Any]:
    unit = "megavoxels" if card.axes == "ZYX" else "megapixels"
    return {
        "image": str(item.source),
        "out": str(item.target),
        "model": card.name,
        "level": prediction.level,
        "kind": prediction.kind,
        "device": prediction.device,
        "precision": prediction.precision,
        "backend": prediction.backend,
        "axes": prediction.axes,
        "shape": list(prediction.shape),
        "seconds": round(prediction.seconds, 4),
        unit: math.prod(n for axis, n in sizes.items() if axis not in "CS") / 1e6,
        **_tiles(prediction),
        "notes": [options.as_json(note) for note in (*notes, *prediction.notes)],
    }


def _tiles(prediction: Prediction) -> dict[str, Any]:
    """Return how many tiles "auto" ran at each level."""
    counts = {str(level): count for level, count in prediction.tiles_by_level.items()}
    return {"tiles_by_level": counts} if counts else {}


def _also(backend: str) -> str:
    return "" if backend == "torch" else f", {backend}"


def _line(entry: dict[str, Any]) -> str:
    """Return what people read about one image."""
    unit = "megavoxels" if "megavoxels" in entry else "megapixels"
    level = f"L{entry['level']}" if isinstance(entry["level"], int) else entry["level"]
    if "tiles_by_level" in entry:
        tiles = ", ".join(f"{count} at L{k}" for k, count in entry["tiles_by_level"].items())
        level = f"auto (tiles: {tiles})"
    objects = f", {entry['objects']} objects" if "objects" in entry else ""
    return (
        f"{entry['out']}: {entry['kind']} of {entry['model']} at {level}{objects}, "
        f"{entry[unit]:.2f} {unit} in {entry['seconds']:.2f} s on {entry['device']} "
        f"({entry['precision']}{_also(entry['backend'])})"
    )
