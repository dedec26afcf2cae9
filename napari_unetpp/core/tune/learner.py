"""One step after the other: the network that learns, and the running mean of its weights.

Knows batches and losses; not what is taught, when it is scored, nor any clock.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.nn.losses import cross_entropy, deep_supervision_loss
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.train.settings import learning_rate_factor
from napari_unetpp.core.tune.patches import TunedBatch
from napari_unetpp.core.tune.settings import AVERAGE, TuneConfig
from napari_unetpp.core.tune.start import hold_norms

RAREST = 10.0
"""Greatest weight of what is rare."""

ODD_STEPS = 20
"""So many steps in a row without a finite loss end the fine-tuning."""


class Learner:
    """A network, its optimiser, and the mean of its last states.

    Parameters
    ----------
    network : NestedUNet
        Trained in place, on the device and in the precision of the settings.
    card : ModelCard
        Activation and auxiliary channels.
    config : TuneConfig
        How.
    peak : float
        Highest learning rate.
    hold : bool
        Batch norm keeps its statistics: there is a base.
    trusted : ndarray of bool, optional
        (channels,): those that the base teaches. It is asked on every patch anew, by its deepest
        head: what it said of the whole window it said with more around it, and a network that is
        taught to say so in a patch says too much elsewhere (larynx in CT: half again as large).
    strokes : float
        Weight of the strokes as a whole beside all that is taught.

    Attributes
    ----------
    average : NestedUNet
        The running mean, in evaluation mode; this is what is scored and kept.
    steps : int
        Done so far.
    """

    def __init__(
        self,
        network: NestedUNet,
        card: ModelCard,
        config: TuneConfig,
        peak: float,
        hold: bool,
        trusted: NDArray[np.bool_] | None = None,
        strokes: float = 1.0,
    ) -> None:
        self._strokes = strokes
        self.network, self.card, self.config = network, card, config
        self._peak, self._hold, self._odd = peak, hold, 0
        trained = [p for p in network.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(trained, lr=peak, weight_decay=1e-4)
        self._trusted = None if trusted is None or not trusted.any() else torch.from_numpy(trusted)
        self._base = None
        if self._trusted is not None:
            self._base = copy.deepcopy(network).eval().requires_grad_(False)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.steps = 0

    def step(self, batch: TunedBatch, place: float) -> float:
        """Do one step and return its loss.

        Parameters
        ----------
        batch : TunedBatch
            What to learn from.
        place : float
            Share of the schedule that is over, in [0, 1].

        Raises
        ------
        InputError
            If the loss was not finite many times in a row.
        """
        device, config = torch.device(self.config.device), self.config
        # Dropout is a function of the step, as the batch is.
        torch.manual_seed(config.seed * 1_000_003 + self.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = self._peak * learning_rate_factor(place)
        self.network.train()
        if self._hold:
            hold_norms(self.network)
        last = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
        image = batch.image.to(device).contiguous(memory_format=last)
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"),
        ):
            heads = self.network.forward_heads(image)
            taught = self._taught(image, batch)
        loss = self._loss(heads, batch, *taught)
        self._optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        # A single odd patch must not throw the weights away.
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self._optimiser.step()
            self._odd = 0
        else:
            self._skip()
        self.steps += 1
        follow(self.average, self.network, min(AVERAGE, self.steps / (self.steps + 4)))
        return float(loss.detach())

    def _taught(self, image: Tensor, batch: TunedBatch) -> tuple[Tensor, Tensor]:
        """Return what is taught of a batch and how sure that is, (N, channels, *space) both."""
        soft, sure = batch.soft.to(image.device), batch.sure.to(image.device)
        lift = self.card.network.activation == "sigmoid"
        lifted = sure * rarity(soft, sure) if lift else sure
        if self._base is None or self._trusted is None:
            return soft, lifted
        with torch.no_grad():
            deepest = max(self._base.config.head_levels)
            said = self._base.probabilities(self._base.forward_heads(image)[deepest].float())
        chosen = self._trusted.to(image.device)[None, :, *(None,) * (soft.ndim - 2)]
        # The base is copied as it is: nothing of it is lifted.
        own = (2.0 * said - 1.0).abs() * (sure > 0)
        return torch.where(chosen, said, soft), torch.where(chosen, own, lifted)

    def _loss(
        self, heads: dict[int, Tensor], batch: TunedBatch, soft: Tensor, sure: Tensor
    ) -> Tensor:
        """Two means: the few painted pixels as a whole, and all the others together."""
        device = soft.device
        activation = self.card.network.activation
        loss = self._strokes * deep_supervision_loss(
            heads, batch.target.to(device), batch.known.to(device), activation,
            auxiliary=len(self.card.auxiliary),
        )  # fmt: skip
        for logits in heads.values():
            loss = loss + cross_entropy(logits.float(), soft, sure, activation)
        return loss

    def _skip(self) -> None:
        """Leave the weights as they are; too many such steps in a row end it."""
        self._odd += 1
        if self._odd >= ODD_STEPS:
            raise InputError(
                f"the loss was not finite for {ODD_STEPS} steps up to step {self.steps + 1}; fine-"
                "tune again with a lower learning rate, or from another base."
            )


def rarity(soft: Tensor, sure: Tensor) -> Tensor:
    """Return weights that lift what is rare in a batch, by the root of how rare it is.

    Parameters
    ----------
    soft, sure : Tensor
        (N, C, *space): the teacher's probabilities and how sure it is.

    Returns
    -------
    Tensor
        (N, C, *space); 1 where foreground and background of a channel balance, at most
        `RAREST` for the rare one. Without it a small organ is learned as nothing.
    """
    dims = [0, *range(2, soft.ndim)]
    shape = (1, -1) + (1,) * (soft.ndim - 2)
    up = (soft * sure).sum(dims).clamp_min(1.0)
    down = ((1.0 - soft) * sure).sum(dims).clamp_min(1.0)
    ratio = (down / up).sqrt().clamp(1.0 / RAREST, RAREST).view(shape)
    # Of both sides the rare one is lifted; the other one keeps its weight.
    return soft * ratio.clamp_min(1.0) + (1.0 - soft) * (1.0 / ratio).clamp_min(1.0)


def follow(average: NestedUNet, network: NestedUNet, decay: float) -> None:
    """Move a running mean of the weights towards a network's; counts are copied."""
    own: dict[str, Tensor] = nn.Module.state_dict(network)
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.is_floating_point() and "running_" not in name:
                value.lerp_(own[name], 1.0 - decay)
            else:
                value.copy_(own[name])
