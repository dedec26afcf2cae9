"""Training beside the plain eager float32 loop: images per second, part by part, and scores.

The plain loop is what everyone writes first: the same network, loss, batches and clipping in
float32, contiguous, a batch made when it is needed. Ours is `core.train.training.train`, as the
command line calls it. Between them every part alone, added to the plain loop. Images lie in a
folder beside the checkout, see ``sample_data/README.md``. Run with ``--help``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measure import CARDS, Spread, machine, machine_line, markdown, set_threads
from plain_loop import Loop, Parts
from script import parser_of, tell

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import AugmentConfig, Augmenter
from napari_unetpp.core.data.labels import LabelRule
from napari_unetpp.core.data.pairs import find_pairs
from napari_unetpp.core.data.sampling import PatchSampler
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, StepDone, drain
from napari_unetpp.core.run.device import Device, choose_device
from napari_unetpp.core.train.prepare import TrainingSet, prepare
from napari_unetpp.core.train.settings import TrainConfig
from napari_unetpp.core.train.training import TrainResult, train
from napari_unetpp.core.train.validation import validate

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
NEVER = 10**9


@dataclass(frozen=True)
class Case:
    """What is trained: images of a folder, and how patches are drawn from them."""

    folder: str
    card: ModelCard
    rule: LabelRule
    config: TrainConfig
    images: int


CASES = {
    "nuclei": Case(
        "nuclei",
        CARDS["nuclei"],
        LabelRule("instances", dense=True),
        TrainConfig(augment=AugmentConfig(scale=0.45)),
        24,
    ),
    "ct-head-neck": Case(
        "ct_head_neck",
        CARDS["ct-head-neck"],
        LabelRule("classes", dense=True),
        TrainConfig(
            batch=2,
            patch=(48, 64, 64),
            foreground=0.8,
            augment=AugmentConfig.volumes(oriented=True),
        ),
        3,
    ),
}


def parts_of(native: bool, compiled: bool) -> dict[str, Parts]:
    """Return the loops that are compared, the plain one first."""
    both = Parts(last=True, bfloat16=native)
    found = {
        "plain": Parts(),
        "next batch in a thread": Parts(ahead=True),
        "fused AdamW": Parts(fused=True),
        "channels last": Parts(last=True),
    }
    if native:
        found |= {
            "bfloat16": Parts(bfloat16=True),
            "bfloat16, channels last": both,
            "the same with PyTorch's own joining": replace(both, joining=False),
        }
    if compiled:
        found["the fastest, compiled"] = replace(both, compiled=True)
    return found


class Ours:
    """The public path, some steps at a time."""

    def __init__(self, found: TrainingSet, case: Case, config: TrainConfig, folder: Path) -> None:
        long = replace(config, steps=NEVER, validate_every=NEVER, checkpoint_seconds=NEVER)
        self.events: Generator[Event, None, TrainResult] = train(
            found.training, [], case.card, long, folder
        )

    def run(self, steps: int) -> None:
        """Train for a number of steps."""
        for event in self.events:
            steps -= isinstance(event, StepDone)
            if steps <= 0:
                return

    def close(self) -> None:
        """End the training."""
        self.events.close()


def prepared(args: argparse.Namespace, case: Case, cache: Path) -> TrainingSet:
    """Read some images of the case, evenly spread over its folder.

    Raises
    ------
    InputError
        If the folder is missing.
    """
    folder = args.data / case.folder
    if not (folder / "images").is_dir():
        raise InputError(
            f"the images of this benchmark were expected in {folder / 'images'}; see "
            "sample_data/README.md, or give their folder with --data."
        )
    pairs = find_pairs(folder / "images", folder / "masks")
    count = min(args.images or case.images, len(pairs))
    chosen = [pairs[k * len(pairs) // count] for k in range(count)]
    return drain(prepare(chosen, case.card, case.rule, cache, share=args.held_out))


def sampler_of(found: TrainingSet, case: Case, config: TrainConfig) -> PatchSampler:
    """Return the sampler that `train` makes for these settings."""
    return PatchSampler(
        found.training,
        case.card,
        Augmenter(config.augment, config.patch),
        batch=config.batch,
        margin=config.augment.margin(case.card.network.ndim),
        foreground=config.foreground,
        seed=config.seed,
    )


def speed(args: argparse.Namespace, name: str, device: Device, folder: Path) -> dict[str, Any]:
    """Time every loop in turn; wall clock, and processor time over all threads."""
    case = CASES[name]
    found = prepared(args, case, folder / f"{name} cache")
    config = replace(case.config, device=device.kind, precision=trained_in(device), steps=NEVER)
    sampler = sampler_of(found, case, config)
    loops: dict[str, Loop | Ours] = {}
    native = config.precision == "bfloat16"
    wanted = set(args.loops.split(";")) | {"plain"} if args.loops else None
    for label, parts in parts_of(native, args.compile).items():
        if wanted is None or label in wanted:
            loops[label] = Loop(sampler, config, parts)
    if wanted is None or "ours" in wanted:
        loops["ours"] = Ours(found, case, config, folder / f"{name} run")
    wall: dict[str, list[float]] = {label: [] for label in loops}
    cpu: dict[str, list[float]] = {label: [] for label in loops}
    try:
        for label, loop in loops.items():
            print(f"{name}: warming up {label} ...", file=sys.stderr, flush=True)
            loop.run(1)
        for number in range(args.repeats):
            for label in list(loops)[:: -1 if number % 2 else 1]:
                time.sleep(args.pause)  # what an earlier loop makes ahead is not this one's work
                start = time.perf_counter(), time.process_time()
                loops[label].run(args.steps)
                wall[label].append(time.perf_counter() - start[0])
                cpu[label].append(time.process_time() - start[1])
            print(f"{name}: round {number + 1} of {args.repeats}", file=sys.stderr, flush=True)
    finally:
        for loop in loops.values():
            loop.close()
    images = args.steps * config.batch
    return {
        "batch": config.batch,
        "patch": list(config.patch),
        "loops": {
            label: {
                "images_per_second": Spread.of([images / s for s in wall[label]]).to_json(),
                "faster": faster(wall, label).to_json(),
                "less_processor_time": faster(cpu, label).to_json(),
            }
            for label in loops
        },
    }


def faster(seconds: Mapping[str, Sequence[float]], label: str) -> Spread:
    """Return how many times the plain loop's speed this one has, within each round."""
    return Spread.of([p / s for p, s in zip(seconds["plain"], seconds[label], strict=True)])


def trained_in(device: Device) -> str:
    """Return the precision that the command line trains in on a device."""
    return "float32" if device.precision == "float32" else "bfloat16"


def scores(args: argparse.Namespace, device: Device, folder: Path) -> dict[str, Any]:
    """Train a small network both ways from several seeds; foreground IoU of held-out images."""
    case = CASES["nuclei"]
    network = replace(case.card.network, filters=(8, 16, 32, 64, 128))
    case = replace(case, card=case.card.replace(network=network))
    found = prepared(args, case, folder / "scores cache")
    rows: dict[str, list[dict[int, float]]] = {"plain": [], "ours": []}
    for seed in range(args.seeds):
        config = replace(
            case.config, steps=args.score_steps, seed=seed, batch=4, patch=(64, 64),
            validate_every=NEVER, device=device.kind, precision=trained_in(device),
        )  # fmt: skip
        loop = Loop(sampler_of(found, case, config), config, Parts())
        loop.run(config.steps)
        loop.close()
        result = drain(train(found.training, [], case.card, config, folder / f"seed {seed}"))
        # Both are scored in float32, after the last step.
        for label, trained in (("plain", loop.network), ("ours", result.network)):
            found_scores = validate(trained, found.held_out, case.card)
            rows[label].append({k: v["iou_per_image"] for k, v in found_scores.items()})
            print(f"seed {seed}, {label}: {rows[label][-1]}", file=sys.stderr, flush=True)
    return {
        "steps": args.score_steps,
        "seeds": args.seeds,
        "held_out": len(found.held_out),
        "iou": {
            label: {
                level: {
                    "mean": statistics.fmean(values),
                    "deviation": statistics.stdev(values) if len(values) > 1 else math.nan,
                }
                for level in network.head_levels
                for values in [[row[level] for row in found_rows]]
            }
            for label, found_rows in rows.items()
        },
    }


def report(document: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [machine_line(document["machine"])]
    for name, one in document["speed"].items():
        size = "x".join(map(str, one["patch"]))
        rows = []
        for label, row in one["loops"].items():
            spreads = [Spread(**row[k]) for k in ("faster", "less_processor_time")]
            rate = f"{row['images_per_second']['median']:.2f}"
            rows.append([label, rate, *map(str, spreads)])
        header = ["loop", "images/s", "times the plain speed", "times less processor time"]
        title = f"**{name}**, batches of {one['batch']} patches of {size}"
        lines += ["", title, "", markdown(header, rows)]
    if scored := document["scores"]:
        levels = list(scored["iou"]["plain"])
        rows = [
            [label, *(f"{by[k]['mean']:.3f} ± {by[k]['deviation']:.3f}" for k in levels)]
            for label, by in scored["iou"].items()
        ]
        title = (
            f"IoU per image of {scored['held_out']} held-out images after {scored['steps']} "
            f"steps, mean and standard deviation of {scored['seeds']} seeds"
        )
        lines += ["", title, "", markdown(["loop", *(f"L{k}" for k in levels)], rows)]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = parser_of(__doc__, "threads", "device")
    parser.add_argument("--networks", default=",".join(CASES), help="default %(default)s")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the images")
    parser.add_argument("--images", type=int, help="images of each case; default 24 and 3")
    parser.add_argument("--held-out", type=float, default=0.34, help="share; default %(default)s")
    parser.add_argument("--steps", type=int, default=3, help="steps a round; default %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; default %(default)s")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between two loops")
    parser.add_argument("--loops", metavar="A;B", help="only these beside the plain one")
    parser.add_argument("--compile", action="store_true", help="torch.compile too: takes minutes")
    parser.add_argument("--seeds", type=int, default=0, help="seeds to compare scores with")
    parser.add_argument("--score-steps", type=int, default=150, help="default %(default)s")
    parser.add_argument("--quick", action="store_true", help="2D only, one round of one step")
    args = parser.parse_args(argv)
    names = [n.strip() for n in args.networks.split(",") if n.strip()]
    if args.quick:
        names, args.steps, args.repeats, args.images = names[:1], 1, 1, args.images or 4

    def found() -> dict[str, Any]:
        for name in names:
            if name not in CASES:
                raise InputError(f"a network is one of {', '.join(CASES)}, got {name!r}.")
        device = choose_device(args.device)
        document: dict[str, Any] = {"machine": machine(device, set_threads(args.threads))}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            document["speed"] = {n: speed(args, n, device, Path(folder)) for n in names}
            document["scores"] = scores(args, device, Path(folder)) if args.seeds else None
        return document

    return tell(args, found, report)


if __name__ == "__main__":
    sys.exit(main())
