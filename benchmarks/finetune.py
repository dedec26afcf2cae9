"""Fine-tuning from simulated strokes: base, forest and ours at L1 and L4, by foreground IoU.

Strokes are drawn from the truth like a person would: thin lines inside objects and in the
background, with a fixed seed. Scored are the pixels that were not painted, and a second image
of the same kind that was never seen. Images lie in a folder beside the checkout, see
``sample_data/README.md``. Run with ``--help`` for the options.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import markdown
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import Model, load_model
from napari_unetpp.core.run.source import Source
from napari_unetpp.core.run.spaces import space_for
from napari_unetpp.core.run.tiling import Tile
from napari_unetpp.core.tune.disagreement import disagreement, uncertainty
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.scoring import decide, head_probabilities
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.start import grown_card, scratch_card
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.teacher import features
from napari_unetpp.core.tune.tune import FineTuning

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = {
    "em": (DATA / "em", "03.tif", "20.tif"),
    "em2": (DATA / "em", "12.tif", "25.tif"),
    "nuclei": (DATA / "nuclei", "00ae65c1c6631ae6.tif", "01d44a26f6680c42.tif"),
}


def walk(mask: NDArray[np.bool_], length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw one line inside a mask: go on as straight as the mask allows."""
    places = np.argwhere(mask)
    y, x = (float(v) for v in places[rng.integers(len(places))])
    heading = rng.uniform(0, 2 * np.pi)
    path = [(round(y), round(x))]
    for _ in range(length):
        for turn in (*sorted(rng.normal(0, 0.15, 3), key=abs), 0.5, -0.5, 1.0, -1.0):
            ny, nx = y + np.sin(heading + turn), x + np.cos(heading + turn)
            row_at, column_at = round(ny), round(nx)
            if (
                0 <= row_at < mask.shape[0]
                and 0 <= column_at < mask.shape[1]
                and mask[row_at, column_at]
            ):
                y, x, heading = ny, nx, heading + turn
                path.append((row_at, column_at))
                break
        else:
            break
    return path


def strokes(truth: NDArray[Any], count: int, seed: int, length: int = 60) -> NDArray[np.uint8]:
    """Return painted labels with `count` strokes, half of them background."""
    rng = np.random.default_rng(seed)
    painted = np.zeros(truth.shape, np.uint8)
    values = [int(v) for v in np.unique(truth)]
    for k in range(count):
        value = values[k % len(values)]
        best: list[tuple[int, int]] = []
        for _ in range(12):  # a person does not paint specks
            path = walk((truth == value) & (painted == 0), length, rng)
            best = max(best, path, key=len)
        for y, x in best:
            near = (slice(max(y - 1, 0), y + 1), slice(max(x - 1, 0), x + 1))
            painted[near] = np.where(truth[near] == value, value + 1, painted[near])
    return painted


def iou(answer: NDArray[Any], truth: NDArray[Any], where: NDArray[np.bool_]) -> float:
    """Return the mean foreground IoU over the classes of the truth."""
    found = []
    for value in (v for v in np.unique(truth) if v):
        one, other = (answer == value) & where, (truth == value) & where
        found.append(float((one & other).sum() / (one | other).sum()))
    return float(np.mean(found))


def normalised(image: Image, model_card: Any) -> NDArray[np.float32]:
    source = Source(image, model_card)
    normalisers, _ = source.fit()
    whole = tuple(slice(0, n) for n in source.shape)
    space = space_for(source)
    return space.load(source.parts[0], Tile(whole, whole), normalisers)[0]


def measure(args: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    folder, first, second = SETS[name]
    images = [read_image(folder / "images" / f) for f in (first, second)]
    truths = [np.asarray(read_labels(folder / "masks" / f).data) for f in (first, second)]
    truths = [(t > 0).astype(np.uint8) for t in truths]
    painted = strokes(truths[0], args.strokes, args.seed)
    scored_where = [painted == 0, np.ones(truths[1].shape, bool)]
    base: Model | None = None if args.base == "scratch" else load_model(args.base)
    names = ["interior"]
    card = (
        scratch_card("scratch", names, "YX", 1)
        if base is None
        else grown_card(base.card, [c.name for c in base.card.classes])
    )
    xs = [normalised(image, card) for image in images]

    def row(
        method: str, answers: list[NDArray[Any]], seconds: float, **more: Any
    ) -> dict[str, Any]:
        figures = [iou(a, t, w) for a, t, w in zip(answers, truths, scored_where, strict=True)]
        return {"set": name, "method": method, "rest": figures[0], "other": figures[1],
                "seconds": seconds, **more}  # fmt: skip

    rows = []
    if base is not None:
        heads = [head_probabilities(base.network, x) for x in xs]
        rows += [row(f"base L{k}", [decide(h[k], card) for h in heads], 0.0) for k in (1, 4)]
    from sklearn.ensemble import RandomForestClassifier

    start = time.monotonic()
    sets = [features(x) for x in xs]
    forest = RandomForestClassifier(60, n_jobs=1, random_state=0)
    forest.fit(sets[0][painted > 0], painted[painted > 0])
    answers = [forest.predict(f.reshape(-1, f.shape[-1])).reshape(f.shape[:-1]) - 1 for f in sets]
    rows.append(row("forest, all strokes", answers, time.monotonic() - start))
    for seconds in args.seconds:
        budget = f"{args.steps} steps" if args.steps else f"{seconds:g} s"
        config = TuneConfig(
            max_seconds=3600.0 if args.steps else seconds,
            steps=args.steps,
            learning_rate=args.rate,
            seed=args.seed,
            precision=args.precision,
            teacher=args.teacher,
        )
        pair = Painted(name, images[0], Image.from_array(painted, "YX"))
        job = FineTuning([pair], card, base, Split(args.seed), config)
        result = drain(job.run(), None if args.quiet else print)
        heads = [head_probabilities(result.network, x) for x in xs]
        rows += [
            row(
                f"ours {budget} L{k}",
                [decide(h[k], card) for h in heads],
                result.seconds,
                steps=result.steps,
                best_step=result.best_step,
                teacher=result.teacher.name,
                held_out=None if result.after is None else result.after.iou[k],
            )
            for k in (1, 2, 3, 4)
        ]
    share = 100 * float((painted > 0).mean())
    print(f"{name}: {share:.2f} % painted", file=sys.stderr)
    return rows


def ranking(name: str, base_name: str, limit: int) -> list[list[str]]:
    """Say how well disagreement and the entropy of L4 rank the true errors of L4.

    The figure is the area under the ROC curve over 16 x 16 blocks, wrong or not by whether
    more than a tenth of a block is; 0.5 is chance.
    """
    from sklearn.metrics import roc_auc_score

    base = load_model(base_name)
    folder = SETS[name][0]
    if name == "nuclei":
        held_out = base.card.split.rpartition("held out: ")[2].rstrip(".").split(", ")
        files = [f"{stem}.tif" for stem in held_out[:limit]]
    else:
        files = sorted(p.name for p in (folder / "images").iterdir())[:: 27 // limit][:limit]
    wrong = []
    names = ("disagreement", "entropy of L4", "entropy of the heads' mean")
    scores: dict[str, list[NDArray[np.float32]]] = {n: [] for n in names}
    for file in files:
        x = normalised(read_image(folder / "images" / file), base.card)
        truth = np.asarray(read_labels(folder / "masks" / file).data) > 0
        heads = head_probabilities(base.network, x)
        classes = {k: h[base.card.class_channels] for k, h in heads.items()}
        error = (decide(heads[4], base.card) > 0) != truth
        wrong.append(_blocks(error.astype(np.float32)) > 0.1)
        scores["disagreement"].append(_blocks(disagreement(list(classes.values()))))
        scores["entropy of L4"].append(_blocks(_entropy(classes[4])))
        scores["entropy of the heads' mean"].append(_blocks(uncertainty(list(classes.values()))))
    y = np.concatenate(wrong)
    return [
        [name, f"{len(files)} images", method, f"{roc_auc_score(y, np.concatenate(rows)):.3f}",
         f"{y.mean():.2f}"] for method, rows in scores.items()
    ]  # fmt: skip


def _entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    p = probabilities.clip(1e-6, 1 - 1e-6)
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)).sum(axis=0))


def _blocks(values: NDArray[np.float32], side: int = 16) -> NDArray[np.float32]:
    height, width = (n // side * side for n in values.shape)
    blocks = values[:height, :width].reshape(height // side, side, width // side, side)
    return np.asarray(blocks.mean(axis=(1, 3)).ravel())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sets", default="em", help=f"of {', '.join(SETS)}")
    parser.add_argument("--base", default="nuclei", help="bundled model, file or scratch")
    parser.add_argument("--strokes", type=int, default=10)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0])
    parser.add_argument("--steps", type=int, help="most steps, in place of the clock")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--teacher", default="auto")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--disagreement", action="store_true", help="how well the maps rank true errors, instead"
    )
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.disagreement:
        cells = [row for name in args.sets.split(",") for row in ranking(name, args.base, 9)]
        print(markdown(["set", "images", "map", "ROC area", "share of wrong blocks"], cells))
        return 0
    rows = [row for name in args.sets.split(",") for row in measure(args, name)]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    header = ["set", "method", "rest", "other", "seconds", "steps", "best", "teacher", "held out"]
    keys = [*header[:6], "best_step", "teacher", "held_out"]
    cells = [
        [f"{v:.3f}" if isinstance(v := row.get(k, ""), float) else str(v) for k in keys]
        for row in rows
    ]
    print(markdown(header, cells))
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    print(f"\nload of the machine while measuring: {load} on {os.cpu_count()} cores", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
