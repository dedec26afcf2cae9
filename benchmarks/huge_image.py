"""A memory-mapped image far larger than memory, to labels on disk: what it takes, and a check.

The image is a TIFF that is filled block by block and never held; it goes the way of
``napari-unetpp segment``: read lazily, run in tiles, written tile by tile under a hidden name,
committed. The baseline of the memory is the process before the image is opened, with the
packages and the model loaded. Then windows of the result are compared with the same windows
run alone with their halo: every label must be equal. Run with ``--help`` for the options.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from measure import (
    PATTERN,
    machine,
    machine_line,
    markdown,
    megapixels,
    model_for,
    nuclei_pattern,
    peak_mib,
    set_threads,
    size_text,
)
from numpy.typing import NDArray
from script import parser_of, tell

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image
from napari_unetpp.core.data.lazy import release
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.events import drain
from napari_unetpp.core.run.inference import Prediction, fit_normalisers, output_axes, predict
from napari_unetpp.core.run.results import deciding_channels, labels_of
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.tiling import Region, Tile, aligned_halo, padded_size, read_window

AIM_MIB = 1.5e9 / 2**20
_WINDOW = 512


def write_image(path: Path, size: int, dtype: str) -> None:
    """Write a square TIFF of nuclei through a memory map; two rows of blocks are held at most.

    Parameters
    ----------
    path : Path
        New file, uncompressed.
    size : int
        Pixels along each side.
    dtype : {"uint8", "uint16"}
        Its type.
    """
    pattern = nuclei_pattern().astype(np.float64)
    scaled = (pattern - pattern.min()) / (pattern.max() - pattern.min())
    blocks = []
    for turns in range(4):  # turned, and not equally bright: no block is like its neighbours
        top = (0.6 + 0.1 * turns) * (255 if dtype == "uint8" else 4095)
        blocks.append(np.rint(np.rot90(scaled, turns) * top).astype(dtype))
    target = tifffile.memmap(path, shape=(size, size), dtype=dtype, photometric="minisblack")
    for row, y in enumerate(range(0, size, PATTERN)):
        for column, x in enumerate(range(0, size, PATTERN)):
            block = blocks[(column + 2 * row + row // 2) % 4]
            target[y : y + PATTERN, x : x + PATTERN] = block[: size - y, : size - x]
        target.flush()
        release(target)


def segment(path: Path, out: Path, runner: Runner, level: int) -> Prediction:
    """Segment a file into a file as the command line does."""
    image = read_image(path)
    axes, shape, dtype = output_axes(image, runner.card, "labels")
    with open_sink(out, like=image, axes=axes, dtype=dtype, shape=shape, kind="labels") as sink:
        prediction = drain(predict(image, runner, sink, level=level, kind="labels"))
        sink.commit()
    return prediction


def windows(size: int, level: int, count: int, seed: int = 0) -> Iterator[Region]:
    """Yield windows of the image: the four corners, then others at random.

    They start at multiples of 2^level, as tiles do, but not where tiles do.
    """
    rng = np.random.default_rng(seed)
    side = min(_WINDOW, size)
    step = 2**level
    last = (size - side) // step * step
    starts = [(0, 0), (0, last), (last, 0), (last, last)]
    starts += [
        (int(y) * step, int(x) * step) for y, x in rng.integers(0, last // step + 1, (count, 2))
    ]
    for place in starts:
        y, x = (slice(start, size if start == last else start + side) for start in place)
        yield y, x


def run_alone(
    image: Image, normaliser: Normaliser, runner: Runner, level: int, core: Region
) -> NDArray[np.unsignedinteger]:
    """Return the labels of a window that is run alone, with its halo, in one pass."""
    reach = aligned_halo(level)
    window = tuple(
        slice(
            max(c.start - reach, 0), min(padded_size(c.stop, level) + reach, padded_size(n, level))
        )
        for c, n in zip(core, image.shape, strict=True)
    )
    block = read_window(lambda region: np.asarray(image.data[region]), window, image.shape)
    tile = Tile(core, window)
    x = normaliser(block)[None, None]  # (1, 1, Y, X)
    found = runner.probabilities(x, level, crop=tile.inner)[0]
    card = runner.card
    return labels_of((found[k] for k in deciding_channels(card)), card, card.threshold)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the image, segment it, check it; return plain JSON values."""
    threads = set_threads(args.threads)
    device = choose_device(args.device, args.precision)
    model, trained = model_for(args.model)
    runner = Runner(model, device)
    path, out = folder / "huge.tif", folder / "labels.tif"
    print(f"writing {size_text((args.size, args.size))} ...", file=sys.stderr, flush=True)
    write_image(path, args.size, args.dtype)
    print("segmenting ...", file=sys.stderr, flush=True)
    # The process's memory is what the image must not fill, also where a GPU runs the network.
    peak, result = peak_mib(lambda: segment(path, out, runner, args.level), "cpu")
    assert isinstance(result, Prediction)
    labels, image = read_image(out).data, read_image(path)
    normaliser = fit_normalisers(image, runner.card)[0][0]
    checked = turned = foreground = 0
    for core in windows(args.size, args.level, args.windows):
        expected = run_alone(image, normaliser, runner, args.level, core)
        actual = np.asarray(labels[core])
        turned += int((actual != expected).sum())
        foreground += int((expected > 0).sum())
        checked += actual.size
    return {
        "machine": machine(runner.device, threads),
        "model": model.card.name,
        "weights": "bundled" if trained else "fresh",
        "level": args.level,
        "shape": [args.size, args.size],
        "dtype": args.dtype,
        "image_mib": args.size**2 * np.dtype(args.dtype).itemsize / 2**20,
        "megapixels": megapixels((args.size, args.size)),
        "tiles": result.n_tiles,
        "seconds": result.seconds,
        "peak_mib": peak,
        "aim_mib": AIM_MIB,
        "pixels_checked": checked,
        "foreground_share": foreground / checked,
        "pixels_different": turned,
    }


def report(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = [
        ["image", f"{size_text(found['shape'])} {found['dtype']}, {found['image_mib']:.0f} MiB"],
        ["megapixels", f"{found['megapixels']:.0f}"],
        ["tiles", str(found["tiles"])],
        ["peak memory over the baseline", f"{found['peak_mib']:.0f} MiB"],
        ["aim", f"{found['aim_mib']:.0f} MiB"],
        ["pixels compared with windows run alone", str(found["pixels_checked"])],
        ["of these foreground", f"{100 * found['foreground_share']:.1f} %"],
        ["labels that differ", str(found["pixels_different"])],
        ["seconds for a megapixel", f"{found['seconds'] / found['megapixels']:.3f}"],
    ]
    title = f"{found['model']} ({found['weights']} weights) at L{found['level']}"
    return f"{machine_line(found['machine'])}\n\n{markdown([title, ''], rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if the aim is missed or a label is wrong."""
    parser = parser_of(__doc__, "folder", "threads", "device", "precision")
    parser.add_argument("--size", type=int, default=20_000, help="side in pixels")
    parser.add_argument("--dtype", default="uint16", choices=("uint8", "uint16"))
    parser.add_argument("--model", default="nuclei", help="default %(default)s")
    parser.add_argument("--level", type=int, default=1, help="default %(default)s")
    parser.add_argument("--windows", type=int, default=12, help="windows beside the corners")
    parser.add_argument("--quick", action="store_true", help="2000 pixels")
    args = parser.parse_args(argv)
    args.size = min(args.size, 2000) if args.quick else args.size

    def found() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="unetpp-huge-") as folder:
            return measure(args, Path(folder))

    return tell(
        args, found, report, lambda f: int(f["pixels_different"] > 0 or f["peak_mib"] > AIM_MIB)
    )


if __name__ == "__main__":
    sys.exit(main())
