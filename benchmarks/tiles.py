"""What a pixel costs by the size of its window, and what the chosen tiles compute twice.

The choice of a tile's size stands on two things: what its halo throws away, which is counted
here from the plans themselves, and that a pixel costs the same in windows of any size, between
those so small that a pass's own start is felt and those so large that the backend gives its
memory back after each. Processor time is taken, so that other work disturbs little. Run with
``--help`` for the options.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from measure import machine, machine_line, markdown, model_for, set_threads, size_text
from script import parser_of, tell

from napari_unetpp.core.run.memory import bytes_per_pixel
from napari_unetpp.core.run.precision import DTYPES
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.streaming import plan_tiles

WINDOWS = {2: (128, 272, 528, 784, 1040, 1552), 3: (32, 64, 96, 128, 192)}
QUICK_WINDOWS = {2: (64, 128), 3: (16, 32)}
IMAGES = {2: (512, 2048, 20_000), 3: (128, 256, 400)}


def pixel_costs(runner: Runner, level: int, sides: Sequence[int], repeats: int) -> list[Any]:
    """Return processor time and memory of one pass for each side of its window."""
    network = runner.card.network
    itemsize = DTYPES[runner.precision_of(level)].itemsize
    rng, rows = np.random.default_rng(0), []
    for side in sides:
        x = rng.random((1, network.in_channels, *(side,) * network.ndim), dtype=np.float32)
        runner.probabilities(x, level)
        least = math.inf
        for _ in range(repeats):
            start = time.process_time()
            runner.probabilities(x, level)
            least = min(least, time.process_time() - start)
        pixels = x[0, 0].size
        mib = pixels * bytes_per_pixel(network, level, itemsize) / 2**20
        rows.append({"side": side, "seconds": least / pixels, "mib": mib})
    return rows


def plans(runner: Runner, level: int, sides: Sequence[int]) -> list[Any]:
    """Return what the chosen tiles of some images compute, relative to their pixels."""
    rows = []
    for side in sides:
        shape = (side,) * runner.card.network.ndim
        plan = plan_tiles(runner, level, shape)
        sizes = [math.prod(tile.window_shape) for tile in plan]
        rows.append({
            "image": list(shape), "core": list(plan.core), "tiles": len(plan),
            "computed": sum(sizes) / math.prod(shape), "largest": max(sizes),
        })  # fmt: skip
    return rows


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; return plain JSON values."""
    threads = set_threads(args.threads)
    model, _ = model_for(args.model)
    runner = Runner(model, choose_device("cpu", args.precision), args.backend)
    ndim = model.card.network.ndim
    sides = (QUICK_WINDOWS if args.quick else WINDOWS)[ndim]
    levels = sorted(model.card.levels_trained)
    return {
        "machine": machine(runner.device, threads),
        "backend": runner.choice.name,
        "model": model.card.name,
        "windows": {str(k): pixel_costs(runner, k, sides, args.repeats) for k in levels},
        "plans": {str(k): plans(runner, k, IMAGES[ndim]) for k in levels},
    }


def report(found: dict[str, Any]) -> str:
    """Return the tables as Markdown; a pixel of the third window (or the last) is 1."""
    costs = found["windows"]
    sides = [row["side"] for row in next(iter(costs.values()))]
    rows = []
    for level, row in costs.items():
        base = row[min(2, len(row) - 1)]["seconds"]
        cells = [f"{r['seconds'] / base:.2f} ({r['mib']:.0f} MiB)" for r in row]
        rows.append([f"L{level}", *cells])
    first = markdown(["level", *(str(side) for side in sides)], rows)
    rows = [
        [f"L{level}", size_text(p["image"]), size_text(p["core"]), str(p["tiles"]),
         f"{p['computed']:.2f}×", f"{p['largest'] / 1e6:.2f}"]
        for level, row in found["plans"].items() for p in row
    ]  # fmt: skip
    header = ["level", "image", "core", "tiles", "computed", "largest window, megapixels"]
    line = f"{machine_line(found['machine'])}, {found['backend']}, {found['model']}"
    return f"{line}\n\n{first}\n\n{markdown(header, rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "precision", "backend")
    parser.add_argument("--model", default="nuclei", help="default %(default)s")
    parser.add_argument("--repeats", type=int, default=2, help="passes; the least counts")
    parser.add_argument("--threads", type=int, default=1, help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="two small windows")
    args = parser.parse_args(argv)
    return tell(args, lambda: measure(args), report)


if __name__ == "__main__":
    sys.exit(main())
