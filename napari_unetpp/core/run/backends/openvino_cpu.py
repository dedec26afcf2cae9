"""The network in OpenVINO, for processors: one graph for the levels of a pass.

Nodes are not kept: every one that leaves a graph is copied and laid out anew, which costs more
than the shallow level that it would save. So a session runs the first level by itself and then
all that are left from one graph. Imported only where OpenVINO is installed.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray

from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.backends.base import Before, Crop, Name
from napari_unetpp.core.run.backends.graph import build_graph
from napari_unetpp.core.run.memory import budget_bytes, bytes_per_pixel, return_free_heap
from napari_unetpp.core.run.precision import DTYPES, Precision

_GRAPHS = 5  # each holds the weights once more, in its own layout
_LOOK_MS = 20  # how often a pass looks whether it is still wanted
_KEPT_SHARE = 0.25  # of what a pass may take, as memory kept for the next one
_HINTS: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


@functools.cache
def _core() -> ov.Core:
    return ov.Core()


@dataclass(frozen=True)
class _Graph:
    compiled: Any
    request: Any
    threads: int


class OpenVinoBackend:
    """Graphs of a network, compiled when they are first needed.

    Parameters
    ----------
    network : NestedUNet
        On the CPU in float32, batch norms folded; not changed and not copied.
    precision : {"float32", "bfloat16"}
        Set in words: by itself OpenVINO would take bfloat16 wherever there is AMX.
    """

    name: Name = "openvino"
    keeps_nodes = False

    def __init__(self, network: NestedUNet, precision: Precision) -> None:
        self.precision: Precision = precision
        self._network = network
        self._graphs: OrderedDict[tuple[int, ...], _Graph] = OrderedDict()

    def prepare(self, levels: Sequence[int]) -> None:
        """Build and compile the graph of these levels, or find it."""
        self._graph(tuple(levels))

    def run(
        self,
        x: NDArray[np.float32],
        levels: Sequence[int],
        crop: Crop | None = None,
        before: Before | None = None,
    ) -> NDArray[np.float32]:
        """Run one pass."""
        found = self._infer(x, tuple(levels), crop, before)
        return found[0] if len(found) == 1 else np.mean(found, axis=0, dtype=np.float32)

    def groups(self, levels: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the first level alone, and the rest together."""
        first, rest = tuple(levels[:1]), tuple(levels[1:])
        return [first, rest] if rest else [first]

    def session(self, x: NDArray[np.float32]) -> OpenVinoSession:
        """Hold the input."""
        return OpenVinoSession(self, x)

    def release(self) -> None:
        """Give back what the graphs keep for their next pass; the weights stay."""
        for graph in self._graphs.values():
            graph.compiled.release_memory()
        return_free_heap()

    def levels(
        self, x: NDArray[np.float32], levels: Sequence[int], before: Before | None
    ) -> dict[int, NDArray[np.float32]]:
        """Return several levels from one graph."""
        found = self._infer(x, tuple(levels), None, before)
        return dict(zip(levels, found, strict=True))

    def _graph(self, levels: tuple[int, ...]) -> _Graph:
        threads = torch.get_num_threads()  # the one setting that there is for threads
        graph = self._graphs.get(levels)
        if graph is None or graph.threads != threads:
            compiled = _core().compile_model(
                build_graph(self._network, levels),
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _HINTS[self.precision],
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": "1",
                    "PERFORMANCE_HINT": "LATENCY",
                    # Others live on the machine too: a thread must be able to move away.
                    "ENABLE_CPU_PINNING": False,
                },
            )
            graph = _Graph(compiled, compiled.create_infer_request(), threads)
            self._graphs[levels] = graph
            while len(self._graphs) > _GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(levels)
        return graph

    def _infer(
        self,
        x: NDArray[np.float32],
        levels: tuple[int, ...],
        crop: Crop | None,
        before: Before | None,
    ) -> list[NDArray[np.float32]]:
        if before is not None:
            before()
        graph = self._graph(levels)
        request = graph.request
        window = np.ascontiguousarray(x, dtype=np.float32)
        request.start_async({0: window}, share_inputs=True)
        try:
            while not request.wait_for(_LOOK_MS):
                if before is not None:
                    before()
            request.wait()  # raises what went wrong
        except BaseException:
            request.cancel()
            with contextlib.suppress(RuntimeError):
                request.wait()
            # What was left in the middle keeps the sizes of that pass and fails, or gives stale
            # results, from then on (OpenVINO 2026.4); compiling anew takes a tenth of a second.
            self._graphs.pop(levels, None)
            raise
        inner = (slice(None), slice(None), *(crop or ()))
        found = [
            np.array(request.get_output_tensor(k).data[inner], np.float32, order="C")
            for k in range(len(levels))
        ]
        self._bound(math.prod((x.shape[0], *x.shape[2:])), max(levels))
        return found

    def _bound(self, pixels: int, level: int) -> None:
        """Let go of what a large pass left behind: keeping it saves little there."""
        itemsize = DTYPES[self.precision].itemsize
        kept = pixels * bytes_per_pixel(self._network.config, level, itemsize)
        if kept > _KEPT_SHARE * budget_bytes("cpu"):
            self.release()


class OpenVinoSession:
    """Levels of one input, each group from a graph of its own."""

    def __init__(self, backend: OpenVinoBackend, x: NDArray[np.float32]) -> None:
        self._backend, self._x = backend, x

    def advance(
        self, levels: Sequence[int], before: Before | None
    ) -> dict[int, NDArray[np.float32]]:
        """Run the graph of these levels."""
        return self._backend.levels(self._x, levels, before)
