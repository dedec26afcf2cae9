"""Precision: which one a device does natively, and whether it changes the answer.

Reduced precision is several times faster where the hardware has it and a hundred times
slower where it is emulated, so it is gated on the hardware and then checked against
float32 on real pixels. Knows no image and no model file.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from napari_unetpp.core.errors import DeviceError

Precision = Literal["float32", "bfloat16", "float16"]

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# Bounds of the check against float32. Trained nuclei weights moved by 0.065 and turned
# 0.016 % of the pixels in bfloat16; a network that does worse by far is not to be trusted.
MAX_DIFFERENCE = 0.1
MAX_TURNED = 0.005

# Edge of the piece on which the check is made, by the number of spatial axes.
_PROBE_EDGE = {2: 256, 3: 64}


def native_bfloat16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware."""
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        query = getattr(torch.cpu, name, None)  # private: may go away
        if query is not None and query():
            return True
    with contextlib.suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
        return not words.isdisjoint({"avx512_bf16", "amx_bf16"})
    return False


def choose_precision(kind: str, wanted: str = "auto") -> tuple[Precision, str]:
    """Choose the precision for a kind of device.

    Parameters
    ----------
    kind : {"cpu", "cuda", "mps"}
        Where the network will run.
    wanted : {"auto", "float32", "bfloat16", "float16"}
        What was asked for.

    Returns
    -------
    str
        The precision.
    str
        Why not a faster one, in one sentence; empty if there is none or the user chose.

    Raises
    ------
    DeviceError
        If the device cannot do what was asked for, or only in software.
    """
    if wanted not in ("auto", *get_args(Precision)):
        raise DeviceError(
            f"precision must be auto, float32, bfloat16 or float16, got {wanted!r}; "
            "choose one of them."
        )
    if wanted == "float32":
        return "float32", ""
    if kind == "cpu":
        return _on_cpu(wanted)
    if kind == "cuda":
        return _on_cuda(wanted)
    if wanted == "float16":
        return "float16", ""
    if wanted == "bfloat16":
        raise DeviceError(
            "bfloat16 is not offered on Apple GPUs; choose --precision float16 or float32."
        )
    return "float32", "float32 is the precision that is known to be right on Apple GPUs."


def _on_cpu(wanted: str) -> tuple[Precision, str]:
    if wanted == "float16":
        raise DeviceError(
            "float16 is emulated on processors and slower than float32 there; "
            "choose --precision bfloat16 or float32, or a GPU."
        )
    if native_bfloat16():
        return "bfloat16", ""
    if wanted == "bfloat16":
        raise DeviceError(
            "this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX) and would run it "
            "many times slower than float32; choose --precision float32."
        )
    return "float32", "this processor has no bfloat16 arithmetic (AVX512-BF16 or AMX)."


def _on_cuda(wanted: str) -> tuple[Precision, str]:
    major, minor = torch.cuda.get_device_capability()
    if wanted == "bfloat16" and major < 8:
        raise DeviceError(
            f"this GPU (compute capability {major}.{minor}) has no bfloat16 arithmetic, which "
            "needs 8.0; choose --precision float16 or float32."
        )
    if wanted in ("float16", "bfloat16"):
        return ("float16" if wanted == "float16" else "bfloat16"), ""
    if major >= 8:
        return "bfloat16", ""
    if major == 7:
        return "float16", ""
    return "float32", f"this GPU (compute capability {major}.{minor}) has no fast float16."


def probe_region(x: NDArray[np.float32], level: int) -> tuple[slice, ...]:
    """Choose the piece of a batch that tells most about precision.

    Parameters
    ----------
    x : ndarray of float32, shape (N, C, *space)
        A batch of windows, multiples of 2^level in size.
    level : int
        Level that will run.

    Returns
    -------
    tuple of slice
        A region of `x` with N = 1, at most 256² pixels (64³ voxels): the one whose
        intensities vary most, since on empty background every precision agrees.
    """
    edge = max(_PROBE_EDGE[x.ndim - 2], 2**level)
    counts = [max(1, n // edge) for n in x.shape[2:]]
    best: tuple[slice, ...] = ()
    spread = -1.0
    for item in range(x.shape[0]):
        for place in np.ndindex(*counts):
            space = tuple(
                slice(p * edge, min((p + 1) * edge, n))
                for p, n in zip(place, x.shape[2:], strict=True)
            )
            region = (slice(item, item + 1), slice(None), *space)
            deviation = float(x[region].std())
            if deviation > spread:
                best, spread = region, deviation
    return best


@dataclass(frozen=True)
class Agreement:
    """How far probabilities of a reduced precision are from those of float32.

    Attributes
    ----------
    difference : float
        Largest difference of a probability; infinite if one is not finite.
    turned : float
        Share of the pixels whose decision differs, 0 to 1.
    """

    difference: float
    turned: float

    @property
    def good(self) -> bool:
        """Whether both lie within the bounds."""
        return self.difference <= MAX_DIFFERENCE and self.turned <= MAX_TURNED


def compare(
    reference: NDArray[np.float32], other: NDArray[np.float32], threshold: float | None
) -> Agreement:
    """Compare two arrays of probabilities.

    Parameters
    ----------
    reference, other : ndarray of float32, shape (N, C, *space)
        Probabilities in float32 and in the reduced precision.
    threshold : float, optional
        Probability that decides; the largest channel decides if None (softmax).

    Returns
    -------
    Agreement
        Largest difference, and share of decisions that turned.
    """
    if not np.isfinite(other).all():
        return Agreement(math.inf, 1.0)
    difference = float(np.abs(reference - other).max())
    if threshold is None:
        turned = np.mean(reference.argmax(axis=1) != other.argmax(axis=1))
    else:
        turned = np.mean(((reference > threshold) != (other > threshold)).any(axis=1))
    return Agreement(difference, float(turned))
