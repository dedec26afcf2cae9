"""``models``: the bundled models, from their cards alone; or one model, checked as for use."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli.common import figure_of, print_json, table
from napari_unetpp.cli.options import add_json

if TYPE_CHECKING:
    from napari_unetpp.core.config import ModelCard

_TITLES = {
    "iou_per_image": "IoU", "iou_pooled": "IoU pooled", "dice_per_image": "Dice",
    "dice_pooled": "Dice pooled", "ap50": "AP50", "score": "score",
}  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "models",
        description="List the bundled models: what they find, and the held-out score and the "
        "time of each level. With a name or a file, show its whole card.",
    )
    parser.add_argument(
        "model", nargs="?", metavar="NAME|FILE", help="a bundled model or a .safetensors file"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the cards."""
    from napari_unetpp.core.model.modelfile import bundled_models, load_model, read_card

    bundled = bundled_models()
    if args.model is None:
        cards = [(read_card(name), path) for name, path in bundled.items()]
    else:  # whole, so that a card that was changed is refused and not shown
        model = load_model(args.model)
        cards = [(model.card, model.path)]
    if args.json:
        found = [describe(card, path) for card, path in cards]
        print_json(found if args.model is None else found[0])
        return 0
    if not cards:
        print("no models are bundled; train one with napari-unetpp train.")
    for number, (card, path) in enumerate(cards):
        if number:
            print()
        print(_text(card, path, whole=args.model is not None))
    return 0


def describe(card: ModelCard, path: Path) -> dict[str, Any]:
    """Return a card as plain JSON values, with the file's path and size in bytes."""
    return {**card.to_json(), "path": str(path), "bytes": path.stat().st_size}


def _text(card: ModelCard, path: Path, *, whole: bool) -> str:
    classes = ", ".join(c.name for c in card.classes)
    size = path.stat().st_size / 1e6
    lines = [
        f"{card.name}: {len(card.axes)}D, {classes} ({size:.1f} MB"
        + (f", {card.licence})" if card.licence else ")")
    ]
    if card.description:
        lines += textwrap.wrap(card.description, 88, initial_indent="  ", subsequent_indent="  ")
    lines.append(textwrap.indent(_levels(card), "  "))
    if whole:
        lines += _details(card, path)
    return "\n".join(lines)


def _levels(card: ModelCard) -> str:
    """Return a table with a row for each level: held-out scores, time and memory."""
    unit = "megavoxel" if card.axes == "ZYX" else "megapixel"
    metrics = [m for m in _TITLES if any(m in row for row in card.scores.values())]
    rows = []
    names = [str(k) for k in card.levels_trained]
    names += ["ensemble"] if "ensemble" in card.scores else []
    for name in names:
        scores: Mapping[str, float] = card.scores.get(name, {})
        timing: Mapping[str, float] = card.timings.get(name, {})
        rows.append(
            [
                name if name == "ensemble" else f"L{name}",
                *(figure_of(scores.get(m)) for m in metrics),
                figure_of(timing.get("seconds_per_megapixel")),
                figure_of(timing.get("peak_memory_mb"), 0),
            ]
        )
    return table(["level", *(_TITLES[m] for m in metrics), f"s/{unit}", "MiB"], rows)


def _details(card: ModelCard, path: Path) -> list[str]:
    """Return the rest of the card, a line a field; empty fields are left out."""
    fields = {
        "file": str(path),
        "version": card.version,
        "input": f"{card.axes}, channels {', '.join(card.input_channels)}",
        "spacing": card.spacing and f"{', '.join(map(str, card.spacing))} {card.spacing_unit}",
        "orientation": card.orientation,
        "objects": "separated" if card.instances else "connected regions",
        "timed on": card.timing_device,
        "data": card.data,
        "split": card.split,
        "citation": card.citation,
        "parent": card.parent,
    }
    lines = [f"  {key}: {value}" for key, value in fields.items() if value]
    return ["", *(w for line in lines for w in textwrap.wrap(line, 88, subsequent_indent="    ",
                                                             break_on_hyphens=False))]  # fmt: skip
