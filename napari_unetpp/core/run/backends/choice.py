"""Which backend is the fastest here, and why.

Known by a short measurement on this machine, made once for a shape of network (not its
weights), a number of threads, a precision and the versions, and kept in the user's cache
folder. What cannot be read there is measured again. Nothing here imports OpenVINO unless it
is installed and could be chosen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch

import napari_unetpp
from napari_unetpp.core.errors import DeviceError
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.backends.base import TITLES, Backend, Name
from napari_unetpp.core.run.backends.pytorch import TorchBackend
from napari_unetpp.core.run.device import Device
from napari_unetpp.core.run.memory import is_out_of_memory
from napari_unetpp.core.run.precision import Precision

VARIABLE = "NAPARI_UNETPP_BACKEND"
WORDS = ("auto", "torch", "openvino")

# A side that every 2^level up to 7 divides; a batch of pixels that a viewer or a tile has.
_SIDE = {2: 384, 3: 64}
_SECONDS = 2.0  # after the first round; two rounds are made whatever they take
_ROUNDS = 5
_WORTH = 0.95  # of PyTorch's time: less gain than that may be noise


@dataclass(frozen=True)
class Choice:
    """A backend and why it was taken.

    Attributes
    ----------
    name : {"torch", "openvino"}
        Which one.
    reason : str
        Why, in one sentence.
    seconds_per_megapixel : dict
        What was measured at the deepest level, by backend; empty if nothing was.
    """

    name: Name
    reason: str
    seconds_per_megapixel: dict[str, float] = dataclasses.field(default_factory=dict)


def make_backend(name: Name, network: NestedUNet, kind: str, precision: Precision) -> Backend:
    """Return a backend for a network.

    Parameters
    ----------
    name : {"torch", "openvino"}
        Which one.
    network : NestedUNet
        On the CPU in float32, batch norms folded.
    kind : {"cpu", "cuda", "mps"}
        Device.
    precision : {"float32", "bfloat16", "float16"}
        Of activations and weights.

    Returns
    -------
    Backend
        Ready.
    """
    if name == "torch":
        return TorchBackend(network, kind, precision)
    from napari_unetpp.core.run.backends.openvino_cpu import OpenVinoBackend

    return OpenVinoBackend(network, precision)


def openvino_problem(kind: str, precision: Precision) -> str:
    """Return why OpenVINO cannot be used, as part of a sentence; empty if it can."""
    if kind != "cpu":
        return "OpenVINO is used on processors only"
    if precision == "float16":
        return "OpenVINO has no float16 on processors"
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed (pip install 'napari-unetpp[cpu]')"
    try:
        import napari_unetpp.core.run.backends.openvino_cpu  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"OpenVINO cannot be loaded ({str(error).splitlines()[0]})"
    return ""


def choose_backend(network: NestedUNet, device: Device, wanted: str | None = None) -> Choice:
    """Choose who computes a network.

    Parameters
    ----------
    network : NestedUNet
        On the CPU in float32, batch norms folded.
    device : Device
        Where it will run.
    wanted : {"auto", "torch", "openvino"}, optional
        "auto" takes the faster one. The environment variable ``NAPARI_UNETPP_BACKEND``, else
        "auto", if None.

    Returns
    -------
    Choice
        With the reason.

    Raises
    ------
    DeviceError
        If what was asked for is unknown, or cannot be used here.
    """
    word = wanted or os.environ.get(VARIABLE) or "auto"
    if word not in WORDS:
        source = "backend" if wanted else VARIABLE
        raise DeviceError(
            f"{source} must be auto, torch or openvino, got {word!r}; choose one of them."
        )
    if word == "torch":
        return Choice("torch", "PyTorch was asked for.")
    problem = openvino_problem(device.kind, device.precision)
    if word == "openvino":
        if problem:
            raise DeviceError(f"openvino was asked for, but {problem}; choose --backend auto.")
        return Choice("openvino", "OpenVINO was asked for.")
    if problem:
        return Choice("torch", f"{problem}, so PyTorch computes.")
    try:
        seconds = measured(network, device)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return Choice("torch", "memory was too short to try OpenVINO, so PyTorch computes.")
        first = " ".join(str(error).split())[:120]
        return Choice("torch", f"OpenVINO failed here ({first}), so PyTorch computes.")
    ratio = seconds["openvino"] / seconds["torch"]
    if ratio > _WORTH:
        return Choice("torch", f"PyTorch computes: OpenVINO took {ratio:.2f} of its time.", seconds)
    return Choice("openvino", f"OpenVINO computes, in {ratio:.2f} of PyTorch's time.", seconds)


def measured(network: NestedUNet, device: Device) -> dict[str, float]:
    """Return seconds for a megapixel at the deepest level by backend: kept, or measured now."""
    key = _key(network, device)
    path = cache_folder() / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]}.json"
    kept = _read(path, key)
    if kept is None:
        kept = _measure(network, device)
        _write(path, {"key": key, "seconds_per_megapixel": kept})
    return kept


def cache_folder() -> Path:
    """Return where measurements are kept."""
    return Path(platformdirs.user_cache_dir("napari-unetpp", appauthor=False)) / "backends"


def _key(network: NestedUNet, device: Device) -> list[Any]:
    import openvino  # installed, or nothing would be measured

    # What the libraries say of themselves: builds differ that packages number alike, and not
    # every package of them has a number.
    versions = [str(torch.__version__), str(openvino.__version__)]
    return [
        dataclasses.asdict(network.config) | {"filters": list(network.config.filters)},
        [device.kind, device.name, device.precision, platform.machine(), os.cpu_count()],
        torch.get_num_threads(),
        [napari_unetpp.__version__, *versions],
    ]


def _read(path: Path, key: list[Any]) -> dict[str, float] | None:
    """Return what a file holds; None if it is missing, damaged or of something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] != json.loads(json.dumps(key)):
            return None
        seconds = {name: float(found["seconds_per_megapixel"][name]) for name in TITLES}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    good = all(math.isfinite(value) and value > 0 for value in seconds.values())
    return seconds if good else None


def _write(path: Path, document: dict[str, Any]) -> None:
    """Write a file at once or not at all; a folder that cannot be written is no error."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise


def _measure(network: NestedUNet, device: Device) -> dict[str, float]:
    """Run both in turn and return the least time of each: what disturbs only adds to it."""
    config = network.config
    level = max(config.head_levels)
    step = 2**level
    side = -(-_SIDE[config.ndim] // step) * step
    shape = (1, config.in_channels, *(side,) * config.ndim)
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    backends: Sequence[Backend] = [
        make_backend(name, network, device.kind, device.precision) for name in ("torch", "openvino")
    ]
    for backend in backends:
        backend.run(x, (level,))  # kernels are chosen and memory is fetched here
    times: dict[str, list[float]] = {backend.name: [] for backend in backends}
    end = time.perf_counter() + _SECONDS
    for number in range(_ROUNDS):
        for backend in backends:
            start = time.perf_counter()
            backend.run(x, (level,))
            times[backend.name].append(time.perf_counter() - start)
        if number and time.perf_counter() > end:
            break
    pixels = math.prod(x.shape[2:]) / 1e6
    return {name: min(taken) / pixels for name, taken in times.items()}
