"""Which state is kept: the latest of those that held-out strokes call good.

Held-out strokes are few, and training goes on to teach what they do not show. So a later
state replaces an earlier one unless it is clearly worse; the base gives way only to what is
better. Knows scores and weights; no loop.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.tune.scoring import Score

TOLERANCE = 0.05
"""A state may score so much below the best one and still replace it. With a dozen strokes of
which four are held out, scores of states that were equal on the rest differed by more."""

TOWARDS = (0.8, 0.4, 0.2)
"""Share of the way from the base's weights to the learned ones at which a state is taken. On
three of four cases it was better there than at the end, on images of the kind too (weights in
between keep what the base knew: Wortsman et al., CVPR 2022, "Robust fine-tuning"). A smaller
share is tried where a state has forgotten what the base knows."""


class Keeper:
    """The best state so far.

    Parameters
    ----------
    start : NestedUNet
        What is kept before anything is learned.
    base : Score, optional
        Of the base on held-out strokes; None without a base, or if it lacks a class.

    Attributes
    ----------
    score : Score or None
        Of the state that is kept.
    step : int
        Where it was; 0 is the start.
    lead : float
        How much better than the base a state must be; 0 at first.
    """

    def __init__(self, start: NestedUNet, base: Score | None) -> None:
        self.score, self.step, self.lead = base, 0, 0.0
        self._base, self._top = base, None if base is None else base.mean
        self.state = _copy(start.state_dict())

    def offer(self, step: int, score: Score | None, network: NestedUNet) -> bool:
        """Keep a state if it deserves it, and return whether it did."""
        if score is not None:
            if self._base is not None and not (
                score.better_than(self._base) and score.mean >= self._base.mean + self.lead
            ):
                return False
            if self._top is not None and score.mean < self._top - TOLERANCE:
                return False
            self._top = max(score.mean, self._top or 0.0)
        # Without anything held out the last state is the best that is known.
        self.score, self.step = score, step
        self.state = _copy(network.state_dict())
        return True


def towards(network: NestedUNet, base: Mapping[str, Tensor], share: float) -> NestedUNet:
    """Return a copy of a network, so much of the way from a base's weights to its own."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for name, value in copied.state_dict().items():
            if value.is_floating_point() and "running_" not in name:
                value.lerp_(base[name].to(value.device), 1.0 - share)
    return copied


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
