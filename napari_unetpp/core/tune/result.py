"""What a fine-tuning tells and ends with.

Knows networks and scores; no loop and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_unetpp.core.events import Event
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.tune.scoring import Score


@dataclass(frozen=True)
class TeacherChosen(Event):
    """Who teaches the unpainted rest.

    Attributes
    ----------
    name : str
        ``"forest"``, ``"walker"``, ``"base"``, several of them (``"forest and base"``, each some
        classes) or ``"none"``.
    scores : dict of str to float or None
        Mean IoU of the candidates over the classes, on held-out strokes, where there are any.
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
