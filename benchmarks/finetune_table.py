"""Tables of what `finetune.py --out FILE` measured: every level, and every budget at L4.

Prints Markdown for ``docs/finetuning.md``; nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import markdown

from napari_unetpp.core.errors import InputError

Row = Mapping[str, Any]
LEVELS = (1, 2, 3, 4)
NAMES = {
    "em": "EM, section 3",
    "em-2": "EM, section 12",
    "nuclei-3d": "plant nuclei in 3D, plane by plane",
    "nuclei": "stained nuclei, the base is good",
    "ct": "CT, two weak organs of the base",
    "hippocampus": "MR hippocampus, from scratch",
}
NOTHING = "–"


def pick(
    rows: Sequence[Row], method: str, level: int | None, budget: float | None = None
) -> Row | None:
    """Return the row of a method, of a level and a budget; None if it was not measured."""
    for row in rows:
        same = row["method"] == method and row["level"] == level
        if same and (budget is None or row.get("budget") == budget):
            return row
    return None


def figure(row: Row | None) -> str:
    """Return the IoU of the unpainted rest and of the other image, as ``.847 / .820``."""
    if row is None:
        return NOTHING
    return " / ".join(f"{row[key]:.3f}".removeprefix("0") for key in ("rest", "other"))


def groups(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """Return name, strokes and rows of every case and number of strokes, in order."""
    found = []
    for case in NAMES:
        name = NAMES[case]
        for count in sorted({r["strokes"] for r in rows if r["case"] == case}):
            own = [r for r in rows if (r["case"], r["strokes"]) == (case, count)]
            found.append((name, f"{count}, {100 * own[0]['painted']:.2f} %", own))
            name = ""
    return found


def budgets_of(rows: Sequence[Row]) -> list[float]:
    """Return the budgets that ours had, the shortest first."""
    return sorted({r["budget"] for r in rows if r["method"] == "ours"})


def by_level(rows: Sequence[Row]) -> str:
    """Return a table with every level of ours, a line for each budget."""
    header = ["case", "strokes, painted", "base L4", "forest", "budget",
              *(f"ours L{k}" for k in LEVELS), "steps"]  # fmt: skip
    lines = []
    for name, strokes, own in groups(rows):
        lead = [name, strokes, figure(pick(own, "base", 4)), figure(pick(own, "forest", None))]
        for budget in budgets_of(rows):
            deep = pick(own, "ours", 4, budget)
            if deep is None:
                continue
            steps = f"{deep['best_step']} of {deep['steps']}"
            lines.append([
                *lead, f"{budget:g} s", *(figure(pick(own, "ours", k, budget)) for k in LEVELS),
                "base kept" if deep["base_kept"] else steps,
            ])  # fmt: skip
            lead = [""] * 4
    return markdown(header, lines)


def closed(own: Sequence[Row], dense: Row | None, key: str) -> str:
    """Return how much of the gap between base and dense labels 30 s close at L4."""
    ours, base = pick(own, "ours", 4, 30.0), pick(own, "base", 4)
    low = 0.0 if base is None else base[key]
    if ours is None or dense is None or dense[key] - low <= 0.02:
        return NOTHING
    return f"{100 * (ours[key] - low) / (dense[key] - low):.0f} %"


def by_budget(rows: Sequence[Row]) -> str:
    """Return a table of L4: ours and our network from scratch by budget, dense labels, gap."""
    budgets = budgets_of(rows)
    header = ["case", "strokes, painted", *(f"ours {b:g} s" for b in budgets),
              *(f"scratch {b:g} s" for b in budgets), "dense", "gap closed in 30 s"]  # fmt: skip
    dense = {r["case"]: r for r in rows if r["method"] == "dense labels" and r["level"] == 4}
    lines = []
    for name, strokes, own in groups(rows):
        top = dense.get(own[0]["case"])
        lines.append([
            name, strokes,
            *(figure(pick(own, method, 4, b)) for method in ("ours", "scratch") for b in budgets),
            figure(top) if name else "", closed(own, top, "rest"),
        ])  # fmt: skip
    return markdown(header, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="of finetune.py --out")
    args = parser.parse_args(argv)
    try:
        rows = json.loads(args.file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"expected a file that finetune.py --out wrote, got {args.file} ({error}); give that."
        ) from error
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) != 1:
        raise InputError(
            f"expected one seed, got {len(seeds)} in {args.file}; measure each into its own file."
        )
    print(by_level(rows), by_budget(rows), sep="\n\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
