"""Training of a network with deep supervision from prepared samples.

The loop: batches by step, AdamW, a schedule that warms up and anneals over the planned steps
or the time budget, whichever ends first; held-out scores of every level; the best state is
kept; checkpoints from which a killed run goes on. Files of images are read elsewhere
(`core.train.prepare`), the finished model is written by the caller.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import Augmenter
from napari_unetpp.core.data.sampling import Batch, PatchSampler, Sample, channel_shares
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, StepDone, Validated
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.losses import deep_supervision_loss
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.train.checkpoint import (
    STATE_FILE,
    TrainState,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)
from napari_unetpp.core.train.history import write_history
from napari_unetpp.core.train.settings import TrainConfig, learning_rate_factor
from napari_unetpp.core.train.validation import validate

log = logging.getLogger("napari_unetpp")

ODD_STEPS = 20
NOTHING_TO_SCORE = Note(
    "no class is labelled in the held-out images: nothing can be scored, and the last state is "
    "kept.",
    "held-out-empty",
)


@dataclass(frozen=True)
class TrainResult:
    """What a training ends with.

    Attributes
    ----------
    network : NestedUNet
        With the best weights, in evaluation mode, on the CPU.
    step : int
        Steps done.
    seconds : float
        Time spent, over all resumed runs.
    best_step : int
        Step of the best weights.
    scores : dict of int to dict of str to float
        Held-out scores of the best weights by level; empty without held-out images.
    reason : str
        Why it ended: ``"steps"``, ``"time"`` or ``"patience"``.
    """

    network: NestedUNet
    step: int
    seconds: float
    best_step: int
    scores: dict[int, dict[str, float]]
    reason: str


class _Training:
    """The mutable half of a training: network, optimiser, progress."""

    def __init__(self, card: ModelCard, config: TrainConfig, folder: Path, mark: str) -> None:
        self.card, self.config, self.folder, self.mark = card, config, folder, mark
        torch.manual_seed(config.seed)
        last = torch.channels_last if card.network.ndim == 2 else torch.channels_last_3d
        self.network = NestedUNet(card.network)
        self.network.to(config.device)
        nn.Module.to(self.network, memory_format=last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over the weights instead of a dozen
        )
        self.step = 0
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf
        self.best_step = 0
        self.stale = 0
        self.history: list[dict[str, Any]] = []
        self.reason = ""
        self.losses = [0.0, 0]  # sum and count since the last scoring
        self.odd_steps = 0
        self.whole = True  # no step is half done
        self.seconds_before = 0.0
        self.started = time.monotonic()
        self.saved = self.started

    @property
    def state_file(self) -> Path:
        return self.folder / STATE_FILE

    @property
    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one."""
        if not self.state_file.exists():
            return False
        state = load_state(self.state_file)
        progress = state.progress
        if progress["fingerprint"] != self.mark:
            raise InputError(
                f"{self.state_file} belongs to a training with other settings or images; "
                "give another folder, or delete it to start anew."
            )
        self.network.load_state_dict(state.weights)
        restore_optimiser(self.optimiser, state.optimiser)
        self.best = state.best
        for name in ("step", "best_score", "best_step", "stale", "history", "reason", "losses"):
            setattr(self, name, progress[name])
        if self.best_score is None:
            self.best_score = -math.inf
        self.seconds_before = progress["seconds"]
        return True

    def save(self) -> None:
        finite = self.best_score if math.isfinite(self.best_score) else None
        progress = {
            "fingerprint": self.mark,
            "step": self.step,
            "seconds": self.seconds,
            "best_score": finite,
            "best_step": self.best_step,
            "stale": self.stale,
            "history": self.history,
            "reason": self.reason,
            "losses": self.losses,
        }
        weights = dict(self.network.state_dict())
        tensors = optimiser_tensors(self.optimiser)
        save_state(self.state_file, TrainState(weights, self.best, tensors, progress))
        self.saved = time.monotonic()

    @property
    def progress(self) -> float:
        done = self.step / self.config.steps
        if self.config.max_seconds is not None:
            done = max(done, self.seconds / self.config.max_seconds)
        return done

    @property
    def scoring_is_due(self) -> bool:
        """Whether the state as it is should be scored and has not been."""
        scored = bool(self.history) and self.history[-1]["step"] == self.step
        at_stop = self.step % self.config.validate_every == 0 or bool(self.reason)
        return self.step > 0 and at_stop and not scored

    def train_step(self, batch: Batch) -> float:
        """Do one optimiser step and return its loss.

        Raises
        ------
        InputError
            If the loss was not finite many times in a row.
        """
        self.whole = False
        config = self.config
        device = torch.device(config.device)
        # Dropout is a function of the step, as the batch is: a resumed run draws the same.
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        rate = config.learning_rate * learning_rate_factor(self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        last = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
        image, target, known = (
            t.to(device).contiguous(memory_format=last)
            for t in (batch.image, batch.target, batch.known)
        )
        levels = self.card.network.head_levels
        weights = config.head_weights
        with (
            # The same seed gives the same weights on a GPU too.
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
            torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"),
        ):
            heads = self.network.forward_heads(image)
            with torch.autocast(device.type, enabled=False):
                loss = deep_supervision_loss(
                    heads,
                    target,
                    known,
                    self.card.network.activation,
                    weights=None if weights is None else dict(zip(levels, weights, strict=True)),
                    kind=config.loss,
                    auxiliary=len(self.card.auxiliary),
                )
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        # A single odd patch must not throw the weights away.
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self.optimiser.step()
            self.odd_steps = 0
        else:
            self._skip_step()
        self.step += 1
        value = float(loss.detach())
        self.losses = [self.losses[0] + value, self.losses[1] + 1]
        if self.step >= config.steps:
            self.reason = "steps"
        elif self.progress >= 1.0:
            self.reason = "time"
        self.whole = True
        return value

    def _skip_step(self) -> None:
        """Leave the weights as they are; too many such steps in a row end the training."""
        self.odd_steps += 1
        if self.odd_steps >= ODD_STEPS:
            raise InputError(
                f"the loss was not finite for {ODD_STEPS} steps up to step {self.step}; start "
                "anew with a lower learning rate."
            )

    def keep_if_best(self, scores: dict[int, dict[str, float]]) -> bool:
        """Compare by the mean Dice of all levels, so that no level is left to rot.

        Where the held-out images say nothing (no class of theirs is known), nothing is best.
        """
        if not scores:
            return False
        score = sum(s["dice_per_image"] for s in scores.values()) / len(scores)
        better = score > self.best_score
        if better:
            self.best_score, self.best_step, self.stale = score, self.step, 0
            self.best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        else:
            self.stale += 1
        return better

    def result(self) -> TrainResult:
        scores: dict[int, dict[str, float]] = {}
        if self.best:
            self.network.load_state_dict(self.best)
            row = next(r for r in reversed(self.history) if r["step"] == self.best_step)
            scores = {int(k): dict(v) for k, v in row["scores"].items()}
        network = self.network.cpu().eval()
        return TrainResult(
            network, self.step, self.seconds, self.best_step or self.step, scores, self.reason
        )


def train(
    training: Sequence[Sample],
    held_out: Sequence[Sample],
    card: ModelCard,
    config: TrainConfig,
    folder: Path,
    *,
    data: str = "",
    base: Model | None = None,
) -> Generator[Event, None, TrainResult]:
    """Train a network; go on from the folder's checkpoint if there is one.

    Parameters
    ----------
    training, held_out : sequence of Sample
        Images to learn from, and images to score on (may be empty).
    card : ModelCard
        Network, classes and auxiliary channels.
    config : TrainConfig
        How.
    folder : Path
        Gets ``state.safetensors`` and ``history.csv``.
    data : str
        A hash of the images and of how they were read; a checkpoint of other data is refused.
    base : Model, optional
        Start from its weights instead of random ones; its network must be the card's.

    Yields
    ------
    StepDone, Validated, Note
        Progress. Closing the generator stops after a step and saves a checkpoint.

    Returns
    -------
    TrainResult
        The network with the best weights.

    Raises
    ------
    InputError
        If the patch or the base does not fit the network, or the checkpoint is of another
        training.
    """
    config.check(card)
    if base is not None and base.card.network != card.network:
        raise InputError(
            f"the base {base.card.name!r} has {base.card.network}, expected {card.network}; "
            "choose a base of the same network, or start without one."
        )
    names = [s.name for s in training]
    origin = data if base is None else f"{data} from {base.sha256}"
    job = _Training(card, config, folder, config.fingerprint(card, names, origin))
    if job.resume():
        yield Note(f"going on from step {job.step}.", "resumed")
    elif base is not None:
        job.network.load_state_dict(base.network.state_dict())
    else:
        job.network.set_head_biases(channel_shares(training, card))
    augmenter = Augmenter(config.augment, config.patch)
    sampler = PatchSampler(
        training,
        card,
        augmenter,
        batch=config.batch,
        margin=config.augment.margin(card.network.ndim),
        foreground=config.foreground,
        seed=config.seed,
    )
    yield from _loop(job, sampler, held_out)
    return job.result()


def _loop(
    job: _Training, sampler: PatchSampler, held_out: Sequence[Sample]
) -> Generator[Event, None, None]:
    """Train until a reason to stop; leave a checkpoint however it ends."""
    config = job.config
    if job.reason == "time" and job.progress < 1.0:
        job.reason = ""  # the budget was raised
    with ThreadPoolExecutor(max_workers=1) as ahead:
        upcoming = ahead.submit(sampler.batch, job.step)
        try:
            while True:
                # First of all, because a run may have been stopped just before a scoring.
                if job.scoring_is_due:
                    scored = _score(job, held_out)
                    yield scored
                    if held_out and not scored.scores:
                        yield NOTHING_TO_SCORE
                if job.reason:
                    return
                batch = upcoming.result()
                upcoming = ahead.submit(sampler.batch, job.step + 1)
                loss = job.train_step(batch)
                if time.monotonic() - job.saved > config.checkpoint_seconds:
                    job.save()
                yield StepDone(job.step, config.steps, loss, job.seconds)
        finally:
            # A step that was broken off must not be saved: it would be done twice.
            if job.whole:
                job.save()


def _score(job: _Training, held_out: Sequence[Sample]) -> Validated:
    """Score the held-out images, keep the state if it is the best, write everything down."""
    scores: dict[int, dict[str, float]] = {}
    better = False
    if held_out:
        chosen = held_out[:: math.ceil(len(held_out) / job.config.validate_images)]
        scores = validate(job.network, chosen, job.card, precision=job.config.precision)
        better = job.keep_if_best(scores)
    named = {str(level): values for level, values in scores.items()}
    loss = job.losses[0] / max(job.losses[1], 1)
    job.losses = [0.0, 0]
    job.history.append({"step": job.step, "seconds": job.seconds, "loss": loss, "scores": named})
    if job.config.patience and job.stale >= job.config.patience and not job.reason:
        job.reason = "patience"
    write_history(job.folder, job.history)
    job.save()
    return Validated(job.step, scores, better)
