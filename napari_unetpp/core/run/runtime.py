"""How a network runs: a model put on a device, by a backend whose numbers were checked.

A :class:`Runner` turns arrays into probabilities. It knows the network and its card, and
nothing of images, axes, tiles or files.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.folding import fold_batch_norm
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.backends.base import TITLES, Backend, Name, Session
from napari_unetpp.core.run.backends.choice import Choice, choose_backend, make_backend
from napari_unetpp.core.run.backends.pytorch import TorchBackend
from napari_unetpp.core.run.device import Device, choose_device
from napari_unetpp.core.run.memory import is_out_of_memory
from napari_unetpp.core.run.precision import (
    MAX_DIFFERENCE,
    Agreement,
    Precision,
    compare,
    probe_region,
)

__all__ = ["Device", "Level", "Runner", "choose_device", "seed_everything"]

Level = int | Literal["ensemble", "auto"]


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
    """A model on a device: batch norm folded, numbers checked by level.

    What is fast is tried first and compared with PyTorch in float32 on the first real pixels of
    each level; a level that it does not serve goes to the next: the same backend in float32,
    then PyTorch in float32. The other levels stay.

    Parameters
    ----------
    model : Model
        Its network is copied, never changed.
    device : Device
        From :func:`choose_device`.
    backend : {"torch", "openvino", "auto"}, optional
        Who computes. "auto" takes the faster one (see
        :func:`~napari_unetpp.core.run.backends.choice.choose_backend`), None what the
        environment says, else "auto".

    Attributes
    ----------
    card : ModelCard
        The model's card.
    device : Device
        Where it runs now, and the precision that was chosen; changes with a fallback to the
        CPU. What a level runs in is for :meth:`precision_of` to say.
    choice : Choice
        The backend and why it was taken; :meth:`backend_of` says what a level runs on.
    notes : list of Note
        Fallbacks that happened, in order.
    agreements : dict
        Result of the last check against PyTorch in float32, by level.
    interrupt : callable, optional
        Called before every node that is computed (every few milliseconds where the backend has
        no nodes), so that a pass can be left in the middle: what it raises ends the pass, comes
        out unchanged and leaves the runner as it was. It must neither look like an error of
        memory nor be a plain RuntimeError, as backends raise it when they fail: both have an
        answer of their own. None at first.
    deep_in_a_row : int
        Windows in a row that went deep with "auto", over all images: what the next is expected
        to do. Changes what is computed first, never the result.
    """

    def __init__(self, model: Model, device: Device, backend: str | None = "torch") -> None:
        self.card: ModelCard = model.card
        self.device = device
        self.notes: list[Note] = []
        self.agreements: dict[Level, Agreement] = {}
        self.interrupt: Callable[[], None] | None = None
        self.deep_in_a_row = 0
        own = copy.deepcopy(model.network).eval().requires_grad_(False).float().cpu()
        self._master: NestedUNet = fold_batch_norm(own)
        self._wanted = backend
        self.choice = choose_backend(self._master, device, backend)
        self._rungs = _ladder(self.choice.name, device.precision)
        self._rung: dict[Level, int] = {}  # where a level stands; 0 if it was not checked
        self._made: dict[tuple[Name, Precision], Backend] = {}
        if self.choice.name == "torch":
            self._backend(0)

    @property
    def reference(self) -> TorchBackend:
        """PyTorch in float32, which everything else is compared with."""
        return cast(TorchBackend, self._backend(len(self._rungs) - 1))

    def _backend(self, rung: int) -> Backend:
        spec = self._rungs[rung]
        if spec not in self._made:
            self._made[spec] = make_backend(spec[0], self._master, self.device.kind, spec[1])
        return self._made[spec]

    def stage_of(self, level: Level) -> int:
        """Return the last stage that a level runs: sets alignment and halo.

        Raises
        ------
        InputError
            If the level was not trained.
        """
        trained = self.card.levels_trained
        if level in ("ensemble", "auto"):
            return max(trained)
        if isinstance(level, bool) or not isinstance(level, int) or level not in trained:
            choices = ", ".join(str(k) for k in sorted(trained))
            raise InputError(
                f"model {self.card.name!r} was trained at level {choices}, got {level!r}; "
                "choose one of these, auto or ensemble."
            )
        return level

    def precision_of(self, level: Level) -> Precision:
        """Return the precision of a level: float32 if the device's own was found wanting."""
        return self._rungs[self._rung_of(level)][1]

    def backend_of(self, level: Level) -> Name:
        """Return the backend of a level: PyTorch if another was found wanting."""
        return self._rungs[self._rung_of(level)][0]

    def _rung_of(self, level: Level) -> int:
        """Return where a level stands; "auto" ends at the deepest one."""
        return self._rung.get(self.stage_of(level) if level == "auto" else level, 0)

    def _heads(self, level: Level) -> tuple[int, ...]:
        if level == "auto":
            raise InputError("auto chooses a level for each tile; give a level for a pass.")
        return tuple(self.card.levels_trained) if level == "ensemble" else (level,)

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
        self._check_input(x, self.stage_of(level))
        while True:
            backend = self._backend(self._check(x, (level,)))
            try:
                return backend.run(x, self._heads(level), crop, self.interrupt)
            except RuntimeError as error:
                if not self._leave(backend, error):
                    raise

    def levels(self, x: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Run one trained level after the other, each from the kept nodes of those before.

        A backend that keeps no nodes computes the first level by itself and then all others at
        one go. After a level that needs float32 the deeper ones run in it too, for its nodes.
        What is left when a backend fails is computed by PyTorch.
        Leaving the generator paused keeps the nodes: it goes deeper whenever it is continued,
        and closing it lets go of them.

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
        left = sorted(self.card.levels_trained)
        self._check_input(x, left[-1])
        rung, ladder = 0, self._rungs
        backend: Backend | None = None
        session: Session | None = None
        groups: list[tuple[int, ...]] = []
        while left:
            if self._rungs is not ladder:  # another backend or device, from its first rung on
                rung, ladder, session = 0, self._rungs, None
            if backend is None or backend.name != ladder[rung][0]:
                # Once for a backend: levels that it computes at one go stay together.
                groups = self._backend(rung).groups(left)
            backend = self._backend(rung)
            needed = max(rung, self._check(x, groups[0]))
            if self._rungs is not ladder or needed != rung:  # what was kept does not fit
                rung, session = needed, None
                continue
            session = session or backend.session(x)
            try:
                found = session.advance(groups[0], self.interrupt)
            except RuntimeError as error:
                if not self._leave(backend, error):
                    raise
                continue
            group = groups.pop(0)
            left = left[len(group) :]
            for level in group:
                yield level, found.pop(level)

    @property
    def keeps_nodes(self) -> bool:
        """Whether going deeper goes on from what was computed; else several levels are one pass."""
        return self._backend(0).keeps_nodes

    def several(
        self, x: NDArray[np.float32], levels: Sequence[int]
    ) -> dict[int, NDArray[np.float32]]:
        """Run some levels in one pass.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, *space)
            Normalised input; sizes multiples of 2^level of the deepest one.
        levels : sequence of int
            Trained levels.

        Returns
        -------
        dict of int to ndarray
            Probabilities by level, (N, channels, *space) each.
        """
        self._check_input(x, max(map(self.stage_of, levels)))
        while True:
            backend = self._backend(self._check(x, levels))
            try:
                return backend.session(x).advance(levels, self.interrupt)
            except RuntimeError as error:
                if not self._leave(backend, error):
                    raise

    def to_cpu(self, why: str) -> None:
        """Move the network to the CPU and add a Note that says `why`."""
        self.device = choose_device("cpu")
        self.agreements.clear()
        self._rung.clear()
        self._made.clear()
        self.choice = choose_backend(self._master, self.device, self._wanted)
        self._rungs = _ladder(self.choice.name, self.device.precision)
        self.notes.append(Note(f"{why}; going on with the CPU.", "fallback-cpu"))

    def release(self) -> None:
        """Give back memory that a backend keeps for its next pass."""
        for backend in self._made.values():
            backend.release()

    def _check_input(self, x: NDArray[np.float32], stage: int) -> None:
        network = self.card.network
        if x.ndim != network.ndim + 2 or x.shape[1] != network.in_channels:
            axes = "(N, C, Y, X)" if network.ndim == 2 else "(N, C, Z, Y, X)"
            raise InputError(
                f"the network takes {axes} with C = {network.in_channels}, "
                f"got shape {tuple(x.shape)}; add or remove axes."
            )
        if any(n % 2**stage or n == 0 for n in x.shape[2:]):
            raise InputError(
                f"spatial sizes must be multiples of {2**stage} at level {stage}, "
                f"got {tuple(x.shape[2:])}; pad the input."
            )

    def compare(self, x: NDArray[np.float32], levels: Sequence[Level]) -> None:
        """Compare levels with float32 on a window, those that were not yet; see `agreements`."""
        self._check(x, levels)

    def _check(self, x: NDArray[np.float32], levels: Sequence[Level]) -> int:
        """Return the first rung that serves all of some levels, checking those that are new."""
        new = [level for level in levels if level not in self.agreements]
        if len(self._rungs) > 1 and new:
            self._climb(x[probe_region(x, max(map(self.stage_of, new)))], new)
        return max(self._rung.get(level, 0) for level in levels)

    def _climb(self, piece: NDArray[np.float32], levels: Sequence[Level]) -> None:
        """Compare levels with the reference, rung after rung until each agrees."""
        expected = self._pass(self.reference, piece, levels)
        sigmoid = self.card.network.activation == "sigmoid"
        threshold = self.card.threshold if sigmoid else None
        left = list(levels)
        for rung in range(len(self._rungs) - 1):
            backend = self._backend(rung)
            try:
                reduced = self._pass(backend, piece, left)
            except RuntimeError as error:
                if not self._leave(backend, error):
                    raise
                self._check(piece, levels)
                return
            for level in list(left):
                found = compare(expected[level], reduced[level], threshold)
                self.agreements[level] = found
                if found.good:
                    left.remove(level)
                    continue
                self._rung[level] = rung + 1
                self._note_fallback(level, rung + 1, found)
            if not left:
                return

    def _pass(
        self, backend: Backend, x: NDArray[np.float32], levels: Sequence[Level]
    ) -> dict[Level, NDArray[np.float32]]:
        """Run some levels, in one pass if they are numbers and several."""
        if len(levels) == 1:
            heads = self._heads(levels[0])
            backend.prepare(heads)
            return {levels[0]: backend.run(x, heads, None, self.interrupt)}
        numbers = [level for level in levels if isinstance(level, int)]
        backend.prepare(numbers)
        found = backend.session(x).advance(numbers, self.interrupt)
        return {level: found[level] for level in numbers}

    def _note_fallback(self, level: Level, rung: int, found: Agreement) -> None:
        """Say that a level goes on at `rung`, and why."""
        (before, precision), (after, _) = self._rungs[rung - 1], self._rungs[rung]
        who = precision if before == "torch" else f"{TITLES[before]} in {precision}"
        then = "float32" if before == after else "PyTorch in float32"
        name = level if level == "ensemble" else f"L{level}"
        self.notes.append(
            Note(
                f"{who} changed probabilities by up to {found.difference:.2g} "
                f"(at most {MAX_DIFFERENCE:g} is accepted) and {100 * found.turned:.2g} % of the "
                f"pixels at {name}, so {then} is used there.",
                "precision-fallback",
            )
        )

    def _leave(self, backend: Backend, error: RuntimeError) -> bool:
        """Go on with PyTorch alone if it was OpenVINO that failed; return whether it was.

        What was checked before counts no more. Memory that ran out is no failure of a backend.
        """
        if backend.name == "torch" or type(error) is not RuntimeError or is_out_of_memory(error):
            return False
        first = " ".join(str(error).split())[:160]
        self.notes.append(
            Note(f"OpenVINO failed ({first}); going on with PyTorch.", "backend-fallback")
        )
        self.choice = Choice("torch", f"OpenVINO failed ({first}), so PyTorch computes.")
        self._rungs = _ladder("torch", self.device.precision)
        self._rung.clear()
        self.agreements.clear()
        self._made = {spec: made for spec, made in self._made.items() if spec[0] == "torch"}
        return True


def _ladder(name: Name, precision: Precision) -> tuple[tuple[Name, Precision], ...]:
    """Return backends and precisions from the one that is tried first to the one that is right."""
    tried: list[tuple[Name, Precision]] = [(name, precision), (name, "float32")]
    return tuple(dict.fromkeys([*tried, ("torch", "float32")]))
