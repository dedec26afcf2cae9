"""Everything that a GPU is for, in one call: throughput, live, fine-tuning, memory.

    python benchmarks/gpu.py                          # on the GPU that there is
    python benchmarks/gpu.py --device cpu --quick     # the same parts on a processor, small

Throughput is that of the public path (``Runner.probabilities``: arrays in, probabilities out), by
level and at the batch that fills the device, and its multiply-accumulates as a share of the rate of
large matrix products in the same precision. The papers' own workload is 10,000 images of 96 x 96 at
each level (Zhou et al., IEEE TMI 2020, Fig. 5). Live is the time line of one view from kept nodes.
Fine-tuning is a budget of seconds on a phantom with simulated strokes. Where there is a GPU, a run
is given less of its memory than its tiles want, and must end with the same labels (exit code 1 if
more than one in 10,000 is another).
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from typing import Any

import numpy as np
import torch
from measure import (
    interleaved,
    machine,
    machine_line,
    markdown,
    matrix_rate,
    model_for,
    nuclei_pattern,
    peak_mib,
    set_threads,
    settle,
)
from numpy.typing import NDArray
from painter import paint
from script import parser_of, tell

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, drain
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.memory import free_memory, is_out_of_memory
from napari_unetpp.core.run.runtime import Device, Runner, choose_device
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.start import grown_card
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.tune import FineTuning

_ENOUGH = 1.03
"""A batch twice as large that is not this much faster fills the device no better."""

_TURNED = 1e-4
"""Share of labels that other tiles may turn in bfloat16."""


def windows(count: int, side: int) -> NDArray[np.float32]:
    """Return `count` normalised windows, (N, 1, side, side)."""
    return np.random.default_rng(0).standard_normal((count, 1, side, side)).astype(np.float32)


def fullest(job: Callable[[int], Any], kind: str, most: int) -> tuple[int, float]:
    """Return the batch with the most images a second, and how many; doubled while it pays."""
    best, rate, batch = 1, 0.0, 1
    while batch <= most:
        try:
            job(batch)  # kernels are chosen for each shape
            seconds = min(interleaved({"": lambda n=batch: job(n)}, 3, kind)[""])  # type: ignore[misc]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_memory(kind)
            break
        if batch / seconds > rate * _ENOUGH:
            best, rate = batch, batch / seconds
        elif batch >= 4 * best:  # twice in a row it did not pay
            break
        batch *= 2
    if not rate:
        raise InputError("not one window fits into the device's memory; take a smaller --side.")
    return best, rate


def throughput(runner: Runner, side: int, most: int) -> list[dict[str, Any]]:
    """Return images a second by level, with the share of the matrix rate and the memory."""
    kind = runner.device.kind
    peak = matrix_rate(runner.device.precision, kind)
    x, rows = windows(most, side), []
    for level in sorted(runner.card.levels_trained):

        def job(count: int, level: int = level) -> Any:
            return runner.probabilities(x[:count], level)

        batch, rate = fullest(job, kind, most)
        mib, _ = peak_mib(functools.partial(job, batch), kind)
        work = multiply_accumulates(runner.card.network, (side, side), level)
        rows.append({
            "level": level, "batch": batch, "images_per_second": rate,
            "share_of_matrix_rate": rate * work / peak, "peak_mib": mib,
        })  # fmt: skip
    return rows


def papers(runner: Runner, count: int, batch: int) -> list[dict[str, Any]]:
    """Return the time of `count` images of 96 x 96 at each level, relative to the deepest."""
    levels = sorted(runner.card.levels_trained)
    x = windows(batch, 96)

    def all_of(level: int) -> Callable[[], None]:
        def job() -> None:
            for start in range(0, count, batch):
                runner.probabilities(x[: min(batch, count - start)], level)

        return job

    for level in levels:
        runner.probabilities(x, level)
    jobs = {str(level): all_of(level) for level in levels}
    seconds = {k: min(v) for k, v in interleaved(jobs, 2, runner.device.kind).items()}
    deepest = seconds[str(levels[-1])]
    return [
        {"level": k, "seconds": seconds[str(k)], "of_deepest": seconds[str(k)] / deepest}
        for k in levels
    ]


def live(runner: Runner, side: int) -> dict[str, Any]:
    """Return when each level of one view is there, relative to the deepest at one go."""
    kind, x = runner.device.kind, windows(1, side)
    deepest = max(runner.card.levels_trained)

    def line() -> Iterator[tuple[int, float]]:
        settle(kind)
        start = time.perf_counter()
        for level, _ in runner.levels(x):
            yield level, time.perf_counter() - start

    dict(line())
    shots = interleaved({"": lambda: runner.probabilities(x, deepest)}, 4, kind)[""]
    found = dict(line())
    one_shot = min(shots[1:])
    return {
        "one_shot_ms": 1e3 * one_shot,
        "levels": {str(k): {"ms": 1e3 * s, "of_one_shot": s / one_shot} for k, s in found.items()},
    }


def tuning(device: Device, seconds: float) -> dict[str, Any]:
    """Fine-tune the bundled nuclei on an inverted phantom; return steps and IoU off the paint."""
    model, _ = model_for("nuclei")
    phantom = nuclei_2d((512, 512), count=60, seed=3)
    image = Image.from_array(phantom.image.max() - phantom.image, "YX")
    truth = (phantom.labels > 0).astype(np.uint8)
    painted = paint(truth, (0, 1), 10, 0)
    precision = "bfloat16" if device.precision == "bfloat16" else "float32"  # it knows no float16
    job = FineTuning(
        [Painted("phantom", image, Image.from_array(painted, "YX"))],
        grown_card(model.card, [c.name for c in model.card.classes]),
        model,
        Split(0),
        TuneConfig(max_seconds=seconds, device=device.kind, precision=precision),
    )
    events: list[Event] = []
    mib, _ = peak_mib(lambda: drain(job.run(), events.append), device.kind)
    result = job.result()
    rest = painted == 0

    def iou(network: Any) -> float:
        own = Runner(dataclasses.replace(model, network=network), device)
        sink = np.zeros(truth.shape, np.uint8)
        drain(predict(image, own, sink, level=max(own.card.levels_trained)))
        return float(
            ((sink == 1) & (truth == 1) & rest).sum() / (((sink | truth) == 1) & rest).sum()
        )

    return {
        "seconds": seconds, "precision": precision, "steps": result.steps,
        "base": iou(model.network),
        "tuned": iou(result.network), "base_kept": result.base_kept, "peak_mib": mib,
    }  # fmt: skip


def little_memory(runner: Runner, side: int) -> dict[str, Any] | None:
    """Run with a quarter of the memory that a tile wants; None where no GPU has a limit to set."""
    if runner.device.kind != "cuda":
        return None
    pattern = nuclei_pattern()
    times = -(-side // pattern.shape[0])
    image = Image.from_array(np.tile(pattern, (times, times))[:side, :side], "YX")
    level = max(runner.card.levels_trained)
    free, sink = np.zeros((2, side, side), np.uint8)
    used, _ = peak_mib(lambda: drain(predict(image, runner, free, level=level, tile=side)), "cuda")
    runner.release()
    free_memory("cuda")
    held = torch.cuda.memory_reserved() / 2**20
    whole = torch.cuda.get_device_properties(0).total_memory / 2**20
    torch.cuda.set_per_process_memory_fraction(min(1.0, (held + used / 4) / whole))
    try:
        ended = drain(predict(image, runner, sink, level=level, tile=side))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {
        "wanted_mib": used, "given_mib": used / 4, "device": ended.device,
        "notes": [note.message for note in ended.notes],
        "labels_different": int((free != sink).sum()),
        "pixels": side * side,
    }  # fmt: skip


def measure(args: Any) -> dict[str, Any]:
    """Measure all of it; return plain JSON values."""
    device = choose_device(args.device, args.precision)
    model, trained = model_for("nuclei")
    runner = Runner(model, device, "torch" if device.kind != "cpu" else "auto")
    sides = [int(side) for side in args.sides.split(",")]
    document: dict[str, Any] = {
        "machine": machine(device, set_threads(args.threads)),
        "date": date.today().isoformat(),
        "weights": "bundled" if trained else "fresh",
        "throughput": {str(side): throughput(runner, side, args.batch) for side in sides},
    }
    best = max(document["throughput"][str(sides[0])], key=lambda row: row["level"])["batch"]
    document["papers"] = {"images": args.images, "rows": papers(runner, args.images, best)}
    document["live"] = {"side": args.view, **live(runner, args.view)}
    document["tuning"] = tuning(device, args.seconds)
    document["little_memory"] = little_memory(runner, args.view * 2)  # last: it may leave the GPU
    return document


def report(found: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    parts = [f"{machine_line(found['machine'])}, {found['date']}, {found['weights']} weights"]
    for side, rows in found["throughput"].items():
        parts.append(f"**{side} x {side}**, at the batch that fills the device:")
        parts.append(markdown(
            ["level", "batch", "images/s", "share of the matrix rate", "peak MiB"],
            [[f"L{r['level']}", str(r["batch"]), f"{r['images_per_second']:.0f}",
              f"{r['share_of_matrix_rate']:.3f}", f"{r['peak_mib']:.0f}"] for r in rows],
        ))  # fmt: skip
    parts.append(f"**{found['papers']['images']} images of 96 x 96**, as in the papers:")
    parts.append(markdown(
        ["level", "seconds", "of the deepest"],
        [[f"L{r['level']}", f"{r['seconds']:.2f}", f"{r['of_deepest']:.3f}"]
         for r in found["papers"]["rows"]],
    ))  # fmt: skip
    view = found["live"]
    parts.append(f"**A view of {view['side']} x {view['side']}**, from kept nodes; "
                 f"one shot at the deepest level takes {view['one_shot_ms']:.0f} ms:")  # fmt: skip
    parts.append(markdown(
        ["level", "ms", "of one shot"],
        [[f"L{k}", f"{r['ms']:.0f}", f"{r['of_one_shot']:.3f}"] for k, r in view["levels"].items()],
    ))  # fmt: skip
    tuned = found["tuning"]
    parts.append(
        f"**Fine-tuning for {tuned['seconds']:g} s** in {tuned['precision']}: "
        f"{tuned['steps']} steps, IoU off the paint "
        f"{tuned['base']:.3f} before and {tuned['tuned']:.3f} after, {tuned['peak_mib']:.0f} MiB."
    )
    low = found["little_memory"]
    if low is None:
        parts.append("**A memory limit** was not tried: only a CUDA device has one to set.")
    else:
        parts.append(
            f"**A quarter of the memory** that a tile wants ({low['given_mib']:.0f} of "
            f"{low['wanted_mib']:.0f} MiB): ended on {low['device']} with "
            f"{low['labels_different']} labels different; {' '.join(low['notes']) or 'no note'}."
        )
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "threads", "device", "precision")
    parser.add_argument("--sides", default="96,512", help="of windows, default %(default)s")
    parser.add_argument("--batch", type=int, default=512, help="the largest tried")
    parser.add_argument("--images", type=int, default=10_000, help="of 96 x 96")
    parser.add_argument("--view", type=int, default=1024, help="side of the live view")
    parser.add_argument("--seconds", type=float, default=10.0, help="of fine-tuning")
    parser.add_argument("--quick", action="store_true", help="small, in less than a minute")
    args = parser.parse_args(argv)
    if args.quick:
        args.sides, args.batch, args.images = "96", min(args.batch, 4), min(args.images, 16)
        args.view, args.seconds = min(args.view, 128), min(args.seconds, 2.0)

    def verdict(found: dict[str, Any]) -> int:
        low = found["little_memory"]
        return int(low is not None and low["labels_different"] > _TURNED * low["pixels"])

    return tell(args, lambda: measure(args), report, verdict)


if __name__ == "__main__":
    sys.exit(main())
