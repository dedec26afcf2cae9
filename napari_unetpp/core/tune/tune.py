"""Fine-tuning within a budget of seconds: strokes first, the rest by a teacher.

A generator of events from painted images to better weights. The best state by held-out
strokes is kept; whenever the generator is closed, `FineTuning.best` is the best so far.
Knows windows, teacher and network; writes no file.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, StepDone, Validated
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.losses import cross_entropy, deep_supervision_loss
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.train.settings import learning_rate_factor
from napari_unetpp.core.tune.inputs import (
    Painted,
    Window,
    check_values,
    painted_parts,
    values_of,
    windows,
)
from napari_unetpp.core.tune.patches import PatchDrawer, TunedBatch
from napari_unetpp.core.tune.scoring import Score, crops, head_probabilities, score_network
from napari_unetpp.core.tune.settings import (
    AVERAGE,
    BATCH,
    FEW_PIXELS,
    LEARNED,
    PATCH,
    RATE,
    RATES,
    TuneConfig,
)
from napari_unetpp.core.tune.start import freeze_encoder, hold_norms, start_network
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING, Split, painted_counts
from napari_unetpp.core.tune.teacher import (
    Forest,
    as_channels,
    features,
    fit_forest,
    score_maps,
)


@dataclass(frozen=True)
class TeacherChosen(Event):
    """Who teaches the unpainted rest.

    Attributes
    ----------
    name : str
        ``"forest"``, ``"base"`` or ``"none"``.
    scores : dict of str to float or None
        IoU of the candidates on held-out strokes, where there are any.
    """

    name: str
    scores: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TuneResult:
    """What a fine-tuning ends with.

    Attributes
    ----------
    network : NestedUNet
        The best state, in evaluation mode, on the CPU.
    before, after : Score, optional
        Of the base and of the result on held-out strokes; None where there are none (or no
        base).
    base_kept : bool
        Nothing was better than the base, so it stays.
    best_step, steps : int
        Step of the best state, and steps done.
    seconds : float
        Time spent.
    teacher : TeacherChosen
        Who taught.
    scope : str
        ``"all"`` or ``"decoder"``.
    notes : tuple of str
        Sentences about what the paint does not show.
    painted : dict of int to tuple of int
        Painted pixels by value: for training, held out.
    """

    network: NestedUNet
    before: Score | None
    after: Score | None
    base_kept: bool
    best_step: int
    steps: int
    seconds: float
    teacher: TeacherChosen
    scope: str
    notes: tuple[str, ...]
    painted: dict[int, tuple[int, int]]


def scoring_is_due(step: int) -> bool:
    """Return whether a step is scored: early and often at first, then every 20 steps."""
    return step in (4, 8, 14) or (step > 0 and step % 20 == 0)


class FineTuning:
    """One fine-tuning; `run` does it, and `result` may be asked for at any time after.

    Parameters
    ----------
    pairs : sequence of Painted
        Images and painted labels.
    card : ModelCard
        Of the model that is to come, from `grown_card` or `scratch_card`.
    base : Model, optional
        What to start from; None from scratch.
    split : Split
        Updated with the strokes that are new; the caller keeps it.
    config : TuneConfig
        How.
    """

    def __init__(
        self,
        pairs: Sequence[Painted],
        card: ModelCard,
        base: Model | None,
        split: Split,
        config: TuneConfig,
    ) -> None:
        self.pairs, self.card, self.base = list(pairs), card, base
        self.split, self.config = split, config
        self.network = start_network(card, base, config.seed)
        self.windows: list[Window] = []
        self.maps: list[NDArray[np.float32]] = []
        self.teacher = TeacherChosen("none")
        self.step = 0
        self.before: Score | None = None
        self.after: Score | None = None
        self.best_step = 0
        self.notes: list[str] = []
        self.painted: dict[int, tuple[int, int]] = {}
        self.scope = "all"
        self._new_classes = base is not None and len(card.classes) > len(base.card.classes)
        self._best = {k: v.clone() for k, v in self.network.state_dict().items()}
        self._started = self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return self._ended - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, in time or in steps."""
        by_step = self.step / self.config.steps if self.config.steps else 0.0
        return max(by_step, (time.monotonic() - self._started) / self.config.max_seconds)

    def _annealing(self) -> float:
        """Return the place in the schedule; with planned steps no clock reaches the weights."""
        return self.step / self.config.steps if self.config.steps else min(self.progress, 1.0)

    def best(self) -> NestedUNet:
        """Return the best network so far, in evaluation mode, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            network = NestedUNet(self.card.network)
        network.load_state_dict(self._best)
        return network.eval()

    def result(self) -> TuneResult:
        """Return where the fine-tuning stands."""
        kept = self.base is not None and self.best_step == 0
        return TuneResult(
            self.best(), self.before, self.after, kept, self.best_step, self.step, self.seconds,
            self.teacher, self.scope, tuple(self.notes), dict(self.painted),
        )  # fmt: skip

    def run(self) -> Generator[Event, None, TuneResult]:
        """Fine-tune.

        Yields
        ------
        Note, TeacherChosen, StepDone, Validated
            Progress; scores are ``{level: {"iou_strokes": value}}``. Closing the generator
            keeps the best so far.

        Returns
        -------
        TuneResult
            See there.

        Raises
        ------
        InputError
            If the paint cannot be used; one sentence says why.
        """
        self._started = time.monotonic()
        self._read()
        for text in self.notes:
            yield Note(text, "paint")
        device = self.config.device
        last = torch.channels_last if self.card.network.ndim == 2 else torch.channels_last_3d
        self.network.to(device)
        nn.Module.to(self.network, memory_format=last)  # type: ignore[call-overload]
        held_out = crops(self.windows, HELD_OUT)
        if self.base is not None:
            self.before = self._score(self.network, held_out)
            if not self._new_classes:  # a base that lacks a class cannot be the better one
                self.after = self.before
            if self.before is not None:
                yield self._validated(self.before, best=True)
        self._choose_teacher()
        yield self.teacher
        yield from self._loop(held_out)
        return self.result()

    def _read(self) -> None:
        """Read the paint, split it and cut the windows."""
        read = [painted_parts(pair, self.card) for pair in self.pairs]
        values = sorted({v for row in read for a in row[2].values() for v in values_of(a)})
        self.notes = check_values(values, self.card, scratch=self.base is None)
        # All at once: strokes of a class are dealt over the images together.
        self.split.update({part: labels for row in read for part, labels in row[2].items()})
        for pair, row in zip(self.pairs, read, strict=True):
            self.windows += windows(pair, self.card, self.split, row)
            for part, labels in row[2].items():
                side = self.split.side_of(part, labels.shape)
                for value, count in painted_counts(labels, side).items():
                    old = self.painted.get(value, (0, 0))
                    self.painted[value] = (
                        old[0] + int(count[TRAINING]),
                        old[1] + int(count[HELD_OUT]),
                    )
        if not self.windows:
            raise InputError("the paint vanishes on the model's grid; paint larger strokes.")
        total = sum(row[0] for row in self.painted.values())
        little = total < FEW_PIXELS or len(self.painted) < 2
        self.scope = self.config.scope
        if self.scope == "auto":
            self.scope = "decoder" if little and self.base is not None else "all"
        if self.scope == "decoder":
            freeze_encoder(self.network)

    def _base_maps(self) -> list[NDArray[np.float32]]:
        """Return what the base says of every window: the mean of its heads."""
        found = []
        for window in self.windows:
            heads = head_probabilities(self.network, window.image, self.config.precision)
            found.append(np.mean(list(heads.values()), axis=0).astype(np.float32))
        return found

    def _forest_maps(self) -> list[NDArray[np.float32]] | None:
        """Return what a forest says of every window; None where it has nothing to learn."""
        sets = [features(window.image) for window in self.windows]
        forest: Forest | None = fit_forest(
            list(zip(sets, self.windows, strict=True)), self.config.seed
        )
        if forest is None:
            return None
        count = len(self.card.classes)
        return [as_channels(forest.probabilities(one, count), self.card) for one in sets]

    def _choose_teacher(self) -> None:
        """Ask the held-out strokes who teaches; without any, the training strokes."""
        wanted = self.config.teacher
        knows = self.base is not None and not self._new_classes
        maps: dict[str, list[NDArray[np.float32]]] = {}
        if wanted in ("auto", "base") and knows:
            maps["base"] = self._base_maps()
        if wanted in ("auto", "forest") and (found := self._forest_maps()) is not None:
            maps["forest"] = found
        held = {name: score_maps(m, self.windows, self.card) for name, m in maps.items()}
        if not maps:
            channels = self.card.network.out_channels
            self.maps = [np.zeros((channels, *w.space), np.float32) for w in self.windows]
            return
        name = next(iter(maps))
        if len(maps) == 2:
            base, forest = held["base"], held["forest"]
            if base is not None and forest is not None:
                name = "base" if base >= forest else "forest"
            else:
                # A forest is always right on its own strokes, so the base alone is asked.
                own = score_maps(maps["base"], self.windows, self.card, TRAINING)
                name = "base" if own is None or own >= 0.7 else "forest"
        self.maps = maps[name]
        self.teacher = TeacherChosen(name, held)

    def _drawer(self) -> PatchDrawer:
        ndim, multiple = self.card.network.ndim, 2**self.card.network.levels
        largest = [max(w.space[k] for w in self.windows) for k in range(ndim)]
        patch = tuple(
            min(-(-p // multiple), -(-n // multiple)) * multiple
            for p, n in zip(PATCH[ndim], largest, strict=True)
        )
        drawer = PatchDrawer(self.windows, self.card, patch, BATCH[ndim], self.config.seed)
        if self.teacher.name != "none":
            for number, channels in enumerate(self.maps):
                drawer.teach(number, channels)
        return drawer

    def _loop(self, held_out: list[Window]) -> Generator[Event, None, None]:
        drawer = self._drawer()
        trained = [p for p in self.network.parameters() if p.requires_grad]
        peak = self.config.learning_rate or RATES.get(self.teacher.name, RATE)
        optimiser = torch.optim.AdamW(trained, lr=peak, weight_decay=1e-4)
        average = copy.deepcopy(self.network).eval().requires_grad_(False)
        scored, joined = 0, self.teacher.name == "none"
        while self.progress < 1.0 or self.step == 0:
            for group in optimiser.param_groups:
                group["lr"] = peak * learning_rate_factor(self._annealing())
            loss = self._train(drawer.batch(self.step), optimiser)
            self.step += 1
            _follow(average, self.network, min(AVERAGE, self.step / (self.step + 4)))
            self._ended = time.monotonic()
            total = self.config.steps or max(self.step, round(self.step / self.progress))
            yield StepDone(self.step, total, loss, self.seconds)
            if not joined and self._annealing() >= 0.5:
                self._join_teacher(drawer, average)
                joined = True
            if scoring_is_due(self.step):
                scored = self.step
                yield self._keep(average, held_out)
        if scored != self.step:
            yield self._keep(average, held_out)
        self._ended = time.monotonic()

    def _join_teacher(self, drawer: PatchDrawer, average: NestedUNet) -> None:
        """From half time on the teacher is the mean of itself and of the network.

        The network has become better than the forest by then, and surer where both agree.
        """
        for number, window in enumerate(self.windows[:LEARNED]):
            heads = head_probabilities(average, window.image, self.config.precision)
            own = np.mean(list(heads.values()), axis=0)
            drawer.teach(number, (0.5 * self.maps[number] + 0.5 * own).astype(np.float32))

    def _train(self, batch: TunedBatch, optimiser: torch.optim.Optimizer) -> float:
        """Do one step and return its loss."""
        device = torch.device(self.config.device)
        network, activation = self.network, self.card.network.activation
        network.train()
        if self.base is not None:
            hold_norms(network)
        last = torch.channels_last if batch.image.ndim == 4 else torch.channels_last_3d
        image = batch.image.to(device).contiguous(memory_format=last)
        enabled = self.config.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            heads = network.forward_heads(image)
        # Two means: the few painted pixels weigh as much as all the others together.
        loss = deep_supervision_loss(
            heads, batch.target.to(device), batch.known.to(device), activation,
            auxiliary=len(self.card.auxiliary),
        )  # fmt: skip
        soft, sure = batch.soft.to(device), batch.sure.to(device)
        for logits in heads.values():
            loss = loss + cross_entropy(logits.float(), soft, sure, activation)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            optimiser.step()
        return float(loss.detach())

    def _score(self, network: NestedUNet, held_out: list[Window]) -> Score | None:
        return score_network(network, held_out, self.card, HELD_OUT, self.config.precision)

    def _keep(self, average: NestedUNet, held_out: list[Window]) -> Validated:
        """Score the running mean of the weights and keep it if it is the best."""
        score = self._score(average, held_out)
        self._ended = time.monotonic()
        # Without anything held out the last state is the best that is known.
        better = score is None or score.better_than(self.after)
        if better:
            self.after, self.best_step = score, self.step
            self._best = {k: v.detach().cpu().clone() for k, v in average.state_dict().items()}
        return self._validated(score, best=better)

    def _validated(self, score: Score | None, *, best: bool) -> Validated:
        iou = {} if score is None else score.iou
        return Validated(self.step, {k: {"iou_strokes": v} for k, v in iou.items()}, best)


def _follow(average: NestedUNet, network: NestedUNet, decay: float) -> None:
    """Move a running mean of the weights towards a network's; counts are copied."""
    own: dict[str, Tensor] = network.state_dict()
    with torch.no_grad():
        for name, value in average.state_dict().items():
            if value.is_floating_point() and "running_" not in name:
                value.lerp_(own[name], 1.0 - decay)
            else:
                value.copy_(own[name])
