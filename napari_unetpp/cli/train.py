"""``train``: folders of images and labels in, a model file with its measured scores out."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli import options
from napari_unetpp.cli.common import Progress, figure_of, print_json, table, tell
from napari_unetpp.core.config import (
    PAPER_FILTERS,
    ClassInfo,
    InstanceRule,
    ModelCard,
    NetworkConfig,
    Normalisation,
    class_colour,
)
from napari_unetpp.core.data.pairs import find_pairs
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Validated, drain

if TYPE_CHECKING:
    from napari_unetpp.core.train.fit import FitJob, FitReport
    from napari_unetpp.core.train.settings import TrainConfig

LIGHT_FILTERS = (16, 32, 64, 128, 256)
"""Half the paper's filters: a quarter of its operations, for machines without a GPU."""

DEFAULT_PATCH = {2: (128, 128), 3: (48, 64, 64)}
DEFAULT_BATCH = {2: 8, 3: 2}


def _numbers(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas, got {text!r}; give for example 16,32,64,128,256."
        )
    return values


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected numbers with commas, got {text!r}; give for example 1,1,1,1."
        ) from error


def _window(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(
            f"expected two intensities LOW,HIGH, got {text!r}; give for example -300,500."
        )
    return low, high


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}.")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(
            f"expected a share from 0 and below 1, got {text!r}; 0.2 is usual."
        )
    return value


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "train",
        description="Train a UNet++ whose four levels all work. Files are paired by name. Labels "
        "are paint unless --dense is given: 0 unlabelled, 1 background, 2 and more classes (or "
        "objects). A run that was killed goes on when the same command is given again.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--images", required=True, metavar="DIR", help="folder of images")
    data.add_argument("--labels", required=True, metavar="DIR", help="folder of labels")
    data.add_argument(
        "--labels-are",
        choices=("classes", "instances"),
        default="classes",
        help="what values mean; instances also trains what separates touching objects",
    )
    data.add_argument(
        "--dense", action="store_true", help="labels are complete: 0 is background, not unlabelled"
    )
    data.add_argument(
        "--classes",
        metavar="A,B,...",
        help="names of the classes in order; found by counting if left out",
    )
    data.add_argument(
        "--table",
        metavar="CSV",
        help="columns name, and any of split (train or held-out), classes (annotated ones, with "
        "semicolons; others are unknown in that image) and weight",
    )
    data.add_argument(
        "--held-out", type=_share, default=0.2, help="share of images to score on; default 0.2"
    )
    data.add_argument("--channel", type=options.count_from(0, 1), help="channel of the images")
    data.add_argument(
        "--in-channels",
        type=options.count_from(1, 2),
        default=1,
        metavar="N",
        help="channels that the model takes; more than 1 takes all channels of the images",
    )
    model = parser.add_argument_group("model")
    model.add_argument("--out", required=True, metavar="FILE", help="model file, .safetensors")
    model.add_argument("--name", help="name of the model; that of the file if left out")
    model.add_argument("--axes", choices=("YX", "ZYX"), default="YX", help="2D or 3D; default YX")
    model.add_argument(
        "--topology", choices=("unet++", "unet+", "unet-e", "unet"), default="unet++"
    )
    model.add_argument(
        "--filters",
        type=_numbers,
        default=LIGHT_FILTERS,
        metavar="N,N,...",
        help=f"filters by level; default {','.join(map(str, LIGHT_FILTERS))}, the papers' are "
        f"{','.join(map(str, PAPER_FILTERS))}",
    )
    model.add_argument("--norm", choices=("batch", "instance", "none"), default="batch")
    model.add_argument("--dropout", type=_share, default=0.0)
    model.add_argument("--softmax", action="store_true", help="softmax heads instead of sigmoids")
    model.add_argument(
        "--spacing", type=options.spacing, help="pixel size to work at, for example 3,4,4"
    )
    model.add_argument("--spacing-unit", choices=("mm", "µm", "nm"), default="mm")
    model.add_argument("--orientation", help="of the model's grid, for example SPL")
    model.add_argument(
        "--window", type=_window, metavar="LOW,HIGH", help="fixed intensities (HU) instead of "
        "percentiles of each image"
    )  # fmt: skip
    for field in ("data", "licence", "citation", "description"):
        model.add_argument(f"--{field}", default="", help="text for the model's card")
    how = parser.add_argument_group("training")
    how.add_argument("--steps", type=options.count_from(1, 3000), default=3000)
    how.add_argument("--max-seconds", type=_positive, help="time budget")
    how.add_argument("--batch", type=options.count_from(1, 8), help="patches a step")
    how.add_argument("--patch", type=_numbers, metavar="N,N", help="patch size")
    how.add_argument("--learning-rate", type=_positive, default=2e-3)
    how.add_argument("--loss", choices=("cross-entropy+dice", "eq2"), default="cross-entropy+dice")
    how.add_argument(
        "--head-weights", type=_weights, metavar="W,W,...", help="weight of each head's loss; all 1"
    )
    how.add_argument("--validate-every", type=options.count_from(1, 250), default=250)
    how.add_argument(
        "--patience",
        type=options.count_from(0, 12),
        default=12,
        help="stop after so many scorings without a better one; 0 never",
    )
    how.add_argument("--no-flip", action="store_true", help="left is not right in these images")
    how.add_argument("--seed", type=options.count_from(0, 1), default=0)
    how.add_argument(
        "--run-dir", metavar="DIR", help="cache, checkpoint, history.csv, curve.png; default "
        "beside the model, with the ending .run"
    )  # fmt: skip
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and print the scores or JSON."""
    from napari_unetpp.core.train.fit import fit

    job = _job(args)
    if not args.json:
        tell(f"{len(job.pairs)} images; progress and curve in {job.folder}")

    def listen(event: Event) -> None:
        progress(event)
        if isinstance(event, Validated) and event.scores:
            levels = "  ".join(
                f"L{k} {v['dice_per_image']:.3f}" for k, v in sorted(event.scores.items())
            )
            tell(f"step {event.step}: Dice {levels}{'  best' if event.best else ''}")

    with Progress("train", quiet=args.json, unit="step") as progress:
        report = drain(fit(job), listen)
    if args.json:
        print_json(report.to_json())
    else:
        print(_text(report))
    return 0


def _job(args: argparse.Namespace) -> FitJob:
    """Turn arguments into a job; whatever is wrong with them shows here."""
    from napari_unetpp.core.data.labels import LabelRule
    from napari_unetpp.core.train.fit import FitJob
    from napari_unetpp.core.train.prepare import read_table

    out = Path(args.out)
    pairs = find_pairs(args.images, args.labels)
    rule = LabelRule(args.labels_are, args.dense)
    names = _class_names(args, pairs)
    card = _card(args, names, out)
    return FitJob(
        pairs=pairs,
        card=card,
        rule=rule,
        config=_config(args, card),
        out=out,
        folder=Path(args.run_dir) if args.run_dir else out.with_suffix(".run"),
        table=read_table(Path(args.table), card) if args.table else {},
        held_out=args.held_out,
        channel=args.channel,
    )


def _class_names(args: argparse.Namespace, pairs: list[Any]) -> list[str]:
    """Return the classes' names, counted from the labels where they were not given."""
    if args.classes:
        names = [n.strip() for n in args.classes.split(",") if n.strip()]
        if args.labels_are == "instances" and len(names) != 1:
            raise InputError(
                f"instance labels are objects of one class, got {len(names)} names; give one."
            )
        return names
    if args.labels_are == "instances":
        return ["object"]
    from napari_unetpp.core.data.io import read_labels
    from napari_unetpp.core.data.preprocess import sample_of

    top = max(int(sample_of(read_labels(p.labels).data).max()) for p in pairs)
    count = top if args.dense else top - 1
    if count < 1:
        raise InputError(
            "no class was found in the labels (paint is 0 unlabelled, 1 background, 2 and more "
            "classes); give --dense if 0 is background, or paint a class."
        )
    if count > 50:
        raise InputError(
            f"{count} classes were found in the labels; give --labels-are instances if these are "
            "objects, or name the classes with --classes."
        )
    return [f"class {k + 1}" for k in range(count)]


def _card(args: argparse.Namespace, names: list[str], out: Path) -> ModelCard:
    instances = args.labels_are == "instances" and not args.softmax
    auxiliary = ("centre",) if instances else ()
    network = NetworkConfig(
        topology=args.topology,
        ndim=len(args.axes),
        in_channels=args.in_channels,
        out_channels=len(names) + len(auxiliary) + args.softmax,
        filters=args.filters,
        norm=args.norm,
        dropout=args.dropout,
        activation="softmax" if args.softmax else "sigmoid",
    )
    if args.window:
        normalisation = Normalisation(
            "window", args.window[0], args.window[1], ct_offset=args.window[0] < 0
        )
    else:
        normalisation = Normalisation(polarity="bright-objects" if instances else "keep")
    return ModelCard(
        name=args.name or out.stem,
        description=args.description,
        network=network,
        classes=tuple(ClassInfo(n, class_colour(k)) for k, n in enumerate(names)),
        axes=args.axes,
        auxiliary=auxiliary,
        input_channels=tuple(f"channel {k}" for k in range(args.in_channels)),
        spacing=args.spacing,
        spacing_unit=args.spacing_unit,
        orientation=args.orientation,
        normalisation=normalisation,
        instances=InstanceRule() if instances else None,
        levels_trained=network.head_levels,
        data=args.data,
        licence=args.licence,
        citation=args.citation,
    )


def _config(args: argparse.Namespace, card: ModelCard) -> TrainConfig:
    from napari_unetpp.core.data.augment import AugmentConfig
    from napari_unetpp.core.run.runtime import choose_device
    from napari_unetpp.core.train.settings import TrainConfig

    ndim = card.network.ndim
    device = choose_device(args.device, args.precision)
    augment = AugmentConfig()
    if ndim == 3:
        augment = AugmentConfig.volumes(oriented=card.orientation is not None)
    if args.no_flip:
        augment = dataclasses.replace(augment, flip=False)
    return TrainConfig(
        steps=args.steps,
        max_seconds=args.max_seconds,
        batch=args.batch or DEFAULT_BATCH[ndim],
        patch=args.patch or DEFAULT_PATCH[ndim],
        learning_rate=args.learning_rate,
        validate_every=min(args.validate_every, args.steps),
        patience=args.patience,
        foreground=0.5 if ndim == 2 else 0.8,
        augment=augment,
        loss=args.loss,
        head_weights=args.head_weights,
        seed=args.seed,
        device=device.kind,
        # Gradients leave float16's range; bfloat16 keeps that of float32.
        precision="float32" if device.precision == "float32" else "bfloat16",
    )


def _text(report: FitReport) -> str:
    lines = [
        f"{report.out}: {report.steps} steps in {report.seconds:.0f} s (ended by {report.reason}), "
        f"best at step {report.best_step}, {report.n_training} images, "
        f"{report.n_held_out} held out"
    ]
    if report.evaluation is not None:
        rows = [
            [
                level if level == "ensemble" else f"L{level}",
                *(figure_of(row[key]) for key in ("iou_per_image", "dice_per_image")),
                figure_of(row["ap50"]),
                figure_of(row["seconds_per_megapixel"]),
            ]
            for level, row in report.evaluation.levels.items()
        ]
        lines += ["", table(["level", "IoU", "Dice", "AP50", "s/megapixel"], rows)]
    return "\n".join(lines)
