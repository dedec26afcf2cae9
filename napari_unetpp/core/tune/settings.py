"""How to fine-tune: the settings and the constants that were tried out.

Knows no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from napari_unetpp.core.errors import InputError

PATCH = {2: (128, 128), 3: (32, 64, 64)}
BATCH = {2: 4, 3: 1}

HURRY = 15.0
"""With a budget of fewer seconds a batch is one patch: that makes twice as many steps, which a
network that was wrong needs to unlearn (EM, 10 s: IoU at L4 0.18 with batches of 4, 0.72 of 2, 0.79
of 1; with 30 s batches of 4 and of 2 were alike)."""

FEW_PIXELS = 100
"""With fewer training pixels than this, or one class alone, the encoder is left as it is."""

RATES = {"base": 3e-4, "mixed": 5e-4}
"""Peak learning rate where the base teaches every class, or some. It is right on most already, and
at the rate of the others it forgot other images of its kind (IoU 0.82 to 0.72, now 0.79)."""
RATE = 5e-3
GENTLY = 0.2
"""Share of the rate for a 3D base: a few steps of one patch each are noisy (larynx in CT, 14 steps:
IoU 0.18 of 0.25 was left at the full rate, 0.23 at a fifth)."""

REGULARLY = 4.0
"""Seconds of steps after which a state is scored at the latest, if scoring is quick enough."""

SCORING = 3.0
"""A scoring waits until the steps since the last one took so many times as long as that one."""

LEAD = 0.05
"""Where nobody but the base is fit to teach, a state must be so much better on held-out strokes:
they are few, and what the others taught alone was worse on the rest (CT: 0.22 for 0.25)."""

DOUBT = 0.25
"""The same where nobody is right on the strokes, see `teacher.KNOWN`."""

LEARNED = {2: 2**20, 3: 2**20}
"""Pixels, those of the windows with the most paint, on which the network joins its teacher."""

JOINS = (0.5,)
"""Shares of the budget at which the network joins who learned the strokes as its own teacher."""

TEACHING = 0.3
"""Share of the budget that preparing the teacher may take."""

STROKES = 0.2
"""Weight of the strokes beside all that a walker teaches, where else both weigh alike. A walker
begins at the strokes, so they say nothing new, and where they lie is not how common things are
(hippocampus, 10 strokes, 30 s: of what was found 0.29 was right for 0.18; at the end of 120 s L4
had an IoU of 0.30 for 0.26)."""

AVERAGE = 0.9
"""Decay of the running mean of the weights, which is what is scored and kept."""


TEACHERS = ("auto", "forest", "walker", "base", "none")


@dataclass(frozen=True)
class TuneConfig:
    """How to fine-tune.

    Attributes
    ----------
    max_seconds : float
        Budget, from reading the paint to the last step.
    steps : int, optional
        Most steps; with a budget that is not reached, the result follows from the seed alone.
    learning_rate : float, optional
        AdamW's peak; by the teacher if None, see `RATES`.
    teacher : {"auto", "forest", "walker", "base", "none"}
        Who teaches the unpainted rest; auto asks the held-out strokes.
    body : {"bundled", "random"}
        Without a base: what the network but its heads begins with.
    scope : {"auto", "all", "decoder"}
        What is trained; auto leaves the encoder alone where there is little paint.
    seed : int
        Of the split, the forest, new weights and patches.
    device, precision : str
        As in training.
    """

    max_seconds: float = 30.0
    steps: int | None = None
    learning_rate: float | None = None
    teacher: str = "auto"
    body: str = "bundled"
    scope: str = "auto"
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not 0 < self.max_seconds < float("inf"):
            raise InputError(f"the budget must be above 0 seconds, got {self.max_seconds}.")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1, got {self.steps}.")
        if self.teacher not in TEACHERS:
            raise InputError(f"teacher must be one of {', '.join(TEACHERS)}, got {self.teacher!r}.")
        if self.body not in ("bundled", "random"):
            raise InputError(f"body must be bundled or random, got {self.body!r}.")
        if self.scope not in ("auto", "all", "decoder"):
            raise InputError(f"scope must be auto, all or decoder, got {self.scope!r}.")
