"""What the benchmarks share: models and images to run, fair timing, memory, Markdown.

This module must not know what any one benchmark compares, nor the command line.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import (
    ClassInfo,
    InstanceRule,
    ModelCard,
    NetworkConfig,
    Normalisation,
)
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.phantoms import CT_CLASSES, ct_phantom, nuclei_2d
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.modelfile import Model, bundled_models, load_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.memory import PeakMemory
from napari_unetpp.core.run.precision import DTYPES
from napari_unetpp.core.run.runtime import Device

Job = Callable[[], object]

# Side of the phantom that larger images repeat: placing nuclei is quadratic in their number.
PATTERN = 500
_PATTERN_NUCLEI = 110

CARDS: dict[str, ModelCard] = {
    "nuclei": ModelCard(
        name="nuclei",
        network=NetworkConfig(filters=(16, 32, 64, 128, 256), out_channels=2, norm="batch"),
        classes=(ClassInfo("nucleus"),),
        auxiliary=("centre",),
        normalisation=Normalisation(polarity="bright-objects"),
        instances=InstanceRule(),
    ),
    "paper": ModelCard(
        name="paper",
        network=NetworkConfig(),
        classes=(ClassInfo("object"),),
    ),
    "ct-head-neck": ModelCard(
        name="ct-head-neck",
        network=NetworkConfig(
            ndim=3, filters=(16, 32, 64, 128, 256), out_channels=len(CT_CLASSES), norm="batch"
        ),
        classes=tuple(ClassInfo(f"organ {k}") for k in range(1, len(CT_CLASSES) + 1)),
        axes="ZYX",
        spacing=(3.0, 4.0, 4.0),
        orientation="SPL",
        normalisation=Normalisation("window", -300.0, 500.0, ct_offset=True),
    ),
}
"""Architectures that are measured; a bundled model of the same name goes before them."""


def model_for(name: str, seed: int = 0) -> tuple[Model, bool]:
    """Return a model to measure.

    Parameters
    ----------
    name : str
        A bundled model, or a key of :data:`CARDS`.
    seed : int
        Seed of fresh weights.

    Returns
    -------
    Model
        The bundled one, else its architecture with fresh weights: time and memory are the
        same, scores mean nothing.
    bool
        Whether it is the bundled one.

    Raises
    ------
    InputError
        If there is neither.
    """
    if name in bundled_models():
        return load_model(name), True
    if name not in CARDS:
        known = ", ".join(sorted({*CARDS, *bundled_models()}))
        raise InputError(f"a network to measure is one of {known}, got {name!r}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = NestedUNet(CARDS[name].network).eval()
    return Model(CARDS[name], network, Path(name), ""), False


def image_for(card: ModelCard, shape: Sequence[int]) -> Image:
    """Return a synthetic image on the model's own grid.

    Parameters
    ----------
    card : ModelCard
        Two or three axes, one channel.
    shape : sequence of int
        (Y, X) or (Z, Y, X).
    """
    if len(card.axes) == 3:
        z, y, x = shape
        a, b, c = card.spacing or (3.0, 4.0, 4.0)
        ct = ct_phantom((z, y, x), spacing=(a, b, c))
        return Image(ct.image, "ZYX", ct.spacing, "mm", ct.affine, "ct")
    pattern = nuclei_pattern()
    repeats = [-(-n // PATTERN) for n in shape]
    data = np.tile(pattern, repeats)[: shape[0], : shape[1]]
    return Image(np.ascontiguousarray(data), "YX", name="nuclei")


def nuclei_pattern(seed: int = 0) -> NDArray[np.uint16]:
    """Return a field of nuclei, (PATTERN, PATTERN) uint16, to cover larger images with."""
    image: NDArray[np.uint16] = nuclei_2d(
        (PATTERN, PATTERN), count=_PATTERN_NUCLEI, spacing=(0.45, 0.45), seed=seed
    ).image
    return image


@dataclass(frozen=True)
class Spread:
    """Repeated figures: their median and the least and greatest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def to_json(self) -> dict[str, float]:
        """Return plain JSON values."""
        return {"median": self.median, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.3f}"
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f})"


def interleaved(
    jobs: Mapping[str, Job], repeats: int, kind: str = "cpu", deadline: float = math.inf
) -> dict[str, list[float]]:
    """Time jobs in turn, so that a slow minute of the machine hits all of them alike.

    Every other round runs backwards: no job always comes after the same one.

    Parameters
    ----------
    jobs : mapping of str to callable
        What to time; warmed up already.
    repeats : int
        Rounds.
    kind : {"cpu", "cuda", "mps"}
        Where they run; a GPU is waited for.
    deadline : float
        By ``time.perf_counter``: a round that would end after it is left out, but for the first.

    Returns
    -------
    dict of str to list of float
        Seconds of every round.
    """
    found: dict[str, list[float]] = {name: [] for name in jobs}
    begin = time.perf_counter()
    for number in range(repeats):
        now = time.perf_counter()
        if number and now + (now - begin) / number > deadline:
            break
        for name in list(jobs)[:: -1 if number % 2 else 1]:
            settle(kind)
            start = time.perf_counter()
            jobs[name]()
            settle(kind)
            found[name].append(time.perf_counter() - start)
    return found


def ratios(seconds: Mapping[str, Sequence[float]], base: str) -> dict[str, Spread]:
    """Return each job's time relative to `base` in the same round."""
    return {
        name: Spread.of([s / b for s, b in zip(values, seconds[base], strict=True)])
        for name, values in seconds.items()
    }


def matrix_rate(precision: str, kind: str = "cpu") -> float:
    """Return the multiply-accumulates a second of large matrix products, the best of several."""
    best = 0.0
    for size in (1024, 2048) if kind == "cpu" else (4096, 8192):
        a, b = (torch.rand(size, size).to(kind, DTYPES[precision]) for _ in range(2))  # type: ignore[index]
        for _ in range(4):
            settle(kind)
            start = time.perf_counter()
            a @ b
            settle(kind)
            best = max(best, size**3 / (time.perf_counter() - start))
    return best


@contextlib.contextmanager
def others_share() -> Iterator[list[float]]:
    """Give a list that holds, at the end, the share of the processors that others took."""
    process, found = psutil.Process(), [0.0]

    def busy() -> tuple[float, float]:
        every = psutil.cpu_times()
        idle = every.idle + getattr(every, "iowait", 0.0)
        guests = getattr(every, "guest", 0.0) + getattr(every, "guest_nice", 0.0)  # in user
        own = process.cpu_times()
        return sum(every) - idle - guests, own.user + own.system

    start, (all_before, own_before) = time.perf_counter(), busy()
    yield found
    all_after, own_after = busy()
    room = (time.perf_counter() - start) * (psutil.cpu_count() or 1)
    found[0] = max(0.0, (all_after - all_before - own_after + own_before) / room)


def settle(kind: str) -> None:
    """Wait until a device has done all that it was asked for."""
    if kind == "cuda":
        torch.cuda.synchronize()
    elif kind == "mps":
        torch.mps.synchronize()


def peak_mib(job: Job, kind: str = "cpu") -> tuple[float, object]:
    """Run a job and return its peak of memory over what was in use before, and its result.

    Parameters
    ----------
    job : callable
        What to run.
    kind : {"cpu", "cuda", "mps"}
        With "cuda" it is the GPU's memory, else the process's resident memory.

    Returns
    -------
    float
        MiB.
    object
        What the job returned.
    """
    return_free_heap()
    with PeakMemory(kind, interval=0.001) as memory:
        result = job()
        settle(kind)
    return memory.megabytes, result


def return_free_heap() -> None:
    """Hand freed memory back to the system, so that it does not hide in the baseline."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def set_threads(threads: int | None) -> int:
    """Set torch's threads, if a number is given, and return how many there are."""
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}.")
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def machine(device: Device, threads: int) -> dict[str, Any]:
    """Return what the figures were measured on, as plain JSON values."""
    return {
        "device": f"{device.kind} ({device.name})",
        "precision": device.precision,
        "threads": threads,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
    }


def machine_line(values: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    return (
        f"{values['device']}, {values['threads']} of {values['cores']} cores, "
        f"{values['system']}, torch {values['torch']}, {values['precision']}"
    )


def parse_sizes(text: str) -> list[tuple[int, ...]]:
    """Parse sizes such as ``512x512,64x64x64``.

    Raises
    ------
    InputError
        If one is not two or three positive whole numbers.
    """
    sizes: list[tuple[int, ...]] = []
    for part in text.split(","):
        numbers = part.strip().split("x")
        if len(numbers) not in (2, 3) or not all(n.isdigit() and int(n) for n in numbers):
            raise InputError(f"a size looks like 512x512 or 64x64x64, got {part.strip()!r}.")
        sizes.append(tuple(int(n) for n in numbers))
    return sizes


def size_text(shape: Sequence[int]) -> str:
    """Return a shape as ``512x512``."""
    return "x".join(str(n) for n in shape)


def megapixels(shape: Sequence[int]) -> float:
    """Return pixels (voxels) in millions."""
    return math.prod(shape) / 1e6


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are figures."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *rows))
