"""How a network runs: a model put on a device, in a precision that was checked.

A :class:`Runner` turns arrays into probabilities. It knows the network and its card, and
nothing of images, axes, tiles or files.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.folding import fold_batch_norm
from napari_unetpp.core.nn.network import NestedUNet, Nodes
from napari_unetpp.core.run.device import Device, choose_device
from napari_unetpp.core.run.precision import (
    DTYPES,
    MAX_DIFFERENCE,
    Agreement,
    Precision,
    compare,
    probe_region,
)

__all__ = ["Device", "Level", "Runner", "choose_device", "seed_everything"]

Level = int | Literal["ensemble"]


def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, numpy's old interface and torch.

    Running a network needs none of them; training does.

    Parameters
    ----------
    seed : int
        0 to 2**32 - 1.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Runner:
    """A model on a device: batch norm folded, channels last, precision checked by level.

    A level that a reduced precision does not serve runs in float32; the others stay.

    Parameters
    ----------
    model : Model
        Its network is copied, never changed.
    device : Device
        From :func:`choose_device`.

    Attributes
    ----------
    card : ModelCard
        The model's card.
    device : Device
        Where it runs now, and the precision that was chosen; changes with a fallback to the
        CPU. What a level runs in is for :meth:`precision_of` to say.
    notes : list of Note
        Fallbacks that happened, in order.
    agreements : dict
        Result of the check against float32, by level.
    interrupt : callable, optional
        Called before every node that is computed, so that a pass can be left in the middle:
        what it raises ends the pass, comes out unchanged and leaves the runner as it was. It
        must not look like an error of memory, which has an answer of its own. None at first.
    """

    def __init__(self, model: Model, device: Device) -> None:
        self.card: ModelCard = model.card
        self.device = device
        self.notes: list[Note] = []
        self.agreements: dict[Level, Agreement] = {}
        self.interrupt: Callable[[], None] | None = None
        own = copy.deepcopy(model.network).eval().requires_grad_(False).float().cpu()
        self._master: NestedUNet = fold_batch_norm(own)
        self._network = self._place(DTYPES[device.precision])
        self._exact: NestedUNet | None = None  # in float32, once a level needs it

    def _place(self, dtype: torch.dtype) -> NestedUNet:
        network = copy.deepcopy(self._master).eval().requires_grad_(False)
        network.to(device=self.device.kind, dtype=dtype)
        # Only weights of convolutions have the axes that the layout is about.
        return network.to(memory_format=self._layout())  # type: ignore[call-overload,no-any-return]

    def _layout(self) -> torch.memory_format:
        three = self.card.network.ndim == 3
        return torch.channels_last_3d if three else torch.channels_last

    def stage_of(self, level: Level) -> int:
        """Return the last stage that a level runs: sets alignment and halo.

        Raises
        ------
        InputError
            If the level was not trained.
        """
        trained = self.card.levels_trained
        if level == "ensemble":
            return max(trained)
        if isinstance(level, bool) or not isinstance(level, int) or level not in trained:
            choices = ", ".join(str(k) for k in sorted(trained))
            raise InputError(
                f"model {self.card.name!r} was trained at level {choices}, got {level!r}; "
                "choose one of these or ensemble."
            )
        return level

    def precision_of(self, level: Level) -> Precision:
        """Return the precision of a level: float32 if the device's own was found wanting."""
        found = self.agreements.get(level)
        return self.device.precision if found is None or found.good else "float32"

    def _network_of(self, level: Level) -> NestedUNet:
        found = self.agreements.get(level)
        return self._network if found is None or found.good else self._in_float32()

    def _in_float32(self) -> NestedUNet:
        if self._exact is None:
            self._exact = self._place(torch.float32)
        return self._exact

    def probabilities(
        self, x: NDArray[np.float32], level: Level, crop: tuple[slice, ...] | None = None
    ) -> NDArray[np.float32]:
        """Run the network at one level.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, *space)
            Normalised windows; each spatial size a multiple of 2^level.
        level : int or "ensemble"
            A trained level, or the mean of all trained ones.
        crop : tuple of slice, optional
            Part of the window along each spatial axis that is wanted.

        Returns
        -------
        ndarray of float32, shape (N, channels, *space)
            Probabilities, of `crop` if it is given.

        Raises
        ------
        InputError
            If the level was not trained, or a size does not fit.
        """
        self.stage_of(level)
        self._check_precision(x, level)
        network = self._network_of(level)
        with torch.inference_mode(), self._arithmetic(network):
            result = self._run(network, self._to_device(x, network), level)
            if crop is not None:
                result = result[(slice(None), slice(None), *crop)]
            return _to_host(result)

    def levels(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Run one trained level after the other, each from the kept nodes of those before.

        After a level that needs float32 the deeper ones run in it too, for its nodes. Leaving
        the generator paused keeps the nodes: it goes deeper whenever it is continued, and
        closing it lets go of them.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, *space)
            Normalised input; sizes multiples of 2^L with L the deepest trained level.

        Yields
        ------
        int
            The level.
        ndarray of float32, shape (N, channels, *space)
            Its probabilities.
        """
        nodes: Nodes | None = None
        network = self._network
        tensor: Tensor | None = None
        for level in sorted(self.card.levels_trained):
            if network is self._network:
                self._check_precision(x, level)
                network = self._network_of(level)
                if network is not self._network:  # fell back: nodes do not fit
                    nodes = tensor = None
            if tensor is None:
                tensor = self._to_device(x, network)
            with torch.inference_mode(), self._arithmetic(network):
                nodes = network.run_stages(tensor, level, nodes, before=self.interrupt)
                result = network.probabilities(network.head(level, nodes).float())
                found = _to_host(result)
            yield level, found

    def to_cpu(self, why: str) -> None:
        """Move the network to the CPU and add a Note that says `why`."""
        self.device = choose_device("cpu")
        self.agreements.clear()
        self._exact = None
        self._network = self._place(DTYPES[self.device.precision])
        self.notes.append(Note(f"{why}; going on with the CPU.", "fallback-cpu"))

    def _to_device(self, x: NDArray[np.float32], network: NestedUNet) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        first = next(network.parameters())
        tensor = tensor.to(device=first.device, dtype=first.dtype)
        return tensor.contiguous(memory_format=self._layout())  # (N, C, *space)

    def _arithmetic(self, network: NestedUNet) -> AbstractContextManager[None]:
        if self.device.kind != "cuda":
            return nullcontext()
        # "float32" means float32: TF32 keeps 10 bits of it, and tiles would not fit to 1e-5.
        exact = next(network.parameters()).dtype == torch.float32
        return cast(
            AbstractContextManager[None],
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=not exact),
        )

    def _run(self, network: NestedUNet, x: Tensor, level: Level) -> Tensor:
        nodes = network.run_stages(x, self.stage_of(level), keep=False, before=self.interrupt)
        levels = self.card.levels_trained if level == "ensemble" else (level,)
        found = [network.probabilities(network.head(k, nodes).float()) for k in levels]
        return found[0] if level != "ensemble" else torch.stack(found).mean(dim=0)

    def _check_precision(self, x: NDArray[np.float32], level: Level) -> None:
        if self.device.precision == "float32" or level in self.agreements:
            return
        piece = x[probe_region(x, self.stage_of(level))]
        threshold = None
        if self.card.network.activation == "sigmoid":
            threshold = self.card.threshold
        exact = self._exact or self._place(torch.float32)  # kept if a level needs it alone
        reference, reduced = (self._on_piece(piece, net, level) for net in (exact, self._network))
        found = compare(reference, reduced, threshold)
        self.agreements[level] = found
        if found.good:
            return
        self._exact = exact
        name = level if level == "ensemble" else f"L{level}"
        self.notes.append(
            Note(
                f"{self.device.precision} changed probabilities by up to {found.difference:.2g} "
                f"(at most {MAX_DIFFERENCE:g} is accepted) and {100 * found.turned:.2g} % of the "
                f"pixels at {name}, so float32 is used there.",
                "precision-fallback",
            )
        )

    def _on_piece(
        self, piece: NDArray[np.float32], network: NestedUNet, level: Level
    ) -> NDArray[np.float32]:
        with torch.inference_mode(), self._arithmetic(network):
            return _to_host(self._run(network, self._to_device(piece, network), level))


def _to_host(x: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.float().cpu().numpy())
