"""How to train: the settings, what must fit the network, and the schedule.

Knows cards and augmentation; no tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import AugmentConfig
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.losses import LossKind

WARM_UP = 0.05


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults need no tuning for a first model.

    Attributes
    ----------
    steps : int
        Optimiser steps planned.
    max_seconds : float, optional
        Time budget over all resumed runs; the schedule anneals towards it.
    batch : int
        Patches a step.
    patch : tuple of int
        Patch size, (Y, X) or (Z, Y, X), multiples of 2^levels.
    learning_rate, weight_decay : float
        AdamW's; the rate is the peak of the schedule.
    validate_every : int
        Steps between two scorings of the held-out images.
    validate_images : int
        Held-out images, spread evenly, that are scored during training; the final scores
        are of all of them.
    patience : int
        Stop after so many scorings without a better one; 0 never stops early.
    checkpoint_seconds : float
        Least time between two checkpoints; one is also written with every scoring.
    foreground : float
        See `PatchSampler`.
    augment : AugmentConfig
        Variation of the patches.
    loss : {"cross-entropy+dice", "eq2"}
        Loss of a head.
    head_weights : tuple of float, optional
        η of each head, shallow first; 1 for all if None (TMI 2020, Eq. 3).
    seed : int
        Of weights, patches, augmentation and dropout.
    device, precision : str
        Where and in what number format the convolutions run: ``"float32"`` or
        ``"bfloat16"`` (weights and losses stay in float32).
    """

    steps: int = 3000
    max_seconds: float | None = None
    batch: int = 8
    patch: tuple[int, ...] = (128, 128)
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    validate_every: int = 250
    validate_images: int = 40
    patience: int = 12
    checkpoint_seconds: float = 60.0
    foreground: float = 0.5
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossKind = "cross-entropy+dice"
    head_weights: tuple[float, ...] | None = None
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.validate_every, self.validate_images) < 1:
            raise InputError(
                "steps, batch, validate_every and validate_images must be at least 1, got "
                f"{self.steps}, {self.batch}, {self.validate_every} and {self.validate_images}."
            )
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise InputError(f"max_seconds must be positive, got {self.max_seconds}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be positive, got {self.learning_rate}.")
        if not 0 <= self.foreground <= 1:
            raise InputError(f"foreground must lie in [0, 1], got {self.foreground}.")

    def check(self, card: ModelCard) -> None:
        """Check what depends on the network.

        Raises
        ------
        InputError
            If patch, loss or weights of the heads do not fit it.
        """
        network = card.network
        multiple = 2**network.levels
        if len(self.patch) != network.ndim or any(n < multiple or n % multiple for n in self.patch):
            raise InputError(
                f"patch must be {network.ndim} multiples of {multiple} for this network, "
                f"got {self.patch}."
            )
        if self.loss == "eq2" and network.activation != "softmax":
            raise InputError(
                "Eq. 2 as printed needs a softmax over at least two classes, got sigmoids; "
                "use softmax heads or cross-entropy+dice."
            )
        heads = len(network.head_levels)
        if self.head_weights is not None and (
            len(self.head_weights) != heads
            or not all(0 <= w < math.inf for w in self.head_weights)
            or sum(self.head_weights) <= 0
        ):
            raise InputError(
                f"head weights must be {heads} numbers from 0, one for each head and not all 0, "
                f"got {self.head_weights}."
            )

    def fingerprint(self, card: ModelCard, names: Sequence[str], data: str) -> str:
        """Return a hash of what must not change between a run and its continuation."""
        free = ("max_seconds", "device", "validate_images")
        own = {k: v for k, v in vars(self).items() if k not in free}
        text = json.dumps([own, card.to_json()["network"], sorted(names), data], default=vars)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def learning_rate_factor(progress: float) -> float:
    """Return the schedule: a linear warm-up over 5 %, then half a cosine down to 0.

    Parameters
    ----------
    progress : float
        Share of the training that is done, 0 to 1.
    """
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.02)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1.0 - WARM_UP))))
