"""Cost as the work grows: time and peak memory from a small image to a huge one, file to file.

Square TIFFs of nuclei go to labels on disk as ``napari-unetpp segment`` does it. A line through
the logarithms of pixels and seconds says how the time grows: a slope of 1 is twice the time for
twice the pixels, and memory that depends on the tile alone does not grow. Processor time stands
beside the time, because it is the same whatever else the machine does. Run with ``--help`` for
the options.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huge_image import segment, write_image
from measure import (
    machine,
    machine_line,
    markdown,
    megapixels,
    model_for,
    peak_mib,
    set_threads,
)
from script import parser_of, tell

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.runtime import Runner, choose_device

RUNS = "1:512-16384,4:512-4096"
QUICK_RUNS = "1:64-256,2:64-128"


def parse_runs(text: str) -> dict[int, list[int]]:
    """Parse levels and sides such as ``1:512-16384,4:512-4096``; sides double.

    Raises
    ------
    InputError
        If it does not look like that.
    """
    runs = {}
    for part in text.split(","):
        level, _, sides = part.partition(":")
        first, _, last = sides.partition("-")
        if not all(word.isdigit() and int(word) for word in (level, first, last or first)):
            raise InputError(f"runs look like {RUNS}, got {part!r}.")
        sizes = [int(first)]
        while sizes[-1] * 2 <= int(last or first):
            sizes.append(sizes[-1] * 2)
        runs[int(level)] = sizes
    return runs


def slope_of(pixels: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of the line through the logarithms, by least squares."""
    if len(pixels) < 2:
        return math.nan
    return float(np.polyfit(np.log(pixels), np.log(seconds), 1)[0])


def timed(path: Path, out: Path, runner: Runner, level: int, repeats: int) -> dict[str, Any]:
    """Segment a file several times; return the least times, the tiles and the peak of memory.

    The memory is that of the last run, which is watched while it is timed: a look every
    millisecond is no work worth a run of its own where one takes minutes.
    """
    best = {"seconds": math.inf, "processor_seconds": math.inf}

    def run() -> int:
        start, used = time.perf_counter(), time.process_time()
        tiles = segment(path, out, runner, level).n_tiles
        best["seconds"] = min(best["seconds"], time.perf_counter() - start)
        best["processor_seconds"] = min(best["processor_seconds"], time.process_time() - used)
        return tiles

    for _ in range(repeats - 1):
        run()
    runner.release()  # else what the last run left behind would hide in the baseline
    # The process's memory is what an image must not fill, also where a GPU runs the network.
    peak, tiles = peak_mib(run, "cpu")
    return {**best, "tiles": tiles, "peak_mib": peak}


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure every size at every level; return plain JSON values."""
    threads = set_threads(args.threads)
    model, trained = model_for("nuclei")
    runner = Runner(model, choose_device(args.device, args.precision), args.backend)
    runs = parse_runs(args.runs)
    levels: dict[str, Any] = {}
    path, out = folder / "image.tif", folder / "labels.tif"
    for level, sizes in runs.items():
        write_image(path, sizes[0], "uint16")
        segment(path, out, runner, level)  # checks of numbers, graphs and kernels
        rows = []
        for size in sizes:
            print(f"L{level}: {size}x{size} ...", file=sys.stderr, flush=True)
            write_image(path, size, "uint16")
            repeats = args.repeats if size <= args.repeated else 1
            rows.append({"side": size, **timed(path, out, runner, level, repeats)})
            print(rows[-1], file=sys.stderr, flush=True)
        pixels = [row["side"] ** 2 for row in rows]
        levels[str(level)] = {
            "rows": rows,
            "slope": slope_of(pixels, [row["seconds"] for row in rows]),
            "processor_slope": slope_of(pixels, [row["processor_seconds"] for row in rows]),
        }
    return {
        "machine": machine(runner.device, threads),
        "backend": runner.choice.name,
        "weights": "bundled" if trained else "fresh",
        "levels": levels,
    }


def report(found: dict[str, Any]) -> str:
    """Return the tables as Markdown: times as ratios of the smallest image's megapixel."""
    parts = [f"{machine_line(found['machine'])}, {found['backend']}"]
    header = ["side", "megapixels", "tiles", "time for a megapixel", "processor time", "peak MiB"]
    for level, one in found["levels"].items():
        rows, first = [], one["rows"][0]
        for row in one["rows"]:
            size = megapixels((row["side"],) * 2) / megapixels((first["side"],) * 2)
            rows.append([
                str(row["side"]),
                f"{megapixels((row['side'],) * 2):.2f}",
                str(row["tiles"]),
                f"{row['seconds'] / first['seconds'] / size:.2f}",
                f"{row['processor_seconds'] / first['processor_seconds'] / size:.2f}",
                f"{row['peak_mib']:.0f}",
            ])  # fmt: skip
        parts.append(
            f"**L{level}**, slope {one['slope']:.2f} (of processor time "
            f"{one['processor_slope']:.2f}); a megapixel of the smallest is 1:"
        )
        parts.append(markdown(header, rows))
    return "\n\n".join(parts)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw time and memory over the size, both axes logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for number, (level, one) in enumerate(found["levels"].items()):
        sizes = [megapixels((row["side"],) * 2) for row in one["rows"]]
        colour = f"C{number}"
        for name, style, slope, what in (
            ("seconds", "o-", one["slope"], "time"),
            ("processor_seconds", ".:", one["processor_slope"], "processor time"),
        ):
            times = [row[name] for row in one["rows"]]
            left.loglog(sizes, times, style, color=colour, label=f"L{level} {what}: {slope:.2f}")
        peaks = [row["peak_mib"] for row in one["rows"]]
        right.loglog(sizes, peaks, "o-", color=colour, label=f"L{level}")
    widest = max(
        (one["rows"] for one in found["levels"].values()), key=lambda rows: rows[-1]["side"]
    )
    sizes = [megapixels((row["side"],) * 2) for row in widest]
    images = [row["side"] ** 2 * 2 / 2**20 for row in widest]
    right.loglog(sizes, images, "--", color="grey", label="the image itself")
    left.set(xlabel="megapixels", ylabel="seconds, file to file", title="Time, and its slope")
    right.set(xlabel="megapixels", ylabel="MiB over the baseline", title="Peak memory")
    for axes in (left, right):
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "folder", "threads", "device", "precision", "backend")
    parser.add_argument("--runs", default=RUNS, help="levels and sides, default %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="of the smaller images")
    parser.add_argument("--repeated", type=int, default=4096, help="largest side of these")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the table into this file")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS}, once")
    args = parser.parse_args(argv)
    if args.quick:
        args.runs, args.repeats = QUICK_RUNS, 1

    def found() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="unetpp-cost-") as folder:
            document = measure(args, Path(folder))
        if args.figure:
            draw(document, args.figure)
        return document

    return tell(args, found, report)


if __name__ == "__main__":
    sys.exit(main())
