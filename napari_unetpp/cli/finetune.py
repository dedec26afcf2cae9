"""``finetune``: images and a few painted strokes in, a better model within seconds out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_unetpp.cli import options
from napari_unetpp.cli.common import Progress, figure_of, print_json, table, tell
from napari_unetpp.core.errors import InputError, UNetPPError
from napari_unetpp.core.events import Event, Validated, drain
from napari_unetpp.core.tune.settings import TEACHERS

if TYPE_CHECKING:
    from napari_unetpp.core.teach.project import Project
    from napari_unetpp.core.tune.finetune import TuneJob
    from napari_unetpp.core.tune.inputs import Painted
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
    data = parser.add_argument_group("data", "--image and --painted, or --project")
    data.add_argument("--image", nargs="+", metavar="FILE", help="images")
    data.add_argument(
        "--painted", nargs="+", metavar="FILE",
        help="painted labels, one file an image, in the same order",
    )  # fmt: skip
    data.add_argument(
        "--project", metavar="FOLDER", help="a training set that napari or 3D Slicer saved"
    )
    data.add_argument(
        "--dense", action="store_true", help="labels are complete: 0 is background, not unlabelled"
    )
    data.add_argument("--channel", type=options.count_from(0, 1), help="channel of the images")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--base",
        metavar="NAME|FILE|scratch|random",
        help="a bundled model, a file, scratch for classes and a grid of its own on the features "
        "of a bundled model, or random for a network that knows nothing; default that of the "
        "project, or nuclei",
    )
    model.add_argument(
        "--out", required=True, metavar="FILE",
        help="model file, .safetensors; the base's own to go on with it",
    )  # fmt: skip
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
        choices=TEACHERS,
        default="auto",
        help="who teaches what is not painted; auto asks the held-out strokes",
    )
    how.add_argument("--seed", type=options.count_from(0, 1), default=0)
    options.add_device(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Fine-tune, and print the report or JSON."""
    _check_data(args)
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
        tell(f"napari-unetpp: stopped{_left(job, written)}")
        return 130
    if args.json:
        print_json({"out": str(job.out), **report.to_json()})
    else:
        axes = job.axes if job.base is None else job.base.card.axes
        print(_text(job.out, report, "megapixel" if axes == "YX" else "megavoxel"))
    return 0


def _check_data(args: argparse.Namespace) -> None:
    """Say what is missing of images and paint, or what is too much."""
    images, painted = args.image or [], args.painted or []
    if args.project is not None:
        if images or painted or args.channel is not None:
            raise InputError(
                "a project names its images, labels and channels itself; leave out --image, "
                "--painted and --channel, or --project."
            )
        return
    if not images and not painted:
        raise InputError(
            "images and painted labels were expected, got none; give --image FILE --painted FILE, "
            "or --project FOLDER."
        )
    if len(images) != len(painted):
        raise InputError(
            f"one painted file was expected for each image, got {len(images)} image(s) and "
            f"{len(painted)} painted; give them in the same order."
        )


def _left(job: TuneJob, written: bool) -> str:
    """Return what a run that was stopped leaves."""
    if written:
        return f"; {job.out} is the best model so far."
    what = f"{job.out} stays as it was" if job.out.exists() else "no model was written"
    return f" before anything was better; {what}."


def _job(args: argparse.Namespace) -> TuneJob:
    """Turn arguments into a job; whatever is wrong with them shows here."""
    from napari_unetpp.core.model.modelfile import load_model
    from napari_unetpp.core.run.runtime import choose_device
    from napari_unetpp.core.teach.project import Project
    from napari_unetpp.core.tune.finetune import TuneJob
    from napari_unetpp.core.tune.settings import TuneConfig

    device = choose_device(args.device, args.precision)
    config = TuneConfig(
        max_seconds=args.max_seconds,
        steps=args.steps,
        teacher=args.teacher,
        seed=args.seed,
        device=device.kind,
        # Gradients leave float16's range; bfloat16 keeps that of float32.
        precision="float32" if device.precision == "float32" else "bfloat16",
        body="random" if args.base == "random" else "bundled",
    )
    wanted, names = args.base, tuple(n.strip() for n in args.classes.split(",") if n.strip())
    if args.project is None:
        known: tuple[str, ...] = ()
        pairs = _of_files(args.image, args.painted, args.channel, args.dense)
    else:
        project = Project.open(args.project)
        wanted, known = wanted or project.base, tuple(c.name for c in project.classes)
        pairs = _of_project(project, args.dense)
    base = None if wanted in ("scratch", "random") else load_model(wanted or "nuclei")
    own = () if base is None else tuple(c.name for c in base.card.classes)
    return TuneJob(
        pairs=pairs,
        out=Path(args.out),
        base=base,
        config=config,
        # Names that a project keeps for another model say nothing about this one.
        classes=names or (known if known[: len(own)] == own else ()),
        name=args.name,
        axes=args.axes,
    )


def _of_files(
    images: list[str], painted: list[str], channel: int | None, dense: bool
) -> list[Painted]:
    from napari_unetpp.core.data.io import read_image, read_labels
    from napari_unetpp.core.tune.inputs import Painted
    from napari_unetpp.core.tune.strokes import split_path

    return [
        Painted(
            str(Path(image)),
            read_image(image),
            read_labels(labels),
            channel=channel,
            dense=dense,
            split=split_path(Path(labels)),
        )
        for image, labels in zip(images, painted, strict=True)
    ]


def _of_project(project: Project, dense: bool) -> list[Painted]:
    """Return the pairs of a project; one that cannot be read is said, and the others are used."""
    from napari_unetpp.core.tune.inputs import Painted

    found: list[Painted] = []
    problem: UNetPPError = InputError(
        f"the project {project.folder} has no images; add one in napari or 3D Slicer."
    )
    for pair in project.pairs():
        try:
            image, labels = pair.image(), pair.painted()
        except UNetPPError as error:
            problem = error
            tell(f"napari-unetpp: left out: {error}")
            continue
        found.append(Painted(pair.name, image, labels, pair.channel, dense, pair.split_path))
    if not found:
        raise problem
    return found


def _text(out: Path, report: TuneReport, unit: str) -> str:
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
        table(["IoU on held-out strokes", "before", "after", f"s/{unit}"], rows),
    ]
    if report.cheapest is not None:
        lines += ["", f"L{report.cheapest} is the cheapest level within 0.01 of the best."]
    return "\n".join([*lines, *report.sentences])
