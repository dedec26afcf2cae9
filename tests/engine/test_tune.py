"""Fine-tuning in the worker: beside other jobs, ended gently, and never lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from engine_helpers import (
    LONG,
    NUCLEI,
    Recording,
    alive,
    blocks_left,
    cells,
    heard,
    source_of,
    strokes,
    until,
    whole_run,
)
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING, Split
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import (
    EngineError,
    Event,
    LevelReady,
    ModelRequest,
    PaintedSource,
    RunRequest,
    TuneOutcome,
    TuneRequest,
    TuneScored,
    TuneStep,
    TuneTeacher,
    ViewRequest,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
WHOLE = ((0, 96), (0, 112))


@pytest.fixture(scope="module")
def brisk() -> Iterator[Engine]:
    """An engine that has no patience with cancelled jobs, but for a fine-tuning."""
    made = Engine(cancel_seconds=0.01)
    made.load(NUCLEI).wait(LONG)
    yield made
    made.close()
    until(lambda: not blocks_left(), 5.0)


def pair(painted: NDArray[Any], name: str = "cells", image: Any = None) -> PaintedSource:
    layer = source_of(cells() if image is None else image, key=name)
    return PaintedSource(name, layer, source_of(painted, name="paint"))


class Followed:
    """A fine-tuning and what it has told so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.events: list[Event] = []
        job.listen(self.events.append)

    def told(self, kind: type[Event]) -> list[Any]:
        return [e for e in list(self.events) if isinstance(e, kind)]

    def improved(self) -> bool:
        assert not self.job.finished, self.job.error or "it ended without an improvement"
        return any(e.path for e in self.told(TuneScored))

    def stopped(self) -> TuneOutcome:
        self.job.cancel()
        outcome = self.job.wait(LONG)
        assert isinstance(outcome, TuneOutcome)
        return outcome


def wrong_base(engine: Engine, out: Path, seconds: float = 600.0, **more: Any) -> Followed:
    """Fine-tune on strokes that the base gets wrong, so that it soon improves."""
    request = TuneRequest(NUCLEI, str(out), max_seconds=seconds, **more)
    return Followed(engine.tune([pair(strokes(swapped=True))], request))


def test_it_ends_by_itself(brisk: Engine, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    job = brisk.tune([pair(strokes())], TuneRequest(NUCLEI, str(out), max_seconds=6.0))
    events = heard(job)
    outcome = job.wait(1)
    assert job.state == "done"
    names = [type(e).__name__ for e in events if type(e).__name__ != "Noted"]
    assert names[:3] == ["TuneSplit", "TuneScored", "TuneTeacher"]  # the base comes first
    assert names[-2:] == ["TuneScored", "Finished"]
    steps = [e.step for e in events if isinstance(e, TuneStep)]
    assert steps == list(range(1, len(steps) + 1))
    assert outcome.report["steps"] == len(steps) > 0
    base, *others = [e for e in events if isinstance(e, TuneScored)]
    assert (base.step, base.best, base.path) == (0, True, None)
    assert base.scores == pytest.approx(
        {int(k): row["before"] for k, row in outcome.report["levels"].items()}
    )
    assert sorted(base.scores) == [1, 2, 3, 4]
    assert [e.path for e in others] == [str(out) if e.best else None for e in others]
    assert {e.name for e in events if isinstance(e, TuneTeacher)} == {outcome.report["teacher"]}
    # The base is right here already, so both may be: kept, or a little better.
    better = any(e.best for e in others)
    assert outcome.path == (str(out) if better else None)
    assert out.exists() is better is not outcome.report["base_kept"]
    assert outcome.report["painted"]["2"]["held_out"] > 0
    assert set(Split.from_json(outcome.split).shapes) == {"cells#0"}


def test_others_go_first_and_see_what_is_better(brisk: Engine, tmp_path: Path) -> None:
    out, pid = tmp_path / "mine.safetensors", brisk.worker_pid
    tuning = wrong_base(brisk, out, name="swapped")
    until(lambda: tuning.told(TuneStep))
    image = source_of(cells(), key="cells")

    def seen(model: ModelRequest, level: int) -> NDArray[Any]:
        events = heard(brisk.view(image, ViewRequest(model, level, WHOLE)))
        return {e.level: e.probabilities for e in events if isinstance(e, LevelReady)}[level]

    base = seen(NUCLEI, 4)
    assert base[0][cells() > 300].mean() > 0.7
    until(tuning.improved)
    mine = ModelRequest(str(out), "cpu", "float32")
    assert seen(mine, 2).shape == base.shape
    waits = brisk.tune([pair(strokes())], TuneRequest(NUCLEI, str(tmp_path / "no.safetensors")))
    sink = np.zeros((96, 112), np.uint8)
    brisk.run(image, RunRequest(NUCLEI, 1), sink).wait(LONG)
    assert sink.any()
    assert tuning.job.state == "running"  # all the while
    assert waits.state == "queued"  # one at a time
    waits.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        waits.wait(10)
    outcome = tuning.stopped()
    assert tuning.job.state == "done"
    assert outcome.path == str(out)
    assert not outcome.report["base_kept"]
    after = [row["after"] for row in outcome.report["levels"].values()]
    before = [row["before"] for row in outcome.report["levels"].values()]
    assert np.mean(after) > np.mean(before)
    model = load_model(out)
    assert model.card.name == "swapped"
    assert "nuclei" in str(model.card.parent)
    assert float(model.card.scores["4"]["iou_strokes"]) == after[3]
    # The file as it is now is what is shown, not what was loaded from it before.
    runner = Runner(model, choose_device("cpu", "float32"))
    expected = whole_run(runner, Image(cells(), "YX"), level=4, kind="probabilities")
    np.testing.assert_allclose(seen(mine, 4), expected, atol=1e-5)
    assert not np.allclose(expected, base, atol=0.05)
    assert brisk.worker_pid == pid
    assert not (tmp_path / "no.safetensors").exists()


def test_a_cancelled_job_beside_it_costs_nothing(brisk: Engine, tmp_path: Path) -> None:
    tuning = wrong_base(brisk, tmp_path / "mine.safetensors")
    until(lambda: tuning.told(TuneStep))
    pid = brisk.worker_pid
    stack = np.random.default_rng(1).integers(0, 99, (200, 256, 256)).astype(np.uint8)
    sink = np.zeros(stack.shape, np.uint8)
    run = brisk.run(source_of(stack, "TYX"), RunRequest(NUCLEI, 4), sink)
    until(lambda: run.state == "running")
    run.cancel()  # the engine's patience is far shorter than a node
    with pytest.raises(EngineError, match="cancelled"):
        run.wait(10)
    steps = len(tuning.told(TuneStep))
    until(lambda: len(tuning.told(TuneStep)) > steps)
    assert tuning.stopped().report["steps"] > steps
    assert brisk.worker_pid == pid


def test_cancelled_early(brisk: Engine, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    tuning = wrong_base(brisk, out)
    until(lambda: tuning.told(TuneScored))
    outcome = tuning.stopped()
    assert tuning.job.state == "done"
    assert outcome.report["steps"] <= 2
    assert outcome.report["base_kept"]
    assert outcome.path is None
    assert not out.exists()
    assert Split.from_json(outcome.split).sides["cells#0"][HELD_OUT].size > 0


def test_cancelled_before_anything_is_read(brisk: Engine, tmp_path: Path) -> None:
    image = Recording(cells())
    read: list[int] = []

    def before() -> None:
        read.append(1)
        until(lambda: job.finished or job.state != "running")

    image.before = before
    painted = source_of(strokes())
    request = TuneRequest(NUCLEI, str(tmp_path / "mine.safetensors"))
    job = brisk.tune([PaintedSource("cells", source_of(image), painted)], request)
    until(lambda: read)
    job.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        job.wait(LONG)
    assert job.state == "cancelled"


def test_strokes_stay_on_their_sides(brisk: Engine, tmp_path: Path) -> None:
    paint = strokes()
    paint[80, 0:30] = 1
    files = tmp_path / "an image.tif", tmp_path / "its paint.tif"
    tifffile.imwrite(files[0], cells())
    tifffile.imwrite(files[1], paint.astype(np.uint8))
    splits: list[Split] = []
    sources = [
        PaintedSource("a", source_of(cells()), source_of(strokes())),
        PaintedSource("a", str(files[0]), str(files[1])),  # the worker opens these itself
    ]
    kept = None
    for number, source in enumerate(sources):
        out = tmp_path / f"{number}.safetensors"
        request = TuneRequest(NUCLEI, str(out), seed=number, split=kept)
        tuning = Followed(brisk.tune([source], request))
        until(lambda told=tuning: told.told(TuneScored))
        kept = tuning.stopped().split
        splits.append(Split.from_json(kept))
    old, new = (split.side_of("a#0", (96, 112)) for split in splits)
    assert {TRAINING, HELD_OUT} <= set(old.ravel().tolist())
    np.testing.assert_array_equal(old[strokes() > 0], new[strokes() > 0])
    assert (new[80, 0:10] > 0).all()
    assert (old[80, 0:10] == 0).all()


def test_from_scratch(brisk: Engine, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    request = TuneRequest(ModelRequest("scratch", "cpu", "float32"), str(out), ("disc",))
    tuning = Followed(brisk.tune([pair(strokes())], request))
    until(tuning.improved)
    outcome = tuning.stopped()
    assert outcome.path == str(out)
    card = load_model(out).card
    assert [c.name for c in card.classes] == ["disc"]
    assert card.parent.startswith("nuclei ")  # whose features it begins with


def painted_with(**values: int) -> NDArray[np.int32]:
    paint = np.zeros((96, 112), np.int32)
    for k, value in enumerate(values.values()):
        paint[10 * k : 10 * k + 3, 5:30] = value
    return paint


@pytest.mark.parametrize(
    ("painted", "message"),
    [
        (painted_with(), "nothing is painted"),
        (painted_with(a=1, b=7), "7"),
        (painted_with(a=-1), "must be 0 or more"),
        (strokes()[:90], "must have the image's shape"),
        (strokes().astype(np.float32), "must be whole numbers"),
    ],
)
def test_paint_that_cannot_be_used(
    brisk: Engine, tmp_path: Path, painted: NDArray[Any], message: str
) -> None:
    out = tmp_path / "mine.safetensors"
    job = brisk.tune([pair(painted)], TuneRequest(NUCLEI, str(out)))
    with pytest.raises(EngineError, match=message) as caught:
        job.wait(LONG)
    assert caught.value.code == "input"
    assert caught.value.message.endswith(".")
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"out": "no such folder/a.safetensors"}, "file", "does not exist"),
        ({"out": "a.pt"}, "input", "must end in .safetensors"),
        ({"max_seconds": 0.0}, "input", "above 0 seconds"),
        ({"classes": ("cell",)}, "input", "must begin with the base's"),
        ({"split": {"format": "?"}}, "input", "not a split of strokes"),
        ({"model": ModelRequest("none.safetensors")}, "model", "no model file"),
    ],
)
def test_requests_that_cannot_be_served(
    brisk: Engine, tmp_path: Path, change: dict[str, Any], code: str, message: str
) -> None:
    values = {"model": NUCLEI, "out": "a.safetensors", **change}
    values["out"] = str(tmp_path / values["out"])
    job = brisk.tune([pair(strokes())], TuneRequest(**values))
    with pytest.raises(EngineError, match=message) as caught:
        job.wait(LONG)
    assert caught.value.code == code


def test_no_pairs_and_no_array(brisk: Engine, tmp_path: Path) -> None:
    request = TuneRequest(NUCLEI, str(tmp_path / "a.safetensors"))
    with pytest.raises(EngineError, match="got none"):
        brisk.tune([], request).wait(LONG)
    with pytest.raises(EngineError, match="must be an array of numbers, got list") as caught:
        brisk.tune([pair([[1]])], request).wait(LONG)  # type: ignore[arg-type]
    assert caught.value.code == "input"


@posix
def test_killed_or_closed(tmp_path: Path) -> None:
    engine = Engine()
    try:
        early = wrong_base(engine, tmp_path / "early.safetensors")
        until(lambda: early.told(TuneScored))
        _kill(engine)
        with pytest.raises(EngineError, match=r"SIGKILL.* No better model had been written"):
            early.job.wait(LONG)
        assert not (tmp_path / "early.safetensors").exists()

        out = tmp_path / "late.safetensors"
        late = wrong_base(engine, out)
        until(late.improved)
        _kill(engine)
        with pytest.raises(EngineError, match=r"The best model so far stays in .*late") as caught:
            late.job.wait(LONG)
        assert (caught.value.code, late.job.state) == ("killed", "failed")
        assert "nuclei" in str(load_model(out).card.parent)

        last = wrong_base(engine, tmp_path / "last.safetensors")
        until(lambda: last.told(TuneStep))
        pid = engine.worker_pid
        assert pid is not None
    finally:
        engine.close()
    assert last.job.state == "cancelled"
    until(lambda: not alive(pid), 5)
    until(lambda: not blocks_left(), 5)


def _kill(engine: Engine) -> None:
    pid = engine.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
