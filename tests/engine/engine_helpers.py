"""What the engine's tests share; no Qt."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import drain
from napari_unetpp.core.run.inference import output_axes, predict
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import Event, LayerSource, ModelRequest

NUCLEI = ModelRequest("nuclei", "cpu", "float32")
LONG = 120.0


def whole_run(runner: Runner, image: Image, **options: Any) -> NDArray[Any]:
    """Return what the core alone makes of an image."""
    _, shape, dtype = output_axes(image, runner.card, options.get("kind", "labels"))
    sink = np.zeros(shape, dtype)
    drain(predict(image, runner, sink, **options))
    return sink


def empty_sink(runner: Runner, image: Image, kind: str) -> NDArray[Any]:
    _, shape, dtype = output_axes(image, runner.card, kind)
    return np.zeros(shape, dtype)


def heard(job: Job, timeout: float = LONG) -> list[Event]:
    """Return all events of a job, the last one included; what the job raised is no matter."""
    events: list[Event] = []
    job.listen(events.append)
    until(lambda: job.finished and events and type(events[-1]).__name__ == "Finished", timeout)
    return events


def until(condition: Callable[[], Any], timeout: float = LONG) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def blocks_left() -> set[str]:
    if not os.path.isdir("/dev/shm"):
        return set()
    return {n for n in os.listdir("/dev/shm") if n.startswith("unetpp")}


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Recording:
    """An array that notes what is read of it, and can wait or fail."""

    def __init__(self, data: NDArray[Any]) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype
        self.read: list[int] = []
        self.before: Callable[[], None] = lambda: None

    def __getitem__(self, index: Any) -> NDArray[Any]:
        self.before()
        block = self.data[index]
        self.read.append(block.size)
        return block


def source_of(image: NDArray[Any], axes: str = "YX", key: str = "", **more: Any) -> LayerSource:
    return LayerSource(image, axes, key=key, **more)
