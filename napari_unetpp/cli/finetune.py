"""``finetune``: images and a few painted strokes in, a better model within seconds out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli import options
from napari_unetpp.cli.common import Progress, figure_of, print_json, table, tell
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Validated, drain

if TYPE_CHECKING:
    from napari_unetpp.core.tune.finetune import TuneJob
    from napari_unetpp.core.tune.report import TuneReport


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}.")
    return value


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "finetune",
        description="Fine-tune a model on a few painted strokes. Painted labels are 0 unlabelled, "
        "1 background, 2 and more the model's classes in order, then new ones. Some strokes are "
        "held out for the scores; which ones is kept in a .strokes.json file beside the labels.",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--image", required=True, nargs="+", metavar="FILE", help="images")
    data.add_argument(
        "--painted", required=True, nargs="+", metavar="FILE",
        help="painted labels, one file an image, in the same order",
    )  # fmt: skip
    data.add_argument(
        "--dense", action="store_true", help="labels are complete: 0 is background, not unlabelled"
    )
    data.add_argument("--channel", type=options.count_from(0, 1), help="channel of the images")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--base",
        default="nuclei",
        metavar="NAME|FILE|scratch",
        help="a bundled model, a file, or scratch for a new network; default nuclei",
    )
    model.add_argument("--out", required=True, metavar="FILE", help="model file, .safetensors")
    model.add_argument("--name", default="", help="name of the model; that of the file if left out")
    model.add_argument(
        "--classes", default="", metavar="A,B,...", help="names of the classes, the base's first"
    )
    model.add_argument(
        "--axes", choices=("YX", "ZYX"), default="YX", help="from scratch: 2D or 3D; default YX"
    )
    how = parser.add_argument_group("fine-tuning")
    how.add_argument("--max-seconds", type=_seconds, default=30.0, help="budget; default 30")
    how.add_argument("--steps", type=options.count_from(1, 60), help="most steps")
    how.add_argument(
        "--teacher",
        choices=("auto", "forest", "base", "none"),
        default="auto",
        help="who teaches what is not painted; auto asks the held-out strokes",
    )
    how.add_argument("--seed", type=options.count_from(0, 1), default=0)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and print the report or JSON."""
    if len(args.image) != len(args.painted):
        raise InputError(
            f"one painted file was expected for each image, got {len(args.image)} image(s) and "
            f"{len(args.painted)} painted; give them in the same order."
        )
    from napari_unetpp.core.tune.finetune import finetune
    from napari_unetpp.core.tune.result import TeacherChosen

    written = False

    def listen(event: Event) -> None:
        nonlocal written
        progress(event)
        if isinstance(event, Validated):
            written = written or (event.best and event.step > 0)
            if event.scores and not args.json:
                levels = "  ".join(
                    f"L{k} {v['iou_strokes']:.3f}" for k, v in sorted(event.scores.items())
                )
                name = "base" if event.step == 0 else f"step {event.step}"
                tell(f"{name}: IoU on held-out strokes {levels}{'  best' if event.best else ''}")
        elif isinstance(event, TeacherChosen) and not args.json:
            tell(f"what is not painted is taught by: {event.name}")

    job = _job(args)
    try:
        with Progress("finetune", quiet=args.json, unit="step") as progress:
            report = drain(finetune(job), listen)
    except KeyboardInterrupt:
        tell(
            f"napari-unetpp: stopped; {job.out} is the best model so far."
            if written
            else "napari-unetpp: stopped before anything was better; no model was written."
        )
        return 130
    if args.json:
        print_json({"out": str(job.out), **report.to_json()})
    else:
        print(_text(job.out, report))
    return 0


def _job(args: argparse.Namespace) -> TuneJob:
    """Turn arguments into a job; whatever is wrong with them shows here."""
    from napari_unetpp.core.data.io import read_image, read_labels
    from napari_unetpp.core.model.modelfile import load_model
    from napari_unetpp.core.run.runtime import choose_device
    from napari_unetpp.core.tune.finetune import TuneJob
    from napari_unetpp.core.tune.inputs import Painted
    from napari_unetpp.core.tune.settings import TuneConfig
    from napari_unetpp.core.tune.strokes import split_path

    device = choose_device(args.device, args.precision)
    config = TuneConfig(
        max_seconds=args.max_seconds,
        steps=args.steps,
        teacher=args.teacher,
        seed=args.seed,
        device=device.kind,
        # Gradients leave float16's range; bfloat16 keeps that of float32.
        precision="float32" if device.precision == "float32" else "bfloat16",
    )
    pairs = [
        Painted(
            str(Path(image)),
            read_image(image),
            read_labels(labels),
            channel=args.channel,
            dense=args.dense,
            split=split_path(Path(labels)),
        )
        for image, labels in zip(args.image, args.painted, strict=True)
    ]
    return TuneJob(
        pairs=pairs,
        out=Path(args.out),
        base=None if args.base == "scratch" else load_model(args.base),
        config=config,
        classes=tuple(n.strip() for n in args.classes.split(",") if n.strip()),
        name=args.name,
        axes=args.axes,
    )


def _text(out: Path, report: TuneReport) -> str:
    """Return the table that people read."""
    rows = [
        [
            f"L{row.level}",
            figure_of(row.before),
            figure_of(row.after),
            figure_of(row.seconds_per_megapixel),
        ]
        for row in report.levels
    ]
    lines = [
        f"{out}: {report.steps} steps in {report.seconds:.0f} s, best at step {report.best_step}, "
        f"taught by {report.teacher}",
        "",
        table(["IoU on held-out strokes", "before", "after", "s/megapixel"], rows),
    ]
    if report.cheapest is not None:
        lines += ["", f"L{report.cheapest} is the cheapest level within 0.01 of the best."]
    return "\n".join([*lines, *report.sentences])
