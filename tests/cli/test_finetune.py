"""``finetune``: strokes to a model that ``segment`` takes; the report; slips in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.model.modelfile import read_card


@pytest.fixture
def folder(tmp_path: Path, blobs: np.ndarray) -> Path:
    painted = np.zeros(blobs.shape, np.uint8)
    painted[2, 5:70] = painted[60, 5:40] = 1
    painted[16, 10:22] = painted[45, 24:36] = painted[20, 45:55] = 2
    tifffile.imwrite(tmp_path / "cells.tif", blobs)
    tifffile.imwrite(tmp_path / "paint.tif", painted)
    tifffile.imwrite(tmp_path / "empty.tif", np.zeros_like(painted))
    tifffile.imwrite(tmp_path / "small.tif", painted[:20])
    return tmp_path


def words(folder: Path, base: Path | str, *more: object, painted: str = "paint.tif") -> list[str]:
    fixed = ["finetune", "--image", folder / "cells.tif", "--painted", folder / painted,
             "--base", base, "--out", folder / "mine.safetensors", "--steps", "14",
             "--max-seconds", "300", "--device", "cpu", "--precision", "float32"]  # fmt: skip
    return [str(word) for word in (*fixed, *more)]


def test_strokes_give_a_better_model_and_a_report(
    folder: Path, models: dict[str, Path], command: Any
) -> None:
    result = command(*words(folder, models["plain"], "--json"))
    assert result.code == 0, result.err
    report = result.json
    assert set(report["levels"]) == {"1", "2", "3", "4"}
    assert report["steps"] == 14
    assert report["cheapest"] in (1, 2, 3, 4)
    assert report["painted"]["2"]["training"] > 0 < report["painted"]["2"]["held_out"]
    assert all(row["before"] is not None for row in report["levels"].values())
    card = read_card(folder / "mine.safetensors")
    assert card.parent.startswith("tiny-plain ")
    assert card.scores["4"]["iou_strokes"] == report["levels"]["4"]["after"]
    assert (folder / "paint.tif.strokes.json").exists()
    used = command("segment", folder / "cells.tif", "--model", folder / "mine.safetensors",
                   "--level", 2, "--out", folder / "labels.tif")  # fmt: skip
    assert used.code == 0, used.err
    again = command(*words(folder, models["plain"], "--json"))
    same = ("levels", "painted", "best_step")
    assert [again.json["levels"][k]["after"] for k in "1234"] == [
        report["levels"][k]["after"] for k in "1234"
    ]
    assert [again.json[k] for k in same[1:]] == [report[k] for k in same[1:]]


def test_people_get_a_table(folder: Path, models: dict[str, Path], command: Any) -> None:
    result = command(*words(folder, models["plain"]))
    assert result.code == 0, result.err
    assert "cheapest level within 0.01 of the best" in result.out
    assert "before" in result.out
    assert "taught by" in result.err
    assert "step 14: IoU on held-out strokes L1" in result.err


@pytest.mark.parametrize(("base", "parent"), [("scratch", "nuclei"), ("random", "")])
def test_from_scratch_with_names(folder: Path, command: Any, base: str, parent: str) -> None:
    result = command(*words(folder, base, "--classes", "cell", "--name", "mine", "--steps", 2))
    assert result.code == 0, result.err
    card = read_card(folder / "mine.safetensors")
    assert ([c.name for c in card.classes], card.parent[:6]) == (["cell"], parent)


@pytest.mark.parametrize(
    ("more", "painted", "message"),
    [
        ((), "empty.tif", "nothing is painted"),
        ((), "small.tif", "must have the image's shape Y=64 x X=80, got Y=20 x X=80"),
        ((), "none.tif", "none.tif"),
        (("--max-seconds", "0"), "paint.tif", "expected a number above 0, got '0'"),
        (("--classes", "axon"), "paint.tif", "must begin with the base's (thing)"),
        (("--painted", "a", "b"), "paint.tif", "got 1 image(s) and 2 painted"),
        (("--out", "x.pt"), "paint.tif", "must end in .safetensors"),
    ],
)
def test_a_slip_ends_in_one_line(
    folder: Path,
    models: dict[str, Path],
    command: Any,
    more: tuple[str, ...],
    painted: str,
    message: str,
) -> None:
    result = command(*words(folder, models["plain"], *more, painted=painted))
    assert result.code == 2
    assert result.out == ""
    lines = [x for x in result.err.splitlines() if x.startswith("napari-unetpp: error:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (folder / "mine.safetensors").exists()


def test_stopping_keeps_the_best_so_far(
    folder: Path, models: dict[str, Path], command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetpp.core.tune.learner import Learner

    step = Learner.step

    def interrupted(self: Any, *args: Any) -> float:
        if self.steps == 5:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Learner, "step", interrupted)
    result = command(*words(folder, "scratch"))
    assert result.code == 130
    assert "mine.safetensors is the best model so far" in result.err
    assert read_card(folder / "mine.safetensors").scores
