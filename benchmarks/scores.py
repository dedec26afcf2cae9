"""Scores of the bundled models at every level on the images that were kept out of training.

The names of those images stand in the model's card ("... held out: a, b, c."); the images lie
in a folder beside the checkout, see ``sample_data/README.md``. Run with ``--help`` for the
options.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from measure import machine, machine_line, markdown, set_threads
from script import parser_of, tell

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.pairs import Pair, find_pairs
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import bundled_models, load_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.score.evaluation import Evaluation, evaluate

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDERS = {"nuclei": "nuclei", "ct-head-neck": "ct_head_neck"}
COLUMNS = {
    "iou_per_image": "IoU per image", "iou_pooled": "IoU pooled",
    "dice_per_image": "Dice per image", "dice_pooled": "Dice pooled",
    "ap50": "AP at 0.5", "score": "challenge's score",
}  # fmt: skip


def held_out(card: ModelCard) -> tuple[str, ...]:
    """Return the names of the images that a card says were held out.

    Raises
    ------
    InputError
        If the card names none.
    """
    found = re.search(r"held out:\s*([^.]*)", card.split)
    names = tuple(n.strip() for n in found[1].split(",") if n.strip()) if found else ()
    if not names:
        raise InputError(
            f"the card of {card.name!r} was expected to say 'held out: a, b, c.', got "
            f"{card.split!r}; give a model whose card names the images kept out."
        )
    return names


def pairs_of(folder: Path, names: Iterable[str]) -> list[Pair]:
    """Return images and labels of these names.

    Raises
    ------
    InputError
        If one is missing.
    """
    by_name = {pair.name: pair for pair in find_pairs(folder / "images", folder / "masks")}
    wanted = list(names)
    if missing := [n for n in wanted if n not in by_name]:
        raise InputError(
            f"{len(missing)} held-out image(s) are not in {folder}, the first is {missing[0]}; "
            "give the folder that the model was trained from."
        )
    return [by_name[n] for n in wanted]


def modalities(folder: Path) -> dict[str, str]:
    """Return the modality of each image by name, where the folder's table has that column."""
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {row["name"]: row["modality"] for row in rows if "modality" in row}


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Evaluate one model on all held-out images, and on those of each modality."""
    model = load_model(args.model_file or name)
    runner = Runner(model, choose_device(args.device, args.precision))
    threads = set_threads(args.threads)
    folder = args.data / FOLDERS[name]
    names = held_out(model.card)[: args.limit]
    groups = {"all": names}
    kinds = modalities(folder)
    for kind in sorted({kinds[n] for n in names if n in kinds}):
        groups[kind] = tuple(n for n in names if kinds.get(n) == kind)
    found: dict[str, Evaluation] = {}
    for group, members in groups.items():
        print(f"{name}: {group}, {len(members)} image(s) ...", file=sys.stderr, flush=True)
        found[group] = drain(evaluate(runner, pairs_of(folder, members)))
    return {
        "machine": machine(runner.device, threads),
        "model": model.card.name,
        "groups": {group: one.to_json() for group, one in found.items()},
    }


def report(document: dict[str, Any]) -> str:
    """Return one model's tables as Markdown."""
    lines = [f"## {document['model']}", "", machine_line(document["machine"]), ""]
    header, rows = ["images", "level", *COLUMNS.values()], []
    for group, one in document["groups"].items():
        for level, row in one["levels"].items():
            first = f"{group} ({one['n_images']})"
            rows.append([first, _level(level), *(_figure(row[key]) for key in COLUMNS)])
    lines.append(markdown(header, rows))
    classes = document["groups"]["all"]["classes"]
    if len(classes) > 1:
        levels = list(document["groups"]["all"]["levels"])
        rows = []
        for name, by_level in classes.items():
            count = f"{by_level[levels[0]]['n_images']:.0f}"
            dice = (_figure(by_level[level]["dice_per_image"]) for level in levels)
            rows.append([name, count, *dice])
        header = ["Dice per image", "images", *(_level(level) for level in levels)]
        lines += ["", markdown(header, rows)]
    return "\n".join(lines)


def _level(level: str) -> str:
    return level if level == "ensemble" else f"L{level}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "threads", "device", "precision")
    parser.add_argument("--models", default=",".join(FOLDERS), help="default %(default)s")
    parser.add_argument("--model-file", type=Path, help="in place of the bundled model")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the images")
    parser.add_argument("--limit", type=int, help="images of each model; default all")
    parser.add_argument("--quick", action="store_true", help="3 images of each model")
    args = parser.parse_args(argv)
    args.limit = args.limit or (3 if args.quick else None)
    names = [n.strip() for n in args.models.split(",")]

    def found() -> list[dict[str, Any]]:
        for name in names:
            if name not in FOLDERS:
                raise InputError(f"a model is one of {', '.join(FOLDERS)}, got {name!r}.")
            if args.model_file is None and name not in bundled_models():
                raise InputError(f"no model {name!r} is bundled; give --model-file.")
        return [measure(args, name) for name in names]

    return tell(args, found, lambda rows: "\n\n".join(map(report, rows)))


if __name__ == "__main__":
    sys.exit(main())
