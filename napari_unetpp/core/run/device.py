"""Which device to run on, and why it is not a better one.

Knows torch and the machine; no network, no image.
"""

from __future__ import annotations

import contextlib
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from napari_unetpp.core.errors import DeviceError
from napari_unetpp.core.run.precision import Precision, choose_precision

Kind = Literal["cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Device:
    """A device, the precision on it, and why it is not a better one.

    Attributes
    ----------
    kind : {"cpu", "cuda", "mps"}
        What it is.
    name : str
        Its name, for people.
    precision : {"float32", "bfloat16", "float16"}
        Precision of the network's activations and weights on it.
    reason : str
        Why no better device was taken, in one sentence.
    precision_reason : str
        Why no faster precision was taken, in one sentence; empty if there is none.
    """

    kind: Kind
    name: str
    precision: Precision
    reason: str
    precision_reason: str = ""


def _cuda_problem() -> str:
    """Return why CUDA cannot be used, in one sentence; empty if it can."""
    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return f"this PyTorch ({torch.__version__}) is a CPU build and can use no NVIDIA GPU."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            try:
                torch.ones(1, device="cuda").add_(1).item()
            except RuntimeError as error:
                first = str(error).splitlines()[0]
                return f"the GPU was found but does not work with this PyTorch ({first})."
            return ""
    if caught:
        return f"PyTorch finds no usable GPU ({str(caught[0].message).splitlines()[0]})."
    return "PyTorch is built for GPUs but finds no NVIDIA GPU or no driver on this machine."


def _mps_problem() -> str:
    """Return why Apple's GPU cannot be used, in one sentence; empty if it can."""
    if platform.system() != "Darwin":
        return "Apple GPUs (MPS) exist on macOS only."
    if not torch.backends.mps.is_built():
        return f"this PyTorch ({torch.__version__}) was built without Apple GPUs (MPS)."
    if not torch.backends.mps.is_available():
        return "macOS offers no GPU to PyTorch (MPS); it needs Apple silicon and macOS 14."
    return ""


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


def _make(kind: Kind, precision: str, reason: str) -> Device:
    chosen, why = choose_precision(kind, precision)
    name = _processor()
    if kind == "cuda":
        name = torch.cuda.get_device_name()
    elif kind == "mps":
        name = "Apple GPU"
    return Device(kind, name, chosen, reason, why)


def choose_device(device: str = "auto", precision: str = "auto") -> Device:
    """Choose where and in which precision to run.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
        "auto" takes CUDA, else MPS, else the CPU.
    precision : {"auto", "float32", "bfloat16", "float16"}
        "auto" takes the fastest that the device does in hardware.

    Returns
    -------
    Device
        With the reason why it is not a better one.

    Raises
    ------
    DeviceError
        If what was asked for is unknown or not available here.
    """
    if device == "cpu":
        return _make("cpu", precision, "the CPU was asked for.")
    if device == "cuda":
        if problem := _cuda_problem():
            raise DeviceError(f"cuda was asked for, but {problem} Choose --device auto or cpu.")
        return _make("cuda", precision, "the GPU was asked for.")
    if device == "mps":
        if problem := _mps_problem():
            raise DeviceError(f"mps was asked for, but {problem} Choose --device auto or cpu.")
        return _make("mps", precision, "the Apple GPU was asked for.")
    if device != "auto":
        raise DeviceError(
            f"device must be auto, cpu, cuda or mps, got {device!r}; choose one of them."
        )
    no_cuda = _cuda_problem()
    if not no_cuda:
        return _make("cuda", precision, "an NVIDIA GPU is the fastest device.")
    no_mps = _mps_problem()
    if not no_mps:
        return _make("mps", precision, "this Mac has an Apple GPU and no NVIDIA one.")
    return _make("cpu", precision, no_mps if platform.system() == "Darwin" else no_cuda)
