"""The network in PyTorch: channels last, in a precision of the device; kept nodes are free.

It is the reference too: in float32 it is what every other backend is compared with.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_unetpp.core.nn.network import NestedUNet, Nodes
from napari_unetpp.core.run.backends.base import Before, Crop, Name
from napari_unetpp.core.run.precision import DTYPES, Precision


class TorchBackend:
    """A copy of a network on a device.

    Parameters
    ----------
    network : NestedUNet
        On the CPU in float32, batch norms folded; copied.
    kind : {"cpu", "cuda", "mps"}
        Device.
    precision : {"float32", "bfloat16", "float16"}
        Of weights and activations.
    tuned : bool
        Channels last. Without it the network runs as PyTorch would by itself, for comparisons.

    Attributes
    ----------
    network : NestedUNet
        The copy.
    """

    name: Name = "torch"
    keeps_nodes = True

    def __init__(
        self, network: NestedUNet, kind: str, precision: Precision, tuned: bool = True
    ) -> None:
        self.precision: Precision = precision
        self._kind = kind
        self._layout = torch.contiguous_format
        if tuned:
            three = network.config.ndim == 3
            self._layout = torch.channels_last_3d if three else torch.channels_last
        own = copy.deepcopy(network).eval().requires_grad_(False)
        own.to(device=kind, dtype=DTYPES[precision])
        # Only weights of convolutions have the axes that the layout is about.
        self.network: NestedUNet = own.to(memory_format=self._layout)  # type: ignore[call-overload]

    def prepare(self, levels: Sequence[int]) -> None:
        """Do nothing: every level is ready."""

    def run(
        self,
        x: NDArray[np.float32],
        levels: Sequence[int],
        crop: Crop | None = None,
        before: Before | None = None,
    ) -> NDArray[np.float32]:
        """Run one pass; nodes are freed after their last use."""
        network = self.network
        with torch.inference_mode(), self._arithmetic():
            nodes = network.run_stages(self._to_device(x), max(levels), keep=False, before=before)
            found = [network.probabilities(network.head(k, nodes).float()) for k in levels]
            result = found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)
            if crop is not None:
                result = result[(slice(None), slice(None), *crop)]
            return _to_host(result)

    def groups(self, levels: Sequence[int]) -> list[tuple[int, ...]]:
        """Return every level by itself: going on from kept nodes costs nothing."""
        return [(level,) for level in levels]

    def session(self, x: NDArray[np.float32]) -> TorchSession:
        """Put the input on the device."""
        return TorchSession(self, self._to_device(x))

    def release(self) -> None:
        """Do nothing: PyTorch keeps nothing of its own on processors."""

    def deepen(
        self, x: Tensor, nodes: Nodes | None, levels: Sequence[int], before: Before | None
    ) -> tuple[Nodes, dict[int, NDArray[np.float32]]]:
        """Return all nodes up to the deepest level, and the levels' probabilities."""
        network = self.network
        with torch.inference_mode(), self._arithmetic():
            nodes = network.run_stages(x, max(levels), nodes, before=before)
            return nodes, {
                k: _to_host(network.probabilities(network.head(k, nodes).float())) for k in levels
            }

    def _to_device(self, x: NDArray[np.float32]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        tensor = tensor.to(device=self._kind, dtype=DTYPES[self.precision])
        return tensor.contiguous(memory_format=self._layout)  # (N, C, *space)

    def _arithmetic(self) -> AbstractContextManager[None]:
        if self._kind != "cuda":
            return nullcontext()
        # "float32" means float32: TF32 keeps 10 bits of it, and tiles would not fit to 1e-5.
        return cast(
            AbstractContextManager[None],
            torch.backends.cudnn.flags(
                enabled=True, deterministic=True, allow_tf32=self.precision != "float32"
            ),
        )


class TorchSession:
    """Level after level from kept nodes; dropping it lets go of them."""

    def __init__(self, backend: TorchBackend, x: Tensor) -> None:
        self._backend, self._x = backend, x
        self._nodes: Nodes | None = None

    def advance(
        self, levels: Sequence[int], before: Before | None
    ) -> dict[int, NDArray[np.float32]]:
        """Compute what the kept nodes lack."""
        self._nodes, found = self._backend.deepen(self._x, self._nodes, levels, before)
        return found


def _to_host(x: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.float().cpu().numpy())
