"""``variants``: the network's family with exact counts; knows no torch."""

from __future__ import annotations

import argparse
from typing import Any

from napari_unetpp.cli.common import print_json, table
from napari_unetpp.cli.options import add_json


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "variants",
        description="List the family of networks: parameters, and multiply-accumulates per "
        "level for 512×512 pixels or 64×64×64 voxels (one channel, one class).",
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the family."""
    from napari_unetpp.core.nn.variants import VARIANTS

    family = [{"key": key, **variant.to_json()} for key, variant in VARIANTS.items()]
    if args.json:
        print_json(family)
        return 0
    rows = []
    for member in family:
        levels = member["levels"]
        rows.append(
            [
                member["key"],
                member["name"],
                f"{member['ndim']}D",
                f"{member['parameters']:,}",
                *(_operations(levels.get(str(k))) for k in (1, 2, 3, 4)),
            ]
        )
    header = ["key", "name", "", "parameters", "L1", "L2", "L3", "L4"]
    print(table(header, rows, left=3))
    print("\nL1 to L4: billions of multiply-accumulates for 512×512 pixels or 64×64×64 voxels.")
    return 0


def _operations(level: dict[str, int] | None) -> str:
    return "" if level is None else f"{level['multiply_accumulates'] / 1e9:.2f}"
