"""``demo``: real microscopy and a CT at four levels, with the time and the score of each.

Writes the labels and one figure. This module must not know how images are found or drawn.
"""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.cli import options
from napari_unetpp.cli.common import drive, figure_of, load_runner, print_json, table, tell
from napari_unetpp.cli.demo_images import Case, ct_case, nuclei_cases
from napari_unetpp.cli.figure import Row, draw
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink
from napari_unetpp.core.errors import FileError, MissingPackageError
from napari_unetpp.core.events import Note

if TYPE_CHECKING:
    from napari_unetpp.core.run.runtime import Runner

_WARM_UP = {2: 256, 3: 64}  # largest side of what is run once before times are taken
_SCORES = {"iou": "IoU", "ap50": "AP50", "dice": "Dice"}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "demo",
        description="Segment real microscopy and a CT at the levels 1 to 4, print the time and "
        "the score of each, and write the labels and a figure.",
    )
    parser.add_argument(
        "--out", default="demo_output", metavar="DIR", help="folder to write to; %(default)s"
    )
    parser.add_argument(
        "--headless", action="store_true", help="do not open the figure in a window"
    )
    parser.add_argument("--ct", metavar="FILE", help="a CT of head and neck: NIfTI, NRRD, DICOM")
    parser.add_argument(
        "--nuclei-model", default="nuclei", metavar="NAME|FILE", help="default %(default)s"
    )
    parser.add_argument(
        "--ct-model", default="ct-head-neck", metavar="NAME|FILE", help="default %(default)s"
    )
    options.add_device(parser)
    options.add_backend(parser)
    options.add_json(parser)


@dataclass(frozen=True)
class _Level:
    """What one level found in one image: labels with the result's axes, and its figures."""

    labels: NDArray[Any]
    seconds: float
    scores: Mapping[str, float]
    objects: int | None
    path: Path


@dataclass(frozen=True)
class _Shown:
    """An image of the demo with everything that was found in it."""

    case: Case
    kind: str
    model: str
    truth: NDArray[Any] | None
    levels: Mapping[int, _Level]
    megapixels: float


def run(args: argparse.Namespace) -> int:
    """Segment, print, write, draw."""
    from napari_unetpp.core.model.modelfile import read_card

    ct_card = read_card(args.ct_model)
    cases, notes = nuclei_cases()
    ct, more = ct_case(ct_card, args.ct)  # read first: it may be the user's own file
    out = _folder(args.out)
    nuclei_model = load_runner(args.nuclei_model, args.device, args.precision, args.backend)
    ct_model = load_runner(args.ct_model, args.device, args.precision, args.backend)
    work = [(case, nuclei_model, "instances") for case in cases]
    work.append((ct, ct_model, "labels"))
    notes += more
    for note in () if args.json else notes:
        tell(note.message)
    if not args.json:
        device = nuclei_model.device
        print(f"{device.kind} ({device.name}), {device.precision}: {device.reason}\n")
    shown = []
    for case, runner, kind in work:
        shown.append(_show(case, runner, kind, out, quiet=args.json))
        if not args.json:
            print(_table(shown[-1]) + "\n", flush=True)
    rows = [row for one in shown for row in _rows(one, ct_model)]
    figure = draw(
        rows, out / "demo.png", title="One network, four levels: L1 is the fastest, L4 the deepest"
    )
    if args.json:
        print_json(_document(shown, figure, nuclei_model, notes))
        return 0
    print(f"labels of every level and the figure lie in {out}:\n{figure}")
    if not args.headless and _has_display():
        webbrowser.open(figure.resolve().as_uri())
    return 0


def _folder(text: str) -> Path:
    out = Path(text)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(
            f"--out must be a folder that can be written to, got {out} "
            f"({error.strerror or error}); choose another."
        ) from error
    return out


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _show(case: Case, runner: Runner, kind: str, out: Path, *, quiet: bool) -> _Shown:
    """Run every trained level on an image."""
    from napari_unetpp.core.run.results import output_axes
    from napari_unetpp.core.score.truth import prepare_truth

    card = runner.card
    image = case.image
    truth = None
    if case.truth is not None:
        axes, shape, _ = output_axes(image, card, kind)
        truth = prepare_truth(case.truth, axes, shape, card, case.name)
    levels = {}
    for level in sorted(card.levels_trained):
        _warm_up(image, runner, level)
        levels[level] = _one_level(case, runner, kind, level, out, truth, quiet=quiet)
    pixels = np.prod([n for axis, n in image.sizes.items() if axis not in "CS"])
    return _Shown(case, kind, card.name, truth, levels, float(pixels) / 1e6)


def _warm_up(image: Image, runner: Runner, level: int) -> None:
    """Run the middle of an image once: kernels are chosen and precision is checked there."""
    from napari_unetpp.core.run.inference import output_axes, predict

    side = _WARM_UP[len(runner.card.axes)]
    middle = tuple(
        slice(max(0, (n - side) // 2), (n + side) // 2 + 1)
        if a in runner.card.axes
        else slice(None)
        for a, n in zip(image.axes, image.shape, strict=True)
    )
    part = image.replace(data=np.asarray(image.data[middle]))
    _, shape, dtype = output_axes(part, runner.card, "labels")
    for _ in predict(part, runner, np.empty(shape, dtype), level=level):
        pass


def _one_level(
    case: Case,
    runner: Runner,
    kind: str,
    level: int,
    out: Path,
    truth: NDArray[Any] | None,
    *,
    quiet: bool,
) -> _Level:
    from napari_unetpp.core.run.inference import predict
    from napari_unetpp.core.run.results import output_axes

    axes, shape, dtype = output_axes(case.image, runner.card, kind)
    found = np.zeros(shape, dtype)
    job = predict(case.image, runner, found, level=level, kind=kind)
    prediction = drive(job, label=f"{case.name} L{level}", quiet=quiet)
    stem = out / f"{case.name}_L{level}"
    path = _write(stem, case.image, found, axes, kind, volume=runner.card.axes == "ZYX")
    scores: Mapping[str, float] = {}
    if truth is not None:
        objects = kind == "instances"
        scores = _object_scores(found, truth) if objects else _class_scores(found, truth)
    count = int(found.max()) if kind == "instances" else None
    return _Level(found, prediction.seconds, scores, count, path)


def _write(
    stem: Path, image: Image, found: NDArray[Any], axes: str, kind: str, *, volume: bool
) -> Path:
    """Write labels: a volume as NIfTI where that can be written, else TIFF."""
    if volume:
        try:
            return _commit(stem.with_name(stem.name + ".nii.gz"), image, found, axes, kind)
        except MissingPackageError:
            pass
    return _commit(stem.with_name(stem.name + ".tif"), image, found, axes, kind)


def _commit(path: Path, image: Image, found: NDArray[Any], axes: str, kind: str) -> Path:
    with open_sink(
        path, like=image, axes=axes, dtype=found.dtype, shape=found.shape, kind=kind
    ) as sink:
        sink[(slice(None),) * found.ndim] = found
        return sink.commit()


def _object_scores(found: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    from napari_unetpp.core.score.metrics import average_precision, iou

    return {
        "iou": float(iou(found > 0, truth > 0)),
        "ap50": float(average_precision(found, truth, (0.5,))[0]),
    }


def _class_scores(found: NDArray[Any], truth: NDArray[Any]) -> dict[str, float]:
    """Return the mean Dice over the classes that the truth contains: others are unknown."""
    from napari_unetpp.core.score.metrics import dice

    values = [float(dice(found == k, truth == k)) for k in np.unique(truth[truth > 0])]
    return {"dice": sum(values) / len(values)} if values else {}


def _table(shown: _Shown) -> str:
    """Return what people read about one image."""
    unit = "megavoxel" if shown.kind == "labels" else "megapixel"
    metrics = [m for m in _SCORES if any(m in one.scores for one in shown.levels.values())]
    objects = shown.kind == "instances"
    header = ["level", "s", f"s/{unit}", *(["objects"] if objects else [])]
    rows = []
    for level, one in shown.levels.items():
        row = [f"L{level}", f"{one.seconds:.2f}", f"{one.seconds / shown.megapixels:.2f}"]
        row += [str(one.objects)] if objects else []
        rows.append([*row, *(figure_of(one.scores.get(m)) for m in metrics)])
    size = "×".join(str(n) for n in shown.case.image.spatial_shape)
    title = f"{shown.case.title} ({shown.case.source}), {size}, model {shown.model}"
    return f"{title}\n{table([*header, *(_SCORES[m] for m in metrics)], rows)}"


def _panel_title(level: int, one: _Level) -> str:
    words = [f"L{level}", f"{one.seconds:.2f} s"]
    words += [f"{_SCORES[m]} {value:.2f}" for m, value in one.scores.items()]
    return "   ".join(words)


def _rows(shown: _Shown, ct_model: Runner) -> list[Row]:
    """Return the rows of the figure for one image."""
    image = shown.case.image
    if shown.kind == "instances":
        panels = {_panel_title(k, one): one.labels for k, one in shown.levels.items()}
        return [Row(shown.case.title, np.asarray(image.data), panels, shown.truth)]
    from napari_unetpp.cli.views import ct_views
    from napari_unetpp.core.data.geometry import grid_of

    card = ct_model.card
    colors = {k: c.color for k, c in enumerate(card.classes, start=1)}
    names = {k: c.name for k, c in enumerate(card.classes, start=1)}
    last = shown.levels[max(shown.levels)].labels
    grid, _ = grid_of(image, card)
    views = ct_views(grid, shown.truth if shown.truth is not None and shown.truth.any() else last)
    rows = []
    for view in views:
        panels = {_panel_title(k, one): view(one.labels) for k, one in shown.levels.items()}
        plane = view(np.asarray(image.data))
        rows.append(
            Row(
                f"{shown.case.title}, {view.name}",
                plane,
                panels,
                None if shown.truth is None else view(shown.truth),
                colors,
                names,
                view.aspect,
                _window(np.asarray(image.data)),
            )
        )
    return rows


def _window(volume: NDArray[Any]) -> tuple[float, float]:
    """Return the window for soft tissue, in HU or in HU + 1024."""
    offset = 1024.0 if float(volume.min()) >= 0 else 0.0
    return (offset - 200.0, offset + 400.0)


def _document(
    shown: list[_Shown], figure: Path, runner: Runner, notes: list[Note]
) -> dict[str, Any]:
    device = runner.device
    return {
        "figure": str(figure),
        "device": {"kind": device.kind, "precision": device.precision, "reason": device.reason},
        "images": [
            {
                "name": one.case.name,
                "source": one.case.source,
                "model": one.model,
                "kind": one.kind,
                "truth": one.truth is not None,
                "levels": {
                    str(level): {
                        "seconds": round(found.seconds, 4),
                        **found.scores,
                        **({} if found.objects is None else {"objects": found.objects}),
                        "labels": str(found.path),
                    }
                    for level, found in one.levels.items()
                },
            }
            for one in shown
        ],
        "notes": [options.as_json(note) for note in notes],
    }
