"""A fine-tuning that the test writes, and the dock's Teach section as a person has it."""

from __future__ import annotations

import shutil
from typing import Any

from qtpy.QtWidgets import QWidget

from napari_unetpp.core.model.cards import bundled_models
from napari_unetpp.core.tune.strokes import FORMAT
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.protocol import (
    TuneOutcome,
    TuneScored,
    TuneStep,
)
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 60_000


class Script:
    """Stands where the engine fine-tunes: keeps what it was asked, and says what it is told."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.asked: list[tuple[Any, Any]] = []
        self.jobs: list[Job] = []
        self.cancelled: list[bool] = []

    def tune(self, pairs: Any, request: Any) -> Job:
        self.asked.append((list(pairs), request))
        job = Job(len(self.jobs) + 1, "tune", self.dispatcher, self._cancel)
        self.jobs.append(job)
        return job

    def _cancel(self, job: Job, dropped: bool) -> None:
        self.cancelled.append(dropped)
        if dropped:
            job.finish("cancelled")

    @property
    def out(self) -> str:
        return str(self.asked[-1][1].out)

    def improve(self, step: int, score: float) -> None:
        """Write a model and say so."""
        shutil.copyfile(bundled_models()["nuclei"], self.out)
        job = self.jobs[-1]
        job.emit(TuneStep(step, 10, 0.5, float(step)))
        job.emit(TuneScored(step, {1: score - 0.1, 4: score}, True, self.out))

    def done(self, **report: Any) -> None:
        whole = {
            "levels": {
                str(k): {"before": 0.4, "after": 0.8, "seconds_per_megapixel": 0.1 * k}
                for k in (1, 2, 3, 4)
            },
            "cheapest": 1, "base_kept": False, "steps": 7, "seconds": 8.0, "sentences": [],
        } | report  # fmt: skip
        split = {"format": FORMAT, "seed": 0, "parts": {"cells#0": {}}}
        path = None if whole["base_kept"] else self.out
        self.jobs[-1].finish("done", TuneOutcome(whole, split, path))


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def status(dock: UNetPPWidget) -> str:
    return str(part(dock, "teach_status").text())


def paint(dock: UNetPPWidget, qtbot: Any, *values: int) -> Any:
    """Make a painted layer by the button, and a stroke of each value."""
    part(dock, "new_painted_button").click()
    layer = dock.teach.painting.layer
    for number, value in enumerate(values):
        layer.selected_label = value
        layer.paint((10 + 12 * number, 20), value)
    wanted = set(values)
    painting = dock.teach.painting
    qtbot.waitUntil(
        lambda: painting.counts is not None and set(painting.counts) == wanted, timeout=WAIT
    )
    return layer


def begin(dock: UNetPPWidget, qtbot: Any, script: Script) -> None:
    assert part(dock, "finetune_button").isEnabled(), part(dock, "finetune_button").toolTip()
    part(dock, "finetune_button").click()
    assert dock.teach.tuning.running
    assert not part(dock, "finetune_button").isEnabled()
    assert part(dock, "stop_button").isEnabled()
