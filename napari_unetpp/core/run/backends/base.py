"""What a backend is: the same network, computed by somebody.

A pass gives one level, or the mean of several. A session gives level after level of one
input: from kept nodes where handing them over is free, or several levels from one graph where
that is cheaper. Knows arrays; no image, no card and none of the backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_unetpp.core.run.precision import Precision

Name = Literal["torch", "openvino"]
Crop = tuple[slice, ...]
Before = Callable[[], None]

TITLES: dict[str, str] = {"torch": "PyTorch", "openvino": "OpenVINO"}


class Session(Protocol):
    """One input, of which more and more levels are computed."""

    def advance(
        self, levels: Sequence[int], before: Before | None
    ) -> dict[int, NDArray[np.float32]]:
        """Return the probabilities of a group of levels, (N, channels, *space) each."""
        ...


class Backend(Protocol):
    """A network in one precision, ready to run."""

    @property
    def name(self) -> Name:
        """Which one."""
        ...

    @property
    def precision(self) -> Precision:
        """Of activations and weights."""
        ...

    @property
    def keeps_nodes(self) -> bool:
        """Whether a session goes deeper from kept nodes, at no cost but what is new."""
        ...

    def prepare(self, levels: Sequence[int]) -> None:
        """Compile what a pass over these levels needs; fails here rather than in it."""
        ...

    def run(
        self,
        x: NDArray[np.float32],
        levels: Sequence[int],
        crop: Crop | None = None,
        before: Before | None = None,
    ) -> NDArray[np.float32]:
        """Run one pass and return the mean probability of the levels.

        Parameters
        ----------
        x : ndarray of float32, shape (N, C, *space)
            Sizes multiples of 2^level of the deepest one.
        levels : sequence of int
            One or several.
        crop : tuple of slice, optional
            Part along each spatial axis that is wanted.
        before : callable, optional
            Called at least before the pass and again and again while it runs; what it raises
            ends the pass and comes out unchanged.

        Returns
        -------
        ndarray of float32, shape (N, channels, *space)
            Probabilities.
        """
        ...

    def groups(self, levels: Sequence[int]) -> list[tuple[int, ...]]:
        """Return levels (in order) in groups, each of which a session computes at one go."""
        ...

    def session(self, x: NDArray[np.float32]) -> Session:
        """Begin with an input whose levels will be wanted one after the other."""
        ...

    def release(self) -> None:
        """Give back memory that was kept for the next pass."""
        ...
