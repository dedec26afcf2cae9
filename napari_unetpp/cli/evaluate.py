"""``evaluate``: a model's score, time and memory at every level on images with labels."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli import options
from napari_unetpp.cli.common import (
    Position,
    Progress,
    figure_of,
    load_runner,
    print_json,
    table,
    tell,
)
from napari_unetpp.core.data.pairs import find_pairs
from napari_unetpp.core.events import Event, drain

if TYPE_CHECKING:
    from napari_unetpp.core.score.evaluation import Evaluation

_COLUMNS = {
    "iou_per_image": "IoU", "iou_pooled": "IoU pooled", "dice_per_image": "Dice",
    "dice_pooled": "Dice pooled", "ap50": "AP50", "score": "score",
    "seconds_per_megapixel": "s/megapixel", "peak_memory_mb": "MiB",
}  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "evaluate",
        description="Score a model on images with labels. Files are paired by name; labels may "
        "carry _mask or _labels. For a model of one class every label above 0 is foreground and "
        "objects are scored too; else value k is the model's k-th class.",
    )
    options.add_model(parser)
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of images")
    parser.add_argument("--labels", required=True, metavar="DIR", help="folder of true labels")
    parser.add_argument(
        "--levels",
        type=options.levels,
        metavar="1,2,3,4,ensemble,auto",
        help="levels to score; default all that were trained, and ensemble",
    )
    parser.add_argument(
        "--painted",
        action="store_true",
        help="labels are paint: 0 unlabelled and not scored, 1 background, 2 and more the classes",
    )
    options.add_reading(parser)
    options.add_device(parser)
    options.add_backend(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Score the model and print a table or JSON."""
    pairs = find_pairs(args.images, args.labels)  # before torch and the model are loaded
    from napari_unetpp.core.score.evaluation import ImageScored, evaluate

    def position(event: Event) -> Position | None:
        if not isinstance(event, ImageScored):
            return None
        level = f"L{event.level}" if isinstance(event.level, int) else event.level
        return event.done, event.total, f"{event.name} {level}"

    runner = load_runner(args.model, args.device, args.precision, args.backend)
    job = evaluate(
        runner, pairs, args.levels, channel=args.channel, tile=args.tile, painted=args.painted
    )
    with Progress("evaluate", quiet=args.json, position=position, unit="run") as progress:
        found = drain(job, progress)
    if args.json:
        for note in progress.notes:  # its document has no place for them
            tell(note.message)
        print_json(found.to_json())
    else:
        print(_text(found))
    return 0


def _text(found: Evaluation) -> str:
    """Return the tables that people read."""
    lines = [f"{found.model} on {found.n_images} image(s), {found.device}", ""]
    shown = {
        key: title
        for key, title in _COLUMNS.items()
        if any(row.get(key) is not None for row in found.levels.values())
    }
    shares = {key for row in found.levels.values() for key in row if key.startswith("tiles_l")}
    shown |= {key: f"tiles at L{key[7:]}" for key in sorted(shares)}
    rows = [
        [_name(level), *(_cell(row, key) for key in shown)] for level, row in found.levels.items()
    ]
    lines.append(table(["level", *shown.values()], rows))
    if len(found.classes) > 1:
        levels = list(found.levels)
        rows = []
        for name, by_level in found.classes.items():
            count = next(iter(by_level.values())).get("n_images") or 0
            scores = (by_level[level].get("dice_per_image") for level in levels)
            rows.append([name, f"{count:.0f}", *(figure_of(s) for s in scores)])
        header = ["Dice per image", "images", *(_name(level) for level in levels)]
        lines += ["", table(header, rows)]
    return "\n".join(lines)


def _cell(row: Mapping[str, float | None], key: str) -> str:
    return figure_of(row.get(key), 0 if key == "peak_memory_mb" else 3)


def _name(level: str) -> str:
    return f"L{level}" if level.isdigit() else level
