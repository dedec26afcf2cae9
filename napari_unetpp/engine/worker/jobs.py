"""The jobs that the client may ask for: one after the other, and a fine-tuning beside them.

Knows the core and the link to the client.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable
from typing import Any, cast

from napari_unetpp.core.errors import (
    DeviceError,
    FileError,
    InputError,
    ModelFileError,
    OutOfMemory,
    UNetPPError,
)
from napari_unetpp.core.events import Note, TileDone
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.instances import label_instances
from napari_unetpp.core.run.memory import is_out_of_memory
from napari_unetpp.core.run.runtime import Level, Runner
from napari_unetpp.core.run.source import Source
from napari_unetpp.engine.protocol import Code, EngineError
from napari_unetpp.engine.wire import (
    Message,
    from_error,
    to_model,
    to_run,
    to_suggest,
    to_tune,
    to_view,
)
from napari_unetpp.engine.worker.images import image_of
from napari_unetpp.engine.worker.link import Cancelled, Link, RemoteArray, RemoteSink
from napari_unetpp.engine.worker.suggest import suggest
from napari_unetpp.engine.worker.views import show
from napari_unetpp.engine.worker.warm import Warm
from napari_unetpp.engine.worker.way import Lane, RightOfWay

_UNSAID: Message = {
    "state": "failed",
    "error": {
        "message": "memory ran out in the worker, with none left to say where; close other "
        "programs, or take a smaller region or a lower level.",
        "code": "memory",
        "details": "",
    },
}

_FRONT, _TUNING, _WAY = Lane("unetpp-compute"), Lane("unetpp-tune"), RightOfWay()
_WARM = Warm()

_CODES: tuple[tuple[type[UNetPPError], Code], ...] = (
    (InputError, "input"),
    (ModelFileError, "model"),
    (FileError, "file"),
    (DeviceError, "device"),
    (OutOfMemory, "memory"),
)


def work(task: Any, kind: str, message: Message) -> Message:
    """Do a job when those before it are over.

    Parameters
    ----------
    task : appose task
        Of this job.
    kind : str
        Which one, see `_JOBS`.
    message : dict
        What it is about.

    Returns
    -------
    dict
        ``state`` ("done", "cancelled", "failed") and ``result`` or ``error``.
    """
    outcome = [_UNSAID]

    def call() -> None:
        # Words want memory too; the thread must outlive an error for which there was none.
        with contextlib.suppress(BaseException):
            outcome[0] = _work(task, kind, message)

    with contextlib.suppress(MemoryError):
        if kind == "tune":
            _TUNING.do(call)
        else:
            with _WAY.taken():
                _FRONT.do(call)
    return outcome[0]


def _work(task: Any, kind: str, message: Message) -> Message:
    link = Link(task)
    try:
        link.check()
        result = _JOBS[kind](link, message)
        link.flush()
        return {"state": "done", "result": result}
    except Cancelled:
        return {"state": "cancelled"}
    except BaseException as error:
        return {"state": "failed", "error": from_error(in_words(error))}
    finally:
        link.close()


def in_words(error: BaseException) -> EngineError:
    """Return an error as the client's user should read it."""
    if isinstance(error, EngineError):
        return error
    for kind, code in _CODES:
        if isinstance(error, kind):
            return EngineError(str(error), code)
    if isinstance(error, UNetPPError):
        return EngineError(str(error), "input")
    details = "".join(traceback.format_exception(error))
    first = " ".join(str(error).split())[:200]
    if is_out_of_memory(error):
        return EngineError(
            f"memory ran out in the worker ({first or 'no more is given'}); close other programs, "
            "or take a smaller region or a lower level.",
            "memory",
            details,
        )
    return EngineError(
        f"something unexpected went wrong in the worker ({type(error).__name__}: {first}): this "
        "is a defect, please report it.",
        "bug",
        details,
    )


def _reason(runner: Runner) -> str:
    """Return why this device and this backend, and how fast it is where that was measured."""
    words = [runner.device.reason, runner.choice.reason]
    seconds = runner.choice.seconds_per_megapixel.get(runner.choice.name)
    if seconds is not None:
        words.append(f"A megapixel takes {seconds:.2g} s at the deepest level.")
    return " ".join(words)


def _ready(runner: Runner) -> Message:
    return {
        "device": runner.device.kind,
        "precision": runner.device.precision,
        "reason": _reason(runner),
        "levels_trained": list(runner.card.levels_trained),
    }


def _load(link: Link, message: Message) -> Message:
    runner, _ = _WARM.runner(to_model(message["request"]), link.check)
    return _ready(runner)


def _run(link: Link, message: Message) -> Message:
    request = to_run(message["request"])
    runner, model = _WARM.runner(request.model, link.check)
    image = image_of(link, message["source"])
    if _WARM.view is not None:
        _WARM.view.let_go_of_nodes()  # they may be gigabytes, and the run plans with what is free
    shape = message["sink"]
    sink: Any = RemoteSink(link, tuple(shape)) if shape is not None else _Shapeless(link)
    start = functools.partial(
        predict,
        image,
        runner,
        sink,
        level=cast(Level, request.level),
        kind=request.kind,
        threshold=request.threshold,
        channel=request.channel,
        tile=request.tile,
        min_size=request.min_size,
        region=None if request.region is None else tuple(slice(a, b) for a, b in request.region),
    )
    start().close()  # refuses what does not fit before the image is read for its intensities
    source = Source(image, runner.card, request.channel)
    kept, notes, _ = _WARM.fitted(source, image, message["source"]["key"], request.channel, model)
    for note in notes:
        link.note(note)
    run = start(normalisers=kept)
    try:
        while True:
            event = next(run)
            link.check()
            if isinstance(event, TileDone):
                link.progress(event.done, event.total, request.level)
            elif isinstance(event, Note):
                link.note(event)
    except StopIteration as stop:
        result: Message = stop.value.to_json()
    finally:
        run.close()
    told = [{"code": n.code, "message": n.message} for n in notes]
    result["notes"] = [*told, *(n for n in result["notes"] if n not in told)]
    return result


class _Shapeless(RemoteSink):
    """A sink whose shape the client's array does not tell: the core's regions are complete."""

    def __init__(self, link: Link) -> None:
        super().__init__(link, ())
        del self.shape

    def __setitem__(self, index: Any, values: Any) -> None:
        self._link.give("write", tuple(slice(i.start, i.stop, 1) for i in index), values)


def _view(link: Link, message: Message) -> Message:
    request = to_view(message["request"])
    runner, model = _WARM.runner(request.model, link.check)
    image = image_of(link, message["source"])
    levels = show(_WARM, link, runner, model, image, message["source"]["key"], request)
    return {"levels": levels}


def _objects(link: Link, message: Message) -> Message:
    runner, _ = _WARM.runner(to_model(message["request"]), link.check)
    shape = tuple(message["source"]["shape"])
    probabilities = RemoteArray(link, shape, message["source"]["dtype"])[...]
    wanted = 1 + len(runner.card.axes)
    while probabilities.ndim > wanted and 1 in probabilities.shape[1:]:
        # Axes of the client's array on which the view has one position.
        probabilities = probabilities.squeeze(1 + probabilities.shape[1:].index(1))
    labels = label_instances(
        probabilities,
        runner.card,
        threshold=message["threshold"],
        min_size=message["min_size"],
    )
    RemoteSink(link, shape[1:])[...] = labels.reshape(shape[1:])
    return {}


def _suggest(link: Link, message: Message) -> Message:
    request = to_suggest(message["request"])
    runner, model = _WARM.runner(request.model, link.check)
    source, painted, shape = message["source"], message["painted"], message["sink"]
    found = suggest(
        _WARM,
        link,
        runner,
        model,
        image_of(link, source),
        source["key"],
        request,
        None if painted is None else image_of(link, painted),
        None if shape is None else RemoteSink(link, tuple(shape)),
    )
    return {"places": [{"box": one.box, "score": one.score} for one in found]}


def _tune(link: Link, message: Message) -> Message:
    # Training brings libraries that would delay every worker's first picture.
    from napari_unetpp.engine.worker.tuning import tune

    _WARM.use_threads(to_tune(message["request"]).model)
    return tune(link, message, _WAY, _WARM.drawing)


def _stats(link: Link, message: Message) -> Message:
    view = _WARM.view
    return {"nodes": _WARM.nodes, "kept": [] if view is None else sorted(view.levels_done)}


_JOBS: dict[str, Callable[[Link, Message], Message]] = {
    "load": _load,
    "run": _run,
    "view": _view,
    "objects": _objects,
    "suggest": _suggest,
    "tune": _tune,
    "stats": _stats,
}
