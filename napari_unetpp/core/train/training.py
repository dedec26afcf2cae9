"""Training of a network with deep supervision from prepared samples.

The loop: batches by step, AdamW, a schedule that warms up and anneals over the planned steps
or the time budget, whichever ends first; held-out scores of every level; the best state is
kept; checkpoints from which a killed run goes on. Files of images are read elsewhere
(`core.data.prepare`), the finished model is written by the caller.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import AugmentConfig, Augmenter
from napari_unetpp.core.data.sampling import Batch, PatchSampler, Sample, channel_shares
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, StepDone, Validated
from napari_unetpp.core.nn.losses import LossKind, deep_supervision_loss
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.train.checkpoint import (
    TrainState,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)
from napari_unetpp.core.train.validation import validate

log = logging.getLogger("napari_unetpp")

WARM_UP = 0.05
STATE_FILE = "state.safetensors"


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

    def fingerprint(self, card: ModelCard, names: Sequence[str]) -> str:
        """Return a hash of what must not change between a run and its continuation."""
        free = ("max_seconds", "device", "validate_images")
        own = {k: v for k, v in vars(self).items() if k not in free}
        text = json.dumps([own, card.to_json()["network"], sorted(names)], default=vars)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


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
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.step = 0
        self.best: dict[str, Tensor] = {}
        self.best_score = -math.inf
        self.best_step = 0
        self.stale = 0
        self.history: list[dict[str, Any]] = []
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
        for name in ("step", "best_score", "best_step", "stale", "history"):
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

    def train_step(self, batch: Batch) -> float:
        """Do one optimiser step and return its loss."""
        config = self.config
        device = torch.device(config.device)
        # Dropout is a function of the step, as the batch is: a resumed run draws the same.
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        rate = config.learning_rate * learning_rate_factor(self.progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        last = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
        image = batch.image.to(device).contiguous(memory_format=last)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            heads = self.network.forward_heads(image)
        loss = deep_supervision_loss(
            heads,
            batch.target.to(device),
            batch.known.to(device),
            self.card.network.activation,
            kind=config.loss,
            auxiliary=len(self.card.auxiliary),
        )
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        # A single odd patch must not throw the weights away.
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12.0)
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def keep_if_best(self, scores: dict[int, dict[str, float]]) -> bool:
        """Compare by the mean Dice of all levels, so that no level is left to rot."""
        score = sum(s["dice_per_image"] for s in scores.values()) / len(scores)
        better = score > self.best_score
        if better:
            self.best_score, self.best_step, self.stale = score, self.step, 0
            self.best = {k: v.detach().cpu().clone() for k, v in self.network.state_dict().items()}
        else:
            self.stale += 1
        return better

    def result(self, reason: str) -> TrainResult:
        scores: dict[int, dict[str, float]] = {}
        if self.best:
            self.network.load_state_dict(self.best)
            row = next(r for r in reversed(self.history) if r["step"] == self.best_step)
            scores = {int(k): dict(v) for k, v in row["scores"].items()}
        network = self.network.cpu().eval()
        return TrainResult(
            network, self.step, self.seconds, self.best_step or self.step, scores, reason
        )


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the scores so far from a training's folder: step, seconds, loss, scores."""
    history: list[dict[str, Any]] = load_state(folder / STATE_FILE).progress["history"]
    return history


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the scores so far as ``history.csv``, one row for a scoring and level."""
    temporary = folder / ".history.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "seconds", "loss", "level", "metric", "value"])
        for row in history:
            lead = [row["step"], f"{row['seconds']:.1f}", f"{row['loss']:.5f}"]
            if not row["scores"]:
                writer.writerow([*lead, "", "", ""])
            for level, metrics in row["scores"].items():
                for metric, value in metrics.items():
                    writer.writerow([*lead, level, metric, f"{value:.5f}"])
    os.replace(temporary, folder / "history.csv")


def train(
    training: Sequence[Sample],
    held_out: Sequence[Sample],
    card: ModelCard,
    config: TrainConfig,
    folder: Path,
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
        If the patch does not fit the network, or the checkpoint is of another training.
    """
    ndim, multiple = card.network.ndim, 2**card.network.levels
    if len(config.patch) != ndim or any(n < multiple or n % multiple for n in config.patch):
        raise InputError(
            f"patch must be {ndim} multiples of {multiple} for this network, got {config.patch}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    names = [s.name for s in training]
    job = _Training(card, config, folder, config.fingerprint(card, names))
    if job.resume():
        yield Note(f"going on from step {job.step}.", "resumed")
    else:
        job.network.set_head_biases(channel_shares(training, card))
    augmenter = Augmenter(config.augment, config.patch)
    sampler = PatchSampler(
        training,
        card,
        augmenter,
        batch=config.batch,
        margin=config.augment.margin(ndim),
        foreground=config.foreground,
        seed=config.seed,
    )
    reason = "steps"
    running: list[float] = []
    with ThreadPoolExecutor(max_workers=1) as ahead:
        upcoming = ahead.submit(sampler.batch, job.step)
        try:
            while job.step < config.steps and reason == "steps":
                batch = upcoming.result()
                upcoming = ahead.submit(sampler.batch, job.step + 1)
                loss = job.train_step(batch)
                running.append(loss)
                yield StepDone(job.step, config.steps, loss, job.seconds)
                out_of_time = job.progress >= 1.0
                if out_of_time and job.step < config.steps:
                    reason = "time"
                if job.step % config.validate_every == 0 or out_of_time:
                    yield _score(job, held_out, sum(running) / len(running))
                    running.clear()
                    if config.patience and job.stale >= config.patience and not out_of_time:
                        reason = "patience"
                elif time.monotonic() - job.saved > config.checkpoint_seconds:
                    job.save()
        finally:
            job.save()
    return job.result(reason)


def _score(job: _Training, held_out: Sequence[Sample], loss: float) -> Validated:
    """Score the held-out images, keep the state if it is the best, write everything down."""
    scores: dict[int, dict[str, float]] = {}
    better = False
    if held_out:
        chosen = held_out[:: math.ceil(len(held_out) / job.config.validate_images)]
        scores = validate(job.network, chosen, job.card, precision=job.config.precision)
        better = job.keep_if_best(scores)
    named = {str(level): values for level, values in scores.items()}
    job.history.append({"step": job.step, "seconds": job.seconds, "loss": loss, "scores": named})
    write_history(job.folder, job.history)
    job.save()
    return Validated(job.step, scores, better)
