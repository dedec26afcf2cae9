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


def cells(seed: int = 3, shape: tuple[int, int] = (96, 112)) -> NDArray[np.uint16]:
    """Return bright discs on noise, (Y, X)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = rng.normal(100, 5, shape)
    for cy, cx in [(14, 16), (20, 60), (16, 96), (50, 30), (54, 84), (80, 14), (80, 58), (82, 98)]:
        image[(y - cy) ** 2 + (x - cx) ** 2 <= 64] += 300
    return image.clip(0, 65535).astype(np.uint16)


def strokes(*, swapped: bool = False) -> NDArray[np.int32]:
    """Return strokes on `cells`: three on background and three on discs, some discs left out.

    Swapped, they say that the discs are background, which no base agrees with.
    """
    paint = np.zeros((96, 112), np.int32)
    bright, dark = (1, 2) if swapped else (2, 1)
    for y, x in [(34, 4), (36, 60), (66, 40)]:
        paint[y : y + 3, x : x + 40] = dark
    for y, x in [(14, 16), (50, 30), (54, 84)]:
        paint[y - 2 : y + 3, x - 5 : x + 6] = bright
    return paint
