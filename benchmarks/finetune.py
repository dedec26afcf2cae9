"""Fine-tuning from simulated strokes against the base, a forest, and dense labels.

For every case, number of strokes and budget: foreground IoU on what was not painted of the
painted image, and on another image of its kind, for the base, for a random forest on
scikit-image's multi-scale features with the same strokes, for ours at each level, for our
network from scratch, and for the base trained on the dense labels of the painted image. Images lie
in a folder beside the checkout, see ``sample_data/README.md``. Run with ``--help``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune_cases import CASES, DATA, Case, case
from measure import markdown
from numpy.typing import NDArray
from painter import paint

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import Validated, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.tune import FineTuning

Labels = NDArray[Any]
LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Figures:
    """Mean foreground IoU of the painted classes, and of the classes that were left alone."""

    rest: float
    other: float
    kept: float | None


@dataclass(frozen=True, eq=False)
class Trial:
    """A case with paint on it."""

    case: Case
    images: tuple[Image, Image]
    truths: tuple[Labels, Labels]
    painted: Labels

    @classmethod
    def of(cls, found: Case, count: int, seed: int) -> Trial:
        """Paint `count` strokes."""
        names = (found.painted, found.other)
        truths = tuple(found.labels(n) for n in names)
        painted = paint(truths[0], found.values, count, seed, found.around(truths[0]))
        return cls(found, tuple(found.image(n) for n in names), truths, painted)  # type: ignore[arg-type]

    def figures(self, answers: Sequence[Labels]) -> Figures:
        """Score answers for both images."""
        free = (self.painted == 0, np.ones(self.truths[1].shape, bool))
        shown = [v for v in self.case.values if v]
        rows = [
            np.mean([iou(a, t, w, v) for v in shown])
            for a, t, w in zip(answers, self.truths, free, strict=True)
        ]
        left = sorted({*np.unique(self.truths[1]).tolist()} - {0, *shown})
        kept = [iou(answers[1], self.truths[1], free[1], v) for v in left]
        return Figures(float(rows[0]), float(rows[1]), float(np.mean(kept)) if kept else None)


def iou(answer: Labels, truth: Labels, where: NDArray[np.bool_], value: int) -> float:
    """Return the IoU of one class."""
    one, other = (answer == value) & where, (truth == value) & where
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0


def labels_of(
    network: NestedUNet, card: ModelCard, image: Image, level: int, shape: tuple[int, ...]
) -> Labels:
    """Segment an image as a user would."""
    runner = Runner(Model(card, network, Path("tuned"), ""), choose_device("cpu", "auto"))
    sink = np.zeros(shape, np.uint8)
    drain(predict(image, runner, sink, level=level))
    return sink


def by_level(trial: Trial, network: NestedUNet, card: ModelCard) -> dict[int, Figures]:
    """Score every level of a network."""
    return {
        k: trial.figures(
            [
                labels_of(network, card, image, k, truth.shape)
                for image, truth in zip(trial.images, trial.truths, strict=True)
            ]
        )
        for k in LEVELS
    }


def forest(trial: Trial) -> tuple[Figures, float]:
    """Do what people do today: scikit-image's features and scikit-learn's forest."""
    from skimage.feature import multiscale_basic_features
    from sklearn.ensemble import RandomForestClassifier

    start = time.monotonic()
    answers: list[Labels] = []
    model = RandomForestClassifier(60, n_jobs=2, random_state=0)
    for number, image in enumerate(trial.images):
        values = np.asarray(image.data, np.float32)
        low, high = np.percentile(values, (1, 99.8))  # images of a kind may differ in brightness
        values = (values - low) / (high - low)
        channel = -1 if "S" in image.axes else None
        found = multiscale_basic_features(values, sigma_min=1, sigma_max=16, channel_axis=channel)
        if not number:
            model.fit(found[trial.painted > 0], trial.painted[trial.painted > 0])
        flat = found.reshape(-1, found.shape[-1])
        pieces = [model.predict(piece) for piece in np.array_split(flat, len(flat) // 10**6 + 1)]
        answers.append(np.concatenate(pieces).reshape(found.shape[:-1]) - 1)
    return trial.figures(answers), time.monotonic() - start


def ours(
    trial: Trial, args: argparse.Namespace, seconds: float, *, scratch: bool, dense: bool = False
) -> list[dict[str, Any]]:
    """Fine-tune and score; with ``--trace`` the state at every scoring too."""
    base = None if scratch else trial.case.base_model()
    card = trial.case.card(base)
    painted = trial.truths[0] if dense else trial.painted
    axes = "ZYX"[-painted.ndim :]
    pair = Painted("painted", trial.images[0], Image.from_array(painted, axes), dense=dense)
    config = TuneConfig(
        max_seconds=3600.0 if args.steps else seconds,
        steps=args.steps,
        seed=args.seed,
        precision=args.precision,
        teacher="none" if dense else args.teacher,
        learning_rate=args.rate,
        body="random" if scratch else "bundled",
    )
    tuning = FineTuning([pair], card, base, Split(args.seed), config)
    for event in (events := tuning.run()):
        if args.trace and isinstance(event, Validated):
            found = by_level(trial, tuning.state, card)
            means = {k: round(float(v["iou_strokes"]), 3) for k, v in event.scores.items()}
            rest = " ".join(f"{found[k].rest:.3f}/{found[k].other:.3f}" for k in LEVELS)
            print(f"  step {event.step} {'best' if event.best else '    '} {rest} held out {means}",
                  tuning.seconds, flush=True)  # fmt: skip
    events.close()
    result = tuning.result()
    alone = scratch and trial.case.base is not None
    method = "dense labels" if dense else ("scratch" if alone else "ours")
    more = {
        "steps": result.steps, "best_step": result.best_step, "teacher": result.teacher.name,
        "budget": args.steps or seconds, "base_kept": result.base_kept,
    }  # fmt: skip
    return [
        row(method, k, found, result.seconds, more)
        | {"held_out": None if result.after is None else result.after.iou[k]}
        for k, found in by_level(trial, result.network, card).items()
    ]


def row(
    method: str, level: int | None, found: Figures, seconds: float, more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return one line of the table."""
    return {"method": method, "level": level, **vars(found), "seconds": seconds, **more}


def named(method: str, budget: float | None) -> str:
    """Return a method with its budget, for those that have one of the budgets asked for."""
    return f"{method} {budget:g}" if method in ("ours", "scratch") else method


def measure(args: argparse.Namespace, name: str, count: int, methods: set[str]) -> list[Any]:
    """Measure one case with one number of strokes."""
    trial = Trial.of(case(name), count, args.seed)
    lead = {"case": name, "strokes": count, "seed": args.seed,
            "painted": float((trial.painted > 0).mean())}  # fmt: skip
    base, rows = trial.case.base_model(), []
    if base is not None and "base" in methods:
        found = by_level(trial, base.network, base.card)
        rows += [row("base", k, figures, 0.0, {}) for k, figures in found.items()]
    if "forest" in methods:
        figures, seconds = forest(trial)
        rows.append(row("forest", None, figures, seconds, {}))
    for budget in args.seconds:
        if f"ours {budget:g}" in methods:
            rows += ours(trial, args, budget, scratch=base is None)
        if f"scratch {budget:g}" in methods and base is not None:
            rows += ours(trial, args, budget, scratch=True)
    if "dense" in methods:
        rows += ours(trial, args, args.dense_seconds, scratch=base is None, dense=True)
    return [lead | one for one in rows]


def closed(rows: Sequence[Mapping[str, Any]], one: Mapping[str, Any], key: str) -> float | None:
    """Return how much of the gap between the base and dense labels a row closes, at L4."""
    of_case = [r for r in rows if r["case"] == one["case"] and r["level"] == 4]
    top = [r[key] for r in of_case if r["method"] == "dense labels"]
    low = [r[key] for r in of_case if r["method"] == "base"] or [0.0]
    if one["method"] not in ("ours", "scratch") or one["level"] != 4 or not top:
        return None
    gap = float(np.mean(top)) - low[0]
    return (one[key] - low[0]) / gap if gap > 0.02 else None


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table."""
    header = ["case", "strokes", "method", "budget", "rest", "other", "kept", "gap closed, rest",
              "gap closed, other", "steps", "best", "teacher", "held out"]  # fmt: skip
    cells = []
    for one in rows:
        level = "" if one["level"] is None else f" L{one['level']}"
        shares = [closed(rows, one, key) for key in ("rest", "other")]
        cells.append([
            one["case"], str(one["strokes"]), one["method"] + level, str(one.get("budget", "")),
            *(_figure(one.get(k)) for k in ("rest", "other", "kept")),
            *("" if s is None else f"{100 * s:.0f} %" for s in shares),
            str(one.get("steps", "")), str(one.get("best_step", "")), one.get("teacher", ""),
            _figure(one.get("held_out")),
        ])  # fmt: skip
    return markdown(header, cells)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", nargs="+", default=[*CASES], choices=[*CASES])
    parser.add_argument("--strokes", type=int, nargs="+", default=[10])
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0])
    parser.add_argument("--methods", nargs="+", default=["base", "forest", "ours"],
                        help="of base, forest, ours, scratch, dense")  # fmt: skip
    parser.add_argument("--dense-seconds", type=float, default=120.0)
    parser.add_argument("--steps", type=int, help="most steps, in place of the clock")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--teacher", default="auto")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--rate", type=float)
    parser.add_argument("--trace", action="store_true", help="score every state on the truth")
    parser.add_argument("--out", type=Path, help="rows are kept here; those there are not redone")
    args = parser.parse_args(argv)
    if not DATA.is_dir():
        parser.error("the images are missing: expected the folder shared/data beside the checkout.")
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    if args.out is not None and args.out.exists():
        rows = json.loads(args.out.read_text())
    for name in args.cases:
        for count in args.strokes:
            there = {
                named(r["method"].partition(" ")[0], r.get("budget"))
                for r in rows
                if (r["case"], r["strokes"], r["seed"]) == (name, count, args.seed)
            }
            wanted = {named(method, s) for method in args.methods for s in args.seconds}
            new = measure(args, name, count, wanted - there)
            rows += new
            if args.out is not None:
                args.out.write_text(json.dumps(rows, indent=1))
            print(table(new), flush=True)
    if args.out is not None:
        print(table(rows))
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    print(f"\nload of the machine at the end: {load} on {os.cpu_count()} cores", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
