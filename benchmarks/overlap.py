"""What it saves to read ahead and to write behind: a run with both, with one, and with neither.

An image goes from file to file at one level: an uncompressed TIFF through a memory map, an
OME-Zarr whose blocks are compressed, and an image that answers late, as over a network, which
leaves the processor free. Figures are ratios of times in the same round; the results of all three
ways must be equal. Run with ``--help`` for the options.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from huge_image import write_image
from measure import (
    Job,
    Spread,
    interleaved,
    machine,
    machine_line,
    markdown,
    model_for,
    ratios,
    set_threads,
)
from script import parser_of, tell

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image
from napari_unetpp.core.events import drain
from napari_unetpp.core.run import inference
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.streaming import stream

WAYS = {"neither": (False, False), "reading ahead": (True, False), "both": (True, True)}


class Here:
    """In place of a thread: calls are made where they are begun."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Make a call at once."""
        done: Future[Any] = Future()
        try:
            done.set_result(call(*args))
        except BaseException as error:
            done.set_exception(error)
        return done

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *failed: object) -> None:
        pass


@contextlib.contextmanager
def way(read: bool, write: bool) -> Iterator[None]:
    """Let runs read ahead or not, and write behind or not, meanwhile."""

    def chosen(*given: Any, ahead: bool) -> Generator[Any, None, None]:
        return stream(*given, ahead=ahead and read)

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(inference, "stream", chosen))
        if not write:
            stack.enter_context(patch.object(inference, "Aside", Here))
        yield


class Late:
    """Pixels that come after a while."""

    def __init__(self, array: Any, seconds: float) -> None:
        self.array, self.shape, self.dtype, self.seconds = array, array.shape, array.dtype, seconds

    def __getitem__(self, index: Any) -> Any:
        time.sleep(self.seconds)
        return np.asarray(self.array[index])


def compressed(path: Path, target: Path) -> None:
    """Copy a TIFF into an OME-Zarr, strip by strip."""
    image = read_image(path)
    with open_sink(
        target, like=image, axes="YX", dtype=image.dtype, shape=image.shape, kind="probabilities"
    ) as sink:
        for y in range(0, image.shape[0], 1024):
            sink[y : y + 1024, :] = np.asarray(image.data[y : y + 1024, :])
        sink.commit()


def segment(
    read: Callable[[], Image], out: Path, runner: Runner, level: int, kind: str, how: str
) -> None:
    """Segment an image into a file in one of the ways."""
    image = read()
    axes, shape, dtype = inference.output_axes(image, runner.card, kind)
    with (
        way(*WAYS[how]),
        open_sink(out, like=image, axes=axes, dtype=dtype, shape=shape, kind=kind) as sink,
    ):
        drain(inference.predict(image, runner, sink, level=level, kind=kind))
        sink.commit()


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure every case in every way; return plain JSON values."""
    threads = set_threads(args.threads)
    runner = Runner(model_for("nuclei")[0], choose_device(args.device, args.precision), None)
    tiff, zarr = folder / "image.tif", folder / "image.ome.zarr"
    write_image(tiff, args.size, "uint16")
    compressed(tiff, zarr)

    def late() -> Image:
        image = read_image(tiff)
        return image.replace(data=Late(image.data, args.late))

    cases: dict[str, tuple[Callable[[], Image], str, str]] = {
        "TIFF to labels": (lambda: read_image(tiff), "labels", ".tif"),
        "OME-Zarr to labels": (lambda: read_image(zarr), "labels", ".ome.zarr"),
        "OME-Zarr to probabilities": (lambda: read_image(zarr), "probabilities", ".ome.zarr"),
        f"{args.late:g} s late, to labels": (late, "labels", ".tif"),
    }
    found: dict[str, Any] = {}
    for number, (name, (read, kind, suffix)) in enumerate(cases.items()):
        outs = {how: folder / f"{number}-{k}{suffix}" for k, how in enumerate(WAYS)}
        jobs: dict[str, Job] = {
            how: functools.partial(segment, read, out, runner, args.level, kind, how)
            for how, out in outs.items()
        }
        for job in jobs.values():
            job()
        first, *others = (np.asarray(read_image(out).data) for out in outs.values())
        if not all(np.array_equal(first, other) for other in others):
            raise AssertionError(f"{name}: the ways gave different results")
        seconds = interleaved(jobs, args.repeats)
        found[name] = {how: s.to_json() for how, s in ratios(seconds, "neither").items()}
        print(f"{name}: {seconds}", file=sys.stderr, flush=True)
    return {
        "machine": machine(runner.device, threads),
        "backend": runner.choice.name,
        "size": args.size,
        "level": args.level,
        "rounds": args.repeats,
        "cases": found,
    }


def report(found: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    rows = [
        [name, *(str(Spread(**ways[how])) for how in WAYS)] for name, ways in found["cases"].items()
    ]
    size, level = found["size"], found["level"]
    title = f"{size}x{size} at L{level}, {found['rounds']} rounds"
    line = f"{machine_line(found['machine'])}, {found['backend']}"
    return f"{line}\n\n{markdown([title, *WAYS], rows)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "folder", "threads", "device", "precision")
    parser.add_argument("--size", type=int, default=8192, help="side in pixels")
    parser.add_argument("--level", type=int, default=1, help="default %(default)s")
    parser.add_argument("--late", type=float, default=0.05, help="seconds for a read, see above")
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--quick", action="store_true", help="1024 pixels, once")
    args = parser.parse_args(argv)
    if args.quick:
        args.size, args.repeats = min(args.size, 1024), 1

    def found() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=args.folder, prefix="unetpp-overlap-") as folder:
            return measure(args, Path(folder))

    return tell(args, found, report)


if __name__ == "__main__":
    sys.exit(main())
