"""The engine, as a viewer sees it: jobs in, events out, a worker that is always there again.

No method but ``close`` waits; what happens behind them is the business of :mod:`manager`.
Knows no torch, no Qt and no viewer.
"""

from __future__ import annotations

import atexit
import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.manager import Manager, Patience
from napari_unetpp.engine.process import Launch, default_python
from napari_unetpp.engine.protocol import (
    EngineError,
    EngineState,
    LayerSource,
    ModelRequest,
    PaintedSource,
    RunRequest,
    SuggestRequest,
    TuneRequest,
    ViewRequest,
)
from napari_unetpp.engine.wire import Message, Request, from_pairs, from_request, from_source
from napari_unetpp.engine.work import Work

__all__ = ["Engine"]


class Engine:
    """A worker process with the core, and jobs for it.

    The worker starts with the first job, or with :meth:`start`. It is ended with the engine,
    with the interpreter, and when this process dies.

    Parameters
    ----------
    python : str, optional
        Interpreter of the worker; the one of this process if None. In 3D Slicer it must be
        PythonSlicer.
    env : mapping of str to str, optional
        Added to the worker's environment.
    memory_limit : int, optional
        Bytes of address space that the worker may take (POSIX).
    cancel_seconds : float
        So long a cancelled job may take to stop before the worker is ended.
    hang_seconds : float
        A worker that neither gives a sign of life nor computes for so long is ended.
    beat_seconds : float
        Between two signs of life.
    """

    def __init__(
        self,
        *,
        python: str | None = None,
        env: Mapping[str, str] | None = None,
        memory_limit: int | None = None,
        cancel_seconds: float = 0.2,
        hang_seconds: float = 20.0,
        beat_seconds: float = 1.0,
    ) -> None:
        self._numbers = itertools.count(1)
        self._dispatcher = Dispatcher()
        self._manager = Manager(
            Launch(python or default_python(), dict(env or {}), memory_limit, beat_seconds),
            Patience(cancel_seconds, hang_seconds),
            self._dispatcher,
        )
        _ENGINES.add(self)

    @property
    def state(self) -> EngineState:
        """What the engine is doing now."""
        return self._manager.state

    @property
    def jobs_started(self) -> int:
        """Compute jobs that were sent to the worker."""
        return self._manager.jobs_started

    @property
    def worker_pid(self) -> int | None:
        """Number of the worker process; None while there is none."""
        return self._manager.worker_pid

    def listen(self, callback: Callable[[EngineState], None]) -> None:
        """Call `callback` with every state to come, on a background thread."""
        self._manager.listen(callback)

    def start(self) -> None:
        """Start the worker in the background, so that the first job finds it ready."""
        self._manager.start()

    def load(self, model: ModelRequest) -> Job:
        """Load a model, so that the next job finds it warm.

        Returns
        -------
        Job
            Its event and its result is ModelReady.
        """
        return self._submit("load", lambda job: _work(job, model, None, None))

    def view(self, source: LayerSource, request: ViewRequest) -> Job:
        """Predict what is on screen, level after level.

        Older views that are not finished end "cancelled"; the worker lives on.

        Parameters
        ----------
        source : LayerSource
            The image; read on a thread of the engine.
        request : ViewRequest
            Which part of it, and how deep.

        Returns
        -------
        Job
            Events are LevelReady and Noted, the result is the tuple of levels that the
            client has then.
        """
        return self._submit("view", lambda job: _work(job, request, source, None))

    def run(self, source: LayerSource, request: RunRequest, sink: Any) -> Job:
        """Run over an image.

        Parameters
        ----------
        source : LayerSource
            The image; read on a thread of the engine.
        request : RunRequest
            What to do.
        sink : array-like
            Regions are assigned to it, on a thread of the engine. Its axes, shape and type
            are those of :func:`napari_unetpp.core.run.results.output_axes`.

        Returns
        -------
        Job
            Events are Progress, Written and Noted, the result is ``Prediction.to_json()``.
        """
        return self._submit("run", lambda job: _work(job, request, source, sink))

    def objects(
        self,
        probabilities: NDArray[np.float32],
        request: ModelRequest,
        threshold: float | None = None,
        min_size: int | None = None,
    ) -> Job:
        """Find objects in the probabilities of one plane or volume.

        Parameters
        ----------
        probabilities : ndarray of float32, shape (channels, *region)
            As LevelReady gave; axes of length 1 may be among the region's.
        request : ModelRequest
            The model that made them.
        threshold, min_size
            The card's if None.

        Returns
        -------
        Job
            The result is int32, of the region's shape: 0 is background, objects 1 ... N.
        """
        probabilities = np.asarray(probabilities)
        sink = np.zeros(probabilities.shape[1:], np.int32)
        source = LayerSource(probabilities, "", name="probabilities")
        more = {"threshold": threshold, "min_size": min_size}
        return self._submit("objects", lambda job: _work(job, request, source, sink, more))

    def tune(self, pairs: Sequence[PaintedSource], request: TuneRequest) -> Job:
        """Fine-tune a model on painted images, beside other jobs, which have the right of way.

        One fine-tuning goes on at a time, others wait. Its ``cancel`` ends it with the best so
        far: it ends "done", or "cancelled" if nothing was scored yet. Images and paint are
        read at the start, and may change afterwards.

        Parameters
        ----------
        pairs : sequence of PaintedSource
            Images and painted labels.
        request : TuneRequest
            From what, to where, how long.

        Returns
        -------
        Job
            Events are TuneSplit, TuneTeacher, TuneStep, TuneScored and Noted, the result is
            TuneOutcome.
        """

        def work(job: Job) -> Work:
            described, arrays = from_pairs(pairs)
            return Work(job, {"request": from_request(request), "pairs": described}, arrays)

        return self._submit("tune", work)

    def suggest(
        self,
        source: LayerSource,
        request: SuggestRequest,
        painted: LayerSource | None = None,
        sink: Any = None,
    ) -> Job:
        """Find the next places to paint.

        Parameters
        ----------
        source : LayerSource
            The image; read on a thread of the engine.
        request : SuggestRequest
            Where to look.
        painted : LayerSource, optional
            Painted labels, of the image's shape without channels: what is painted is left out.
        sink : array-like of float32, optional
            Of the region's shape; gets the map of uncertainty, 0 to 1.

        Returns
        -------
        Job
            Events are Noted and Written, the result is a tuple of Suggestion, the most
            uncertain first, spaced apart.
        """

        def work(job: Job) -> Work:
            more = {"painted": None if painted is None else from_source(painted, 1)}
            found = _work(job, request, source, sink, more)
            found.sources = (source.data, *([] if painted is None else [painted.data]))
            return found

        return self._submit("suggest", work)

    def stats(self) -> Job:
        """Ask the worker how many ``nodes`` it computed and which levels it has ``kept``."""
        return self._submit("stats", lambda job: Work(job, {}))

    def restart(self) -> None:
        """End the worker, whatever it does, and start another one."""
        self._manager.restart()

    def close(self) -> None:
        """End the worker and all jobs, within two seconds; again it does nothing."""
        _ENGINES.discard(self)
        self._manager.close()

    def _submit(self, kind: str, make: Callable[[Job], Work]) -> Job:
        job = Job(next(self._numbers), kind, self._dispatcher, self._manager.cancel)
        try:
            work = make(job)
        except EngineError as error:
            job.finish("failed", error=error)
            return job
        self._manager.submit(work)
        return job


def _work(
    job: Job,
    request: Request,
    source: LayerSource | None,
    sink: Any,
    more: Message | None = None,
) -> Work:
    """Return a job with at most one source, as the worker wants it."""
    message: Message = {**(more or {}), "request": from_request(request)}
    if source is not None:
        message["source"] = from_source(source)
    shape = getattr(sink, "shape", None)
    message["sink"] = None if shape is None else [int(n) for n in shape]
    return Work(job, message, () if source is None else (source.data,), sink)


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for engine in list(_ENGINES):
        engine.close()
