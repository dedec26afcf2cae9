"""A fine-tuning beside other jobs: waits for them between two steps, ends gently.

Every improvement is written at once, so whatever becomes of the worker, the model file is the
best so far. Knows the core and the link; no message of the client but its own.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.events import Event, Note, StepDone, Validated
from napari_unetpp.core.model.modelfile import Model, load_model, save_model
from napari_unetpp.core.run.runtime import choose_device
from napari_unetpp.core.tune.finetune import TuneJob, save_tuned, scored
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.report import make_report
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.tune import FineTuning, TeacherChosen
from napari_unetpp.engine.protocol import SCRATCH, EngineError, TuneRequest
from napari_unetpp.engine.wire import Message, plain, to_tune
from napari_unetpp.engine.worker.images import image_of
from napari_unetpp.engine.worker.link import Cancelled, Link
from napari_unetpp.engine.worker.paint import Paint
from napari_unetpp.engine.worker.way import RightOfWay


def tune(link: Link, message: Message, way: RightOfWay, drawing: threading.Lock) -> Message:
    """Fine-tune.

    Parameters
    ----------
    link : Link
        Gives pixels, takes events. Its wish to stop ends the fine-tuning with the best so far.
    message : dict
        ``request`` and ``pairs``.
    way : RightOfWay
        Of the other jobs.
    drawing : Lock
        Held while weights are drawn, which is done with one generator for all, and while the
        file is replaced: where it is just being read, some systems do not allow it.

    Returns
    -------
    dict
        Fields of TuneOutcome.

    Raises
    ------
    Cancelled
        If it is to stop before there is anything to tell.
    """
    job, split = _job(link, to_tune(message["request"]), message["pairs"])
    card = job.card()
    with drawing:
        tuning = FineTuning(job.pairs, card, job.base, split, job.config)
    events, kept = tuning.run(), False
    try:
        for event in events:
            if not kept:
                # With the first event the paint is split: whatever comes, sides are fixed.
                link.tell("split", split=plain(split.to_json()))
                kept = True
            path = None
            if isinstance(event, Validated) and event.best and event.step:
                with drawing:
                    path = str(save_model(job.out, tuning.best(), scored(card, event.scores)))
            _tell(link, event, path)
            way.wait(lambda: link.unwanted)
            if link.unwanted:
                break
    finally:
        events.close()
    result = tuning.result()
    if not tuning.windows or (job.base is None and not result.best_step):
        raise Cancelled
    report = make_report(result, card, tuning.windows[0].image, device=job.config.device)
    if not result.base_kept:
        with drawing:
            save_tuned(job.out, result.network, card, report)
    return {
        "report": plain(report.to_json()),
        "split": plain(split.to_json()),
        "path": None if result.base_kept else str(job.out),
    }


def _job(link: Link, request: TuneRequest, pairs: list[Message]) -> tuple[TuneJob, Split]:
    device = choose_device(request.model.device, request.model.precision)
    config = TuneConfig(
        max_seconds=request.max_seconds,
        seed=request.seed,
        device=device.kind,
        # Gradients leave float16's range; bfloat16 keeps that of float32.
        precision="bfloat16" if device.precision == "bfloat16" else "float32",
    )
    split = Split(request.seed) if request.split is None else Split.from_json(request.split)
    split.strict = False  # a layer's name may have come to stand for another image
    job = TuneJob(
        pairs=[_painted(link, pair) for pair in pairs],
        out=Path(request.out),
        base=_base(request.model.model),
        config=config,
        classes=request.classes,
        name=request.name,
        axes=request.axes,
    )
    return job, split


def _base(name: str) -> Model | None:
    if name == SCRATCH:
        return None
    try:
        return load_model(name)
    except (UNetPPError, OSError) as error:
        raise EngineError(str(error), "model") from error


def _painted(link: Link, pair: Message) -> Painted:
    labels = image_of(link, pair["painted"], labels=True)
    return Painted(
        pair["name"],
        image_of(link, pair["image"]),
        labels.replace(data=Paint(labels.data)),
        channel=pair["channel"],
    )


def _tell(link: Link, event: Event, path: str | None) -> None:
    """Tell an event of the core to the client."""
    if isinstance(event, StepDone):
        values: dict[str, Any] = dict(vars(event))
        link.tell("step", **values)
    elif isinstance(event, Validated):
        iou = {str(level): row["iou_strokes"] for level, row in event.scores.items()}
        link.tell("scored", step=event.step, scores=plain(iou), best=event.best, path=path)
    elif isinstance(event, TeacherChosen):
        link.tell("teacher", name=event.name, scores=plain(event.scores))
    elif isinstance(event, Note):
        link.note(event)
