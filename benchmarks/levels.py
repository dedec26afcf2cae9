"""Time, memory and agreement of every level against a plain eager forward of the same network.

The plain forward is what the network is before anything is done to it: float32, contiguous,
batch norm not folded, the whole image in one pass, every node held until the end. What it is
compared with is the public path: tiles, folded norms, channels last, a checked precision and
a result that is written. Both run on the same threads, in turn; figures are ratios of times
in the same round. Run with ``--help`` for the options.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from measure import (
    CARDS,
    Job,
    Spread,
    image_for,
    interleaved,
    machine,
    machine_line,
    markdown,
    model_for,
    parse_sizes,
    peak_mib,
    ratios,
    set_threads,
    size_text,
)
from numpy.typing import NDArray
from script import parser_of, tell

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import drain
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.inference import Level, fit_normalisers, output_axes, predict
from napari_unetpp.core.run.memory import bytes_per_pixel
from napari_unetpp.core.run.precision import compare
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.run.tiling import TilePlan, aligned_halo

SIZES = "512x512,2048x2048,64x64x64,128x128x128"
QUICK_SIZES = "64x64,16x16x16"

# The plain forward gets this share of the memory that is free; beyond it, it is tiled too.
_SHARE = 0.6
# Kept nodes are measured up to this many pixels (voxels): more need a preview of a region.
_KEPT_PIXELS = 2**19
_WARM_UP = {2: 256, 3: 32}


@dataclass(frozen=True)
class Plain:
    """The baseline: a network as it was built, run eagerly in float32.

    Attributes
    ----------
    network : NestedUNet
        Not folded, contiguous, float32.
    card : ModelCard
        Its levels.
    x : Tensor
        Normalised input, (1, C, *space) float32.
    core : int or None
        None: the whole image in one pass. Else cores of tiles, because it does not fit.
    """

    network: NestedUNet
    card: ModelCard
    x: torch.Tensor
    core: int | None

    def __call__(self, level: Level) -> NDArray[np.float32]:
        """Return probabilities, (channels, *space)."""
        with torch.inference_mode():
            if self.core is None:
                return self._forward(self.x, level)[0].cpu().numpy()
            return self._tiled(level, self.core)

    def _forward(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        network, levels = self.network, self.card.levels_trained
        wanted = levels if level == "ensemble" else (level,)
        nodes = network.run_stages(x, max(int(k) for k in wanted))
        heads = [network.probabilities(network.head(int(k), nodes)) for k in wanted]
        return torch.stack(heads).mean(dim=0)

    def _tiled(self, level: Level, core: int) -> NDArray[np.float32]:
        stage = max(self.card.levels_trained) if level == "ensemble" else int(level)
        shape = tuple(self.x.shape[2:])
        out = np.empty((self.card.network.out_channels, *shape), np.float32)
        every = slice(None)
        for tile in TilePlan(shape, stage, core):
            found = self._forward(self.x[(every, every, *tile.window)], level)[0]
            out[(every, *tile.core)] = found[(every, *tile.inner)].cpu().numpy()
        return out


def plain_for(network: NestedUNet, card: ModelCard, image: Image, kind: str) -> Plain:
    """Return the baseline on an image whose sizes are multiples of 2^L."""
    normalisers, _ = fit_normalisers(image, card)
    x = torch.from_numpy(normalisers[0](np.asarray(image.data))[None, None]).to(kind)
    deepest = max(card.levels_trained)
    needed = x.numel() * bytes_per_pixel(card.network, deepest, 4)
    core = None
    if needed > _SHARE * _free_bytes(kind):
        core = max(4 * aligned_halo(deepest) // 2 ** (len(card.axes) - 2), 2**deepest)
    return Plain(network.to(kind), card, x, core)


def _free_bytes(kind: str) -> float:
    if kind == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    import psutil

    return float(psutil.virtual_memory().available)


def through_predict(image: Image, runner: Runner, level: Level) -> NDArray[np.float32]:
    """Return probabilities, (channels, *space), by the public path."""
    axes, shape, dtype = output_axes(image, runner.card, "probabilities")
    sink = np.empty(shape, dtype)
    drain(predict(image, runner, sink, level=level, kind="probabilities"))
    return sink if "C" in axes else sink[None]


def levels_of(card: ModelCard) -> tuple[Level, ...]:
    """Return the trained levels and the ensemble."""
    return (*sorted(card.levels_trained), "ensemble")


def measure_levels(
    plain: Plain, runners: dict[str, Runner], image: Image, repeats: int
) -> dict[str, Any]:
    """Measure every level of one network on one image.

    Returns
    -------
    dict
        Plain JSON values: by level the share of multiply-accumulates, and for the plain
        forward ("eager") and every precision the time relative to the plain L4, the peak of
        memory, the largest difference of a probability and the share of decisions turned.
    """
    card = plain.card
    kind = next(iter(runners.values())).device.kind
    shape = tuple(image.shape)
    deepest = max(card.levels_trained)
    whole = multiply_accumulates(card.network, shape, deepest)
    jobs: dict[str, Job] = {}
    found: dict[str, Any] = {}
    for level in levels_of(card):
        jobs[f"{level} eager"] = functools.partial(plain, level)
        peak, reference = peak_mib(jobs[f"{level} eager"], kind)
        stage = deepest if level == "ensemble" else int(level)
        row: dict[str, Any] = {
            "multiply_accumulates": multiply_accumulates(card.network, shape, stage) / whole,
            "eager": {"peak_mib": peak},
        }
        for name, runner in runners.items():
            job = functools.partial(through_predict, image, runner, level)
            jobs[f"{level} {name}"] = job
            peak, result = peak_mib(job, kind)
            agreement = compare(np.asarray(reference)[None], np.asarray(result)[None], 0.5)
            row[name] = {
                "peak_mib": peak,
                "ran_in": runner.precision_of(level),
                "difference": agreement.difference,
                "turned": agreement.turned,
            }
        found[str(level)] = row
    seconds = interleaved(jobs, repeats, kind)
    base = f"{deepest} eager"
    for name, spread in ratios(seconds, base).items():
        level_name, _, method = name.partition(" ")
        found[level_name][method]["time"] = spread.to_json()
    return {"levels": found, "eager_deepest_seconds": Spread.of(seconds[base]).to_json()}


def measure_kept(plain: Plain, runner: Runner, repeats: int) -> dict[str, Any]:
    """Measure going from level to level with kept nodes, relative to the deepest alone.

    Returns
    -------
    dict
        For "deepest", "kept nodes" and "one by one": time, work (multiply-accumulates)
        relative to "deepest", and peak memory; and the largest difference between a level
        from kept nodes and the same level alone.
    """
    x = plain.x.cpu().numpy()
    card = plain.card
    levels = sorted(card.levels_trained)
    network, shape = card.network, tuple(x.shape[2:])
    macs = [multiply_accumulates(network, shape, k) for k in levels]
    head = int(np.prod(shape)) * network.filters[0] * network.out_channels
    work = {
        "deepest": 1.0,
        "kept nodes": (macs[-1] + head * (len(levels) - 1)) / macs[-1],
        "one by one": sum(macs) / macs[-1],
    }
    jobs: dict[str, Job] = {
        "deepest": lambda: runner.probabilities(x, levels[-1]),
        "kept nodes": lambda: dict(runner.levels(x)),
        "one by one": lambda: {k: runner.probabilities(x, k) for k in levels},
    }
    kind = runner.device.kind
    for job in jobs.values():
        job()
    peaks = {name: peak_mib(job, kind) for name, job in jobs.items()}
    kept: Any = peaks["kept nodes"][1]
    alone: Any = peaks["one by one"][1]
    seconds = ratios(interleaved(jobs, repeats, kind), "deepest")
    document: dict[str, Any] = {
        name: {"time": seconds[name].to_json(), "work": work[name], "peak_mib": peaks[name][0]}
        for name in jobs
    }
    document["largest_difference"] = max(float(np.abs(kept[k] - alone[k]).max()) for k in levels)
    return document


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every network on every size that has its number of axes."""
    threads = set_threads(args.threads)
    device = choose_device(args.device)
    cases = []
    for name in args.networks.split(","):
        model, trained = model_for(name.strip())
        if not trained:
            decide(model.network)
        card = model.card
        sizes = [s for s in parse_sizes(args.sizes) if len(s) == len(card.axes)]
        runners = {"float32": Runner(model, choose_device(args.device, "float32"))}
        if device.precision != "float32":
            runners[device.precision] = Runner(model, device)
        for shape in sizes:
            _check_size(shape, card)
            print(f"{name} at {size_text(shape)} ...", file=sys.stderr, flush=True)
            image = image_for(card, shape)
            plain = plain_for(model.network, card, image, device.kind)
            _warm_up(plain, runners, image)
            case = {
                "network": card.name,
                "weights": "bundled" if trained else "fresh",
                "shape": list(shape),
                "eager_tiled": plain.core is not None,
                **measure_levels(plain, runners, image, args.repeats),
            }
            if np.prod(shape) <= _KEPT_PIXELS:
                case["going_deeper"] = measure_kept(
                    plain, runners.get(device.precision, runners["float32"]), args.repeats
                )
            cases.append(case)
    return {"machine": machine(device, threads), "repeats": args.repeats, "cases": cases}


def _check_size(shape: Sequence[int], card: ModelCard) -> None:
    step = 2 ** max(card.levels_trained)
    if any(n % step for n in shape):
        raise InputError(
            f"sizes must be multiples of {step}, so that the plain forward needs no padding, "
            f"got {size_text(shape)}."
        )


def _warm_up(plain: Plain, runners: dict[str, Runner], image: Image) -> None:
    """Run every level once on a corner: kernels are chosen and precision is checked."""
    side = _WARM_UP[len(plain.card.axes)]
    corner = tuple(slice(0, side) for _ in image.shape)
    part = image.replace(data=np.ascontiguousarray(image.data[corner]))
    small = Plain(plain.network, plain.card, plain.x[(slice(None), slice(None), *corner)], None)
    for level in levels_of(plain.card):
        small(level)
        for runner in runners.values():
            through_predict(part, runner, level)


def report(document: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [
        f"{machine_line(document['machine'])}; {document['repeats']} round(s): median "
        "(least–greatest)."
    ]
    for case in document["cases"]:
        lines += ["", *_case_lines(case)]
    return "\n".join(lines)


def _case_lines(case: dict[str, Any]) -> list[str]:
    methods = [k for k in case["levels"]["ensemble"] if k != "multiply_accumulates"]
    header = ["level", "work"]
    for method in methods:
        header += [f"{method}: time", "MiB"]
        header += [] if method == "eager" else ["largest difference", "turned"]
    rows = []
    for level, row in case["levels"].items():
        name = level if level == "ensemble" else f"L{level}"
        cells = [name, f"{row['multiply_accumulates']:.3f}"]
        for method in methods:
            one = row[method]
            cells += [str(Spread(**one["time"])), f"{one['peak_mib']:.0f}"]
            if method != "eager":
                cells += _agreement(one, trained=case["weights"] == "bundled")
        rows.append(cells)
    fallen = {m for row in case["levels"].values() for m in methods if _fell_back(row[m], m)}
    how = "tiled, since the whole does not fit" if case["eager_tiled"] else "whole image"
    lines = [
        f"**{case['network']}** ({case['weights']} weights), {size_text(case['shape'])}; "
        f"1 = eager float32 at the deepest level, {how}:",
        "",
        markdown(header, rows),
    ]
    lines += [f"\n{m} did not agree with float32 here and was not used." for m in sorted(fallen)]
    if "going_deeper" in case:
        deeper = case["going_deeper"]
        rows = [
            [name, f"{one['work']:.4f}", str(Spread(**one["time"])), f"{one['peak_mib']:.0f}"]
            for name, one in deeper.items()
            if isinstance(one, dict)
        ]
        lines += [
            "",
            "All levels in turn, relative to the deepest alone; largest difference between the "
            f"two ways {deeper['largest_difference']:.1g}:",
            "",
            markdown(["", "work", "time", "MiB"], rows),
        ]
    return lines


def _fell_back(one: dict[str, Any], method: str) -> bool:
    return bool(one.get("ran_in", method) != method)


def _agreement(one: dict[str, Any], *, trained: bool) -> list[str]:
    """Return two cells; how far fresh weights agree says nothing about trained ones."""
    if not trained:
        return ["–", "–"]
    return [f"{one['difference']:.1g}", f"{100 * one['turned']:.3f} %"]


def decide(network: NestedUNet) -> None:
    """Shift the fresh heads of a network off 0.5, in place.

    Otherwise most pixels lie so near to the threshold that any other precision turns some of
    them, the check fails, and what is meant to be timed is not run.
    """
    with torch.no_grad():
        for head in network.heads.values():
            cast(torch.Tensor, head.bias).fill_(1.0)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "threads", "device")
    parser.add_argument("--networks", default=",".join(CARDS), help="default %(default)s")
    parser.add_argument("--sizes", default=None, help=f"default {SIZES}")
    parser.add_argument("--repeats", type=int, default=None, help="rounds; default 5")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SIZES}, one round")
    args = parser.parse_args(argv)
    args.sizes = args.sizes or (QUICK_SIZES if args.quick else SIZES)
    args.repeats = args.repeats or (1 if args.quick else 5)
    return tell(args, lambda: measure(args), report)


if __name__ == "__main__":
    sys.exit(main())
