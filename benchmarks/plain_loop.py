"""The training loop that everyone writes first, and with any part of ours added to it.

The same network, loss, batches and clipping as `core.train.training`, in float32, contiguous, a
batch made when it is needed. Knows nothing of what is compared or how it is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

from napari_unetpp.core.data.sampling import Batch, PatchSampler, channel_shares
from napari_unetpp.core.nn import network as network_module
from napari_unetpp.core.nn.losses import deep_supervision_loss
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.train.settings import TrainConfig, learning_rate_factor


@dataclass(frozen=True)
class Parts:
    """What is added to the plain loop."""

    last: bool = False
    bfloat16: bool = False
    ahead: bool = False
    fused: bool = False
    compiled: bool = False
    joining: bool = True


class Loop:
    """A training loop as it is written by hand, with any of the parts added."""

    def __init__(self, sampler: PatchSampler, config: TrainConfig, parts: Parts) -> None:
        card, self.sampler, self.config, self.parts = sampler.card, sampler, config, parts
        torch.manual_seed(config.seed)
        self.network = NestedUNet(card.network)
        self.network.set_head_biases(channel_shares(sampler.samples, card))
        self.network.to(config.device)
        self.last = torch.contiguous_format
        if parts.last:
            self.last = torch.channels_last if card.network.ndim == 2 else torch.channels_last_3d
        nn.Module.to(self.network, memory_format=self.last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=parts.fused,
        )
        self.forward: Callable[..., Any] = self.network.forward_heads
        if parts.compiled:
            self.forward = torch.compile(self.network.forward_heads)
        self.pool = ThreadPoolExecutor(max_workers=1)
        self.step = 0

    def close(self) -> None:
        """End the thread."""
        self.pool.shutdown(cancel_futures=True)

    def run(self, steps: int) -> None:
        """Train for a number of steps; every batch that is used is made within the call."""
        with ExitStack() as stack:
            if not self.parts.joining:
                stack.enter_context(plain_joining())
            upcoming = None
            for number in range(steps):
                if not self.parts.ahead:
                    self.train(self.sampler.batch(self.step))
                    continue
                batch = self.sampler.batch(self.step) if upcoming is None else upcoming.result()
                if number + 1 < steps:
                    upcoming = self.pool.submit(self.sampler.batch, self.step + 1)
                self.train(batch)

    def train(self, batch: Batch) -> None:
        """Do one step."""
        config, device = self.config, torch.device(self.config.device)
        rate = config.learning_rate * learning_rate_factor(self.step / config.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        card = self.sampler.card
        image = batch.image.to(device).contiguous(memory_format=self.last)
        self.network.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.parts.bfloat16):
            heads = self.forward(image)
        loss = deep_supervision_loss(
            heads,
            batch.target.to(device),
            batch.known.to(device),
            card.network.activation,
            auxiliary=len(card.auxiliary),
        )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        self.optimiser.step()
        self.step += 1


@contextmanager
def plain_joining() -> Iterator[None]:
    """Let networks concatenate and up-sample by PyTorch's own operations."""
    with (
        mock.patch.object(network_module, "join", lambda parts: torch.cat(list(parts), dim=1)),
        mock.patch.object(network_module, "upsample", lambda up, x: up(x)),
    ):
        yield
