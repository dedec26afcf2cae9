"""Fine-tuning within a budget of seconds: strokes first, the rest by a teacher.

A generator of events from painted images to better weights. The best state by held-out
strokes is kept; whenever the generator is closed, `FineTuning.best` is the best so far.
Knows windows, teacher and network; writes no file.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, StepDone, Validated
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.tune.forest import fit_forest
from napari_unetpp.core.tune.inputs import (
    Painted,
    Reader,
    Window,
    check_values,
    painted_parts,
    values_of,
    windows,
)
from napari_unetpp.core.tune.keeping import TOWARDS, Keeper, towards
from napari_unetpp.core.tune.learner import Learner
from napari_unetpp.core.tune.patches import PatchDrawer
from napari_unetpp.core.tune.result import TeacherChosen, TuneResult
from napari_unetpp.core.tune.retention import Retention
from napari_unetpp.core.tune.scoring import Score, crops, head_probabilities, score_network
from napari_unetpp.core.tune.settings import (
    BATCH,
    DOUBT,
    FEW_PIXELS,
    GENTLY,
    HURRY,
    JOINS,
    LEAD,
    LEARNED,
    PATCH,
    RATE,
    RATES,
    REGULARLY,
    SCORING,
    STROKES,
    TEACHING,
    TuneConfig,
)
from napari_unetpp.core.tune.start import bundled_body, freeze_encoder, start_network
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING, Split, painted_counts
from napari_unetpp.core.tune.teacher import PUPILS, Teaching, choose, confidence
from napari_unetpp.core.tune.walker import walk

__all__ = ["FineTuning", "TeacherChosen", "scoring_is_due"]


_DOUBTFUL = (
    "nobody is right on the strokes that were held out, neither the base nor what learned the "
    "others, so the base gives way only to what is much better on them; paint more strokes, in "
    "other places."
)


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
        body = bundled_body(card) if base is None and config.body == "bundled" else None
        self.network = start_network(card, base, config.seed, body)
        self.windows: list[Window] = []
        self.teaching = Teaching([], [], (), {})
        self.teacher = TeacherChosen("none")
        self.retention: Retention | None = None
        self.step = 0
        self.before: Score | None = None
        self.notes: list[str] = []
        self.painted: dict[int, tuple[int, int]] = {}
        self.scope = "all"
        self._new_classes = base is not None and len(card.classes) > len(base.card.classes)
        self.state = self.network
        self.keeper = Keeper(self.network, None)
        self._start = {k: v.clone() for k, v in self.network.state_dict().items()}
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
        network.load_state_dict(self.keeper.state)
        return network.eval()

    def result(self) -> TuneResult:
        """Return where the fine-tuning stands."""
        keeper = self.keeper
        kept = self.base is not None and keeper.step == 0
        return TuneResult(
            self.best(), self.before, keeper.score, kept, keeper.step, self.step, self.seconds,
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
        if max(self.painted) > 1 and not any(
            (w.labels[w.sides == HELD_OUT] > 0).any() for w in held_out
        ):
            held_out = []  # of background alone a network that finds nothing is right
        if self.base is not None:
            self.before = self._score(self.network, held_out)
            if not self._new_classes:  # a base that lacks a class cannot be the better one
                self.keeper = Keeper(self.network, self.before)
            if self.before is not None:
                yield self._validated(self.before, best=True)
        self._choose_teacher()
        yield self.teacher
        if self.teaching.doubtful:
            yield Note(_DOUBTFUL, "paint")
        yield from self._loop(held_out)
        return self.result()

    def _read(self) -> None:
        """Read the paint, split it and cut the windows."""
        read = [painted_parts(pair, self.card) for pair in self.pairs]
        values = sorted({v for row in read for a in row[2].values() for v in values_of(a)})
        self.notes = check_values(values, self.card, scratch=self.base is None)
        # All at once: strokes of a class are dealt over the images together.
        self.split.update({part: labels for row in read for part, labels in row[2].items()})
        readers = [
            Reader(pair, self.card, self.split, row)
            for pair, row in zip(self.pairs, read, strict=True)
        ]
        self.windows = windows(readers, self.card.network.ndim)
        for row in read:
            for part, labels in row[2].items():
                side = self.split.side_of(part, labels.shape)
                for value, count in painted_counts(labels, side).items():
                    old = self.painted.get(value, (0, 0))
                    self.painted[value] = (
                        old[0] + int(count[TRAINING]),
                        old[1] + int(count[HELD_OUT]),
                    )
        if not any((w.labels != UNLABELLED).any() for w in self.windows):
            raise InputError("the paint vanishes on the model's grid; paint larger strokes.")
        total = sum(row[0] for row in self.painted.values())
        little = total < FEW_PIXELS or len(self.painted) < 2
        self.scope = self.config.scope
        if self.scope == "auto":
            self.scope = "decoder" if little and self.base is not None else "all"
        if self.scope == "decoder":
            freeze_encoder(self.network)

    def _choose_teacher(self) -> None:
        """Ask base, forest and walker; every class has the one that held-out strokes favour."""
        wanted, first = self.config.teacher, time.monotonic()
        known = 0 if self.base is None else len(self.base.card.classes)
        patience = self.config.max_seconds * TEACHING

        def enough(share: float = 1.0) -> bool:
            # With planned steps no clock reaches the weights.
            return self.config.steps is None and time.monotonic() - first > share * patience

        heads: list[NDArray[np.float32]] = []
        if known:
            for window in self.windows:
                if heads and enough(0.5):  # the other half is the forest's
                    break
                found = head_probabilities(self.network, window.image, self.config.precision)
                heads.append(np.stack(list(found.values())))
            del self.windows[len(heads) :]  # those with the least paint; there is no time for them
        base = [h[-1] for h in heads] if known and wanted in ("auto", "base") else None
        forest = walker = None
        if wanted in ("auto", "forest", "walker"):
            own = [h.reshape(-1, *h.shape[2:]) for h in heads] if known else None
            forest = fit_forest(self.windows, own, self.card, self.config.seed, enough)
        # In a plane there are many things of a kind, which no walk from a few of them finds; and
        # dense labels say all that it would.
        pieces = self.card.network.ndim == 3 and not any(pair.dense for pair in self.pairs)
        whole = wanted == "walker" or (wanted == "auto" and pieces)
        if forest is not None and whole:
            walker = walk(self.windows, forest, enough)
            if wanted == "walker" and any(walker[1]):
                forest = None  # else trees teach: there was nowhere to walk
        self.teaching = choose(base, forest, self.windows, self.card, known, walker)
        self.teacher = TeacherChosen(self.teaching.name, self.teaching.scores)
        if self.teaching.doubtful:
            self.keeper.lead = DOUBT
            self.notes.append(_DOUBTFUL)
        elif set(self.teaching.by_class) == {"base"}:
            self.keeper.lead = LEAD
        if self.base is None and self.teaching.by_class:
            self.network.set_head_biases(self._shares())
        if base is not None and set(self.teaching.by_class) > {"base"}:
            self.retention = Retention(
                self.windows,
                base,
                self.network,
                self.teaching.by_class,
                self.card,
                self.config.precision,
            )

    def _shares(self) -> list[float]:
        """Return which share each channel covers by its teacher; one half where nobody teaches."""
        sums, counts = np.zeros((2, self.card.network.out_channels))
        for maps, sure in zip(self.teaching.maps, self.teaching.sure, strict=True):
            axes = tuple(range(1, maps.ndim))
            sums += maps.sum(axes, np.float64)
            counts += (sure > 0).any(axes) * maps[0].size
        shares = np.where(counts > 0, sums / np.maximum(counts, 1), 0.5).clip(0.02, 0.5)
        return [float(share) for share in shares]

    def _drawer(self) -> PatchDrawer:
        ndim, multiple = self.card.network.ndim, 2**self.card.network.levels
        largest = [max(w.space[k] for w in self.windows) for k in range(ndim)]
        patch = tuple(
            min(-(-p // multiple), -(-n // multiple)) * multiple
            for p, n in zip(PATCH[ndim], largest, strict=True)
        )
        config = self.config
        # Without a base, batch norm wants more than one patch; planned steps follow no clock.
        hurried = self.base is not None and config.steps is None and config.max_seconds < HURRY
        batch = 1 if hurried else BATCH[ndim]
        drawer = PatchDrawer(self.windows, self.card, patch, batch, self.config.seed)
        for number, (maps, sure) in enumerate(
            zip(self.teaching.maps, self.teaching.sure, strict=True)
        ):
            drawer.teach(number, maps, sure)
        for place, name in enumerate(self.teaching.by_class, self.card.class_channels.start):
            drawer.trusted[place] = name == "base"
        return drawer

    def _loop(self, held_out: list[Window]) -> Generator[Event, None, None]:
        drawer = self._drawer()
        peak = self.config.learning_rate or self._rate()
        held = self.base is not None
        trusted = drawer.trusted if self.card.network.activation == "sigmoid" else None
        strokes = STROKES if self.teaching.walked else 1.0
        learner = Learner(self.network, self.card, self.config, peak, held, trusted, strokes)
        joins, scored = list(JOINS), 0
        cost, free = 0.0, time.monotonic()
        while self.progress < 1.0 or self.step == 0:
            loss = learner.step(drawer.batch(self.step), self._annealing())
            self.step += 1
            self._ended = time.monotonic()
            total = self.config.steps or max(self.step, round(self.step / self.progress))
            yield StepDone(self.step, total, loss, self.seconds)
            if joins and self._annealing() >= joins[0]:
                joins.pop(0)
                self._join_teacher(drawer, learner.average)
            waited = time.monotonic() - free
            due = scoring_is_due(self.step) or waited >= REGULARLY
            if scoring_is_due(self.step) if self.config.steps else due and waited >= SCORING * cost:
                scored, before = self.step, time.monotonic()
                found = self._keep(learner.average, held_out)
                free = time.monotonic()
                cost = free - before
                yield found
        if scored != self.step:
            yield self._keep(learner.average, held_out)
        self._ended = time.monotonic()

    def _rate(self) -> float:
        taught = {*self.teaching.by_class} - {"none"}
        rate = RATES["base" if taught == {"base"} else "mixed"] if "base" in taught else RATE
        return rate * GENTLY if self.base is not None and self.card.network.ndim == 3 else rate

    def _join_teacher(self, drawer: PatchDrawer, average: NestedUNet) -> None:
        """Make who learned the strokes the mean of itself and of the network, now the better one.

        What the base teaches stays as it is: nothing is to drift there.
        """
        rows = [k for k, name in enumerate(self.teaching.by_class) if name in PUPILS]
        if not rows:
            return
        first = self.card.class_channels.start
        channels = [first + k for k in rows]
        if self.card.network.activation == "softmax":
            channels = list(range(self.card.network.out_channels))
        done = 0
        for number, window in enumerate(self.windows):
            if done >= LEARNED[window.labels.ndim]:
                break
            if not self.teaching.sure[number][channels].any():
                continue  # nobody had time for it, and half of nothing is no answer
            done += window.labels.size
            heads = head_probabilities(average, window.image, self.config.precision)
            own = np.mean(list(heads.values()), axis=0)
            maps = self.teaching.maps[number].copy()
            maps[channels] = 0.5 * maps[channels] + 0.5 * own[channels]
            sure = self.teaching.sure[number].copy()
            sure[channels] = confidence(maps, self.card)[channels]
            drawer.teach(number, maps, sure)

    def _score(self, network: NestedUNet, held_out: list[Window]) -> Score | None:
        return score_network(network, held_out, self.card, HELD_OUT, self.config.precision)

    def _keep(self, average: NestedUNet, held_out: list[Window]) -> Validated:
        """Score a state and keep it if it deserves it."""
        self.state = state = self.candidate(average)
        score = self._score(state, held_out)
        self._ended = time.monotonic()
        return self._validated(score, best=self.keeper.offer(self.step, score, state))

    def candidate(self, average: NestedUNet) -> NestedUNet:
        """Return the network that stands for a state: a part of the way from the base to it.

        As large a part as leaves alone what the base teaches; the smallest one if none does,
        which the held-out strokes then judge.
        """
        if self.base is None:
            return average
        for share in TOWARDS:
            state = towards(average, self._start, share)
            if self.retention is None or self.retention.keeps(state):
                break
        return state

    def _validated(self, score: Score | None, *, best: bool) -> Validated:
        iou = {} if score is None else score.iou
        return Validated(self.step, {k: {"iou_strokes": v} for k, v in iou.items()}, best)
