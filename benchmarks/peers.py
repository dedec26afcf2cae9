"""The same network, or one like it, by others: time relative to plain eager float32 PyTorch at L4.

In one run, on one input and as many threads: ours through the public API and the bare network,
plain eager PyTorch of the same network, MONAI's BasicUNetPlusPlus with the same filters alone and
with MONAI's sliding window around it, a network in the style of the common ports, ONNX Runtime,
segmentation_models.pytorch; and the floor, the network's multiply-accumulates over the matrix rate
that this machine reaches in the precision that ours runs in. What is not installed is left out and
named. Every round does all of them in turn. Run with ``--help`` for the options.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from measure import (
    Spread,
    image_for,
    interleaved,
    machine,
    machine_line,
    markdown,
    model_for,
    parse_sizes,
    ratios,
    set_threads,
    size_text,
)
from numpy.typing import NDArray
from peer_networks import PortStyle, monai_network

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.backends.pytorch import TorchBackend
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.precision import DTYPES
from napari_unetpp.core.run.results import output_axes
from napari_unetpp.core.run.runtime import Runner, choose_device

SIZES = "96x96,512x512,2048x2048,64x64x64,128x128x128"
BASE = "eager L4"
_LARGEST_WHOLE = 1024**2  # pixels of one pass; larger images are tiled or slid over

Array = NDArray[np.float32]


def matrix_rate(precision: str) -> float:
    """Return the multiply-accumulates a second of large matrix products, the best of several."""
    best = 0.0
    for size in (1024, 2048):
        a, b = (torch.rand(size, size).to(DTYPES[precision]) for _ in range(2))  # type: ignore[index]
        for _ in range(4):
            start = time.perf_counter()
            a @ b
            best = max(best, size**3 / (time.perf_counter() - start))
    return best


def whole(network: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def call() -> Any:
        with torch.inference_mode():
            return network(x)

    return call


def slid(network: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    from monai.inferers import SlidingWindowInferer

    roi = [min(n, 512 if x.ndim == 4 else 96) for n in x.shape[2:]]
    inferer = SlidingWindowInferer(roi, sw_batch_size=1, overlap=0.25)

    def call() -> Any:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return inferer(x, lambda w: network(w)[-1])

    return call


def onnx_session(network: torch.nn.Module, level: int, x: Array, threads: int) -> Callable[[], Any]:
    import onnxruntime

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return network.probabilities(network(x, level))  # type: ignore[operator,no-any-return]

    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Head().eval(), (torch.from_numpy(x),), target, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        target.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def jobs_for(
    model: Model, image: Image, levels: Sequence[int], threads: int, missing: set[str]
) -> tuple[dict[str, Callable[[], Any]], Runner]:
    """Return everything that is timed on an image, by name."""
    runner = Runner(model, choose_device("cpu"), None)
    master = runner.reference.network
    shape = image.shape
    x = np.ascontiguousarray(np.asarray(image.data, np.float32) / 1000.0)[None, None]
    tensor = torch.from_numpy(x)
    small = int(np.prod(shape)) <= _LARGEST_WHOLE or len(shape) == 3
    has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    eager = TorchBackend(master, "cpu", "float32", tuned=False)
    jobs: dict[str, Callable[[], Any]] = {}
    for level in levels:
        jobs[f"eager L{level}"] = lambda k=level: eager.run(x, (k,))  # type: ignore[misc]
        if small:
            jobs[f"ours, network L{level}"] = lambda k=level: runner.probabilities(x, k)  # type: ignore[misc]
        jobs[f"ours, array to labels L{level}"] = lambda k=level: segment(runner, image, k)  # type: ignore[misc]
        if small and has_onnx:
            jobs[f"ONNX Runtime L{level}"] = onnx_session(eager.network, level, x, threads)
    config = model.card.network
    theirs = monai_network(config).eval()
    if small:
        jobs["MONAI BasicUNetPlusPlus"] = whole(theirs, tensor)
        jobs["port style"] = whole(PortStyle(config).eval(), tensor)
    jobs["MONAI sliding window"] = slid(theirs, tensor)
    if not has_onnx:
        missing.add("onnxruntime")
    try:
        import segmentation_models_pytorch as smp

        if small and config.ndim == 2:
            peer = smp.UnetPlusPlus("resnet34", encoder_weights=None, in_channels=1, classes=1)
            jobs["smp UnetPlusPlus resnet34"] = whole(peer.eval(), tensor)
    except (ImportError, RuntimeError, OSError):
        missing.add("segmentation_models.pytorch")
    return jobs, runner


def segment(runner: Runner, image: Image, level: int) -> Any:
    """Run the public API from an array to labels."""
    _, shape, dtype = output_axes(image, runner.card, "labels")
    sink = np.empty(shape, dtype)
    drain(predict(image, runner, sink, level=level))
    return sink


def measure(
    sizes: Sequence[tuple[int, ...]], levels: Sequence[int], repeats: int, threads: int
) -> dict[str, Any]:
    """Return ratios to eager L4 of every contestant, size by size."""
    missing: set[str] = set()
    tables: dict[str, Any] = {}
    for shape in sizes:
        model, _ = model_for("nuclei" if len(shape) == 2 else "ct-head-neck")
        jobs, runner = jobs_for(model, image_for(model.card, shape), levels, threads, missing)
        for job in jobs.values():
            job()  # kernels are chosen, graphs compiled, numbers checked
        seconds = interleaved(jobs, repeats)
        precision = runner.precision_of(max(levels))
        rate = matrix_rate(precision)
        floor = multiply_accumulates(model.card.network, shape, max(levels)) / rate
        base = f"eager L{max(levels)}"
        tables[size_text(shape)] = {
            "backend": runner.backend_of(max(levels)),
            "precision": precision,
            "seconds_of_base": Spread.of(seconds[base]).to_json(),
            "relative": {n: s.to_json() for n, s in ratios(seconds, base).items()},
            "floor": floor / Spread.of(seconds[base]).median,
            "multiply_accumulates_per_second": rate,
        }
    return {"base": f"eager L{max(levels)}", "missing": sorted(missing), "sizes": tables}


def draw(found: dict[str, Any], path: str) -> None:
    """Draw the table as bars, one panel a size."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = found["sizes"]
    figure = Figure((8, 0.8 + 0.28 * sum(len(s["relative"]) + 2 for s in sizes.values())))
    FigureCanvasAgg(figure)
    heights = [len(s["relative"]) + 2 for s in sizes.values()]
    axes = figure.subplots(len(sizes), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis, (size, table) in zip(axes[:, 0], sizes.items(), strict=True):
        rows = sorted(table["relative"].items(), key=lambda item: -item[1]["median"])
        colours = ["#1b7f79" if name.startswith("ours") else "#9aa5b1" for name, _ in rows]
        axis.barh([n for n, _ in rows], [r["median"] for _, r in rows], color=colours)
        axis.axvline(table["floor"], color="#c0392b", lw=1, label="floor")
        axis.set_title(f"{size}: time relative to {found['base']}", loc="left", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=parse_sizes, default=parse_sizes(SIZES))
    parser.add_argument("--levels", default="1,2,3,4", help="of ours and the same network's")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--figure", metavar="PNG", help="draw the table into this file")
    parser.add_argument("--quick", action="store_true", help="64 × 64, L1 and L4, two rounds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.quick:
        args.sizes, args.levels, args.repeats = [(64, 64)], "1,4", 2
    threads = set_threads(args.threads)
    levels = [int(k) for k in args.levels.split(",")]
    found = measure(args.sizes, levels, args.repeats, threads)
    found["machine"] = machine(choose_device("cpu"), threads)
    if args.figure:
        draw(found, args.figure)
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    print(machine_line(found["machine"]) + f"; {args.repeats} round(s): median (least–greatest).")
    for size, table in found["sizes"].items():
        seconds = table["seconds_of_base"]["median"]
        print(
            f"\n**{size}**, ours by {table['backend']} in {table['precision']}; 1 = "
            f"{found['base']} ({seconds:.3g} s); floor {table['floor']:.3f}:\n"
        )
        rows = [
            [name, str(Spread(r["median"], r["low"], r["high"]))]
            for name, r in table["relative"].items()
        ]
        print(markdown(["who", "relative time"], rows))
    if found["missing"]:
        print(f"\nNot installed, so not measured: {', '.join(found['missing'])}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
