"""Memory: how much a pass needs, how much there is, how much was used, and giving it back.

Knows devices by their kind alone ("cpu", "cuda", "mps"); no image, no model file.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from types import TracebackType

import psutil
import torch

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.nn.variants import kept_values

# What allocators other than torch's own CUDA one say, in a bare RuntimeError.
_EXHAUSTED = (
    "can't start new thread",  # whose stack wants memory too
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "bad_alloc",
    "alloc_failed",
    "could not create a memory object",
)

# Of "[enforce fail at alloc_cpu.cpp:...] can't allocate memory", which torch's allocator writes
# into memory that it has not got: the 15 letters that a C++ string holds without asking for any.
_CUT = "[enforce fail a"

# Share of the free memory that one pass may take: others live on the machine too.
SHARE = {"cpu": 0.3, "cuda": 0.8, "mps": 0.4}


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out.

    Parameters
    ----------
    error : BaseException
        What was raised: torch's and Python's own errors and the ``RuntimeError`` of the
        CPU's allocator and of GPU libraries are known.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    if not isinstance(error, RuntimeError):
        return False
    return text == _CUT or any(words in text for words in _EXHAUSTED)


def free_memory(kind: str) -> None:
    """Give back what is cached on a device ("cpu", "cuda" or "mps")."""
    gc.collect()
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


def return_free_heap() -> None:
    """Hand freed memory back to the system, where the C library can."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def budget_bytes(kind: str) -> float:
    """Return how many bytes one pass may take on a device of this kind, now."""
    if kind == "cuda":
        free, _ = torch.cuda.mem_get_info()
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return SHARE[kind] * (free + cached)
    return SHARE[kind] * float(psutil.virtual_memory().available)


def bytes_per_pixel(config: NetworkConfig, level: int, itemsize: int) -> float:
    """Estimate the peak memory of a pass, for each pixel (voxel) of its input.

    Every node is counted once and the largest concatenation beside them twice; measured
    peaks of the paper's network lie within a third of it.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    level : int
        Last stage that runs.
    itemsize : int
        Bytes of an activation: 4 in float32, 2 in the reduced precisions.

    Returns
    -------
    float
        Bytes per pixel of a window.
    """
    widest = (level + 1) * config.filters[0]
    ends = config.in_channels + config.out_channels
    return float(itemsize * (kept_values(config, level) + 2 * widest + ends))


def waiting_bytes_per_pixel(config: NetworkConfig) -> float:
    """Return the memory beside a pass of the same size, for each pixel (voxel) of its input.

    What is read ahead, as it was read and normalised, and what is not yet written.

    Parameters
    ----------
    config : NetworkConfig
        The network.
    """
    return float(8 * config.in_channels + 4 * config.out_channels)


class PeakMemory:
    """Context manager that measures the peak of memory over what was in use before.

    Parameters
    ----------
    kind : {"cpu", "cuda", "mps"}
        With "cuda" the GPU's memory is measured as well.
    interval : float
        Seconds between two looks at the resident memory.

    Attributes
    ----------
    host_bytes, device_bytes : int
        Peak of the resident memory over its start, and of the GPU's; set on leaving.
    """

    def __init__(self, kind: str = "cpu", interval: float = 0.005) -> None:
        self.kind = kind
        self.interval = interval
        self.host_bytes = 0
        self.device_bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._baseline = 0
        self._device_baseline = 0

    @property
    def megabytes(self) -> float:
        """Peak in MiB where the network runs: the GPU's with "cuda", else the host's."""
        return (self.device_bytes if self.kind == "cuda" else self.host_bytes) / 2**20

    def __enter__(self) -> PeakMemory:
        """Take the baseline and begin to watch."""
        gc.collect()
        self._baseline = self._process.memory_info().rss
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._device_baseline = torch.cuda.memory_allocated()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop watching and set the peaks."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        if self.kind == "cuda":
            peak = torch.cuda.max_memory_allocated()
            self.device_bytes = max(0, peak - self._device_baseline)

    def _look(self) -> None:
        self.host_bytes = max(self.host_bytes, self._process.memory_info().rss - self._baseline)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self._look()
