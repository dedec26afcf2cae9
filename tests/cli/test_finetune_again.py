"""``finetune`` of a model that was fine-tuned before: in place, after a kill, and by a project."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.model.modelfile import load_model, read_card
from napari_unetpp.core.teach.project import Project
from napari_unetpp.core.tune.strokes import load_split, split_path


@pytest.fixture
def paint(blobs: np.ndarray) -> np.ndarray:
    painted = np.zeros(blobs.shape, np.uint8)
    painted[2, 5:70] = painted[60, 5:40] = 1
    painted[16, 10:22] = painted[45, 24:36] = painted[20, 45:55] = 2
    return painted


@pytest.fixture
def folder(tmp_path: Path, blobs: np.ndarray, paint: np.ndarray, models: dict[str, Path]) -> Path:
    tifffile.imwrite(tmp_path / "cells.tif", blobs)
    tifffile.imwrite(tmp_path / "paint.tif", paint)
    shutil.copyfile(models["plain"], tmp_path / "mine.safetensors")
    return tmp_path


def in_place(folder: Path, *more: object, steps: int = 8) -> list[str]:
    """Return the command that fine-tunes a file into itself."""
    mine = folder / "mine.safetensors"
    fixed = ["finetune", "--image", folder / "cells.tif", "--painted", folder / "paint.tif",
             "--base", mine, "--out", mine, "--steps", steps, "--max-seconds", 300,
             "--device", "cpu", "--precision", "float32"]  # fmt: skip
    return [str(word) for word in (*fixed, *more)]


def test_it_goes_on_where_it_was(folder: Path, command: Any) -> None:
    mine, kept = folder / "mine.safetensors", folder / "paint.tif.strokes.json"
    first = command(*in_place(folder, "--teacher", "forest", "--json"))
    assert first.code == 0, first.err
    assert not first.json["base_kept"], first.json
    written, split = load_model(mine), kept.read_text()
    second = command(*in_place(folder, "--json"))
    assert second.code == 0, second.err
    # What was before is what the first one ended with, on the strokes that it was scored on.
    for level, row in second.json["levels"].items():
        assert row["before"] == pytest.approx(first.json["levels"][level]["after"], abs=0.02)
    assert kept.read_text() == split
    assert second.json["painted"] == first.json["painted"]
    if not second.json["base_kept"]:
        assert read_card(mine).parent == f"mine {written.sha256[:16]}"


def test_what_nothing_is_better_than_stays_as_it_is(
    folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetpp.core.tune.keeping import Keeper

    monkeypatch.setattr(Keeper, "offer", lambda *_: False)
    mine = folder / "mine.safetensors"
    before = mine.read_bytes()
    result = command(*in_place(folder, "--json", steps=1))
    assert result.code == 0, result.err
    assert result.json["base_kept"]
    assert mine.read_bytes() == before
    # Under another name it is written, as it was asked for.
    other = command(*in_place(folder, "--out", folder / "other.safetensors", "--json", steps=1))
    assert other.code == 0, other.err
    assert read_card(folder / "other.safetensors").parent.startswith("tiny-plain ")


def test_a_write_that_fails_leaves_the_old_one(
    folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetpp.core.model import modelfile

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    mine = folder / "mine.safetensors"
    before = mine.read_bytes()
    monkeypatch.setattr(modelfile.os, "replace", broken)
    result = command(*in_place(folder, "--teacher", "forest"))
    monkeypatch.undo()
    assert result.code == 2
    assert "No space left on device" in result.err
    assert mine.read_bytes() == before
    assert not list(folder.glob(".mine*"))


def test_stopped_before_anything_was_better(
    folder: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_unetpp.core.tune.learner import Learner

    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "step", interrupted)
    mine = folder / "mine.safetensors"
    before = mine.read_bytes()
    result = command(*in_place(folder))
    assert result.code == 130
    assert "before anything was better; " in result.err
    assert "mine.safetensors stays as it was" in result.err
    assert mine.read_bytes() == before
    assert (folder / "paint.tif.strokes.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_in_the_middle_the_best_so_far_is_there_and_goes_on(
    folder: Path, command: Any
) -> None:
    mine = folder / "mine.safetensors"
    old = load_model(mine).sha256
    words = in_place(folder, "--teacher", "forest", steps=100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_unetpp.cli.main", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "step " in line and "IoU on held-out" in line and line.rstrip().endswith("best"):
                break
        else:
            pytest.fail(said)
        process.send_signal(signal.SIGKILL)
        process.stderr.read()
    assert process.returncode == -signal.SIGKILL
    killed = load_model(mine)
    assert killed.sha256 != old
    assert killed.card.parent == f"tiny-plain {old[:16]}"
    sides = load_split(split_path(folder / "paint.tif")).to_json()
    again = command(*in_place(folder, "--json", steps=2))
    assert again.code == 0, again.err
    after = [again.json["levels"][k]["before"] for k in "1234"]
    assert after == pytest.approx(
        [killed.card.scores[k]["iou_strokes"] for k in "1234"], abs=0.02
    )  # what is stored has 16 bits
    assert load_split(split_path(folder / "paint.tif")).to_json() == sides


def test_a_project_is_learned_from_with_its_names_and_sides(
    folder: Path, blobs: np.ndarray, paint: np.ndarray, command: Any
) -> None:
    from napari_unetpp.core.config import ClassInfo

    labels = paint.copy()
    labels[30, 60:78] = labels[5, 5:20] = 3
    project = Project.create(
        folder / "set", base=folder / "mine.safetensors",
        classes=[ClassInfo("thing"), ClassInfo("debris")],
    )  # fmt: skip
    project.add(folder / "cells.tif", labels, name="one")
    project.add(folder / "cells.tif", np.flipud(labels), name="two #2")
    gone = folder / "gone.tif"
    tifffile.imwrite(gone, blobs)
    project.add(gone, labels, name="gone")
    gone.unlink()
    out = folder / "new.safetensors"
    words = ["finetune", "--project", folder / "set", "--out", out, "--steps", 1,
             "--max-seconds", 300, "--device", "cpu", "--precision", "float32",
             "--json"]  # fmt: skip
    result = command(*words)
    assert result.code == 0, result.err
    assert "left out: the image of 'gone' is not at" in result.err
    assert result.json["painted"]["3"]["held_out"] > 0
    assert [c.name for c in read_card(out).classes] == ["thing", "debris"]
    assert read_card(out).parent.startswith("tiny-plain ")
    # The sides are where napari looks for them, under the names of the pairs.
    split = Project.open(folder / "set").split()
    assert set(split.shapes) == {"one#0", "two #2#0"}
    side = split.side_of("one#0", labels.shape)
    assert ((side > 0) == (labels > 0)).all()
    # The labels alone have the same sides, and leave them under these names.
    pair = project.pair("two #2")
    kept = pair.split_path.read_text()
    alone = command(*in_place(folder, "--painted", pair.painted_path, "--json", steps=1))
    assert alone.code == 0, alone.err
    assert pair.split_path.read_text() == kept


def test_labels_that_the_command_line_split_keep_their_sides_in_a_project(
    folder: Path, paint: np.ndarray, command: Any
) -> None:
    project = Project.create(folder / "set")
    pair = project.add(folder / "cells.tif", paint, name="one")
    result = command(*in_place(folder, "--painted", pair.painted_path, steps=1))
    assert result.code == 0, result.err
    assert set(load_split(pair.split_path).shapes) == {"0"}
    split = Project.open(folder / "set").split()
    assert set(split.shapes) == {"one#0"}
    np.testing.assert_array_equal(
        split.side_of("one#0", paint.shape), load_split(pair.split_path).side_of("0", paint.shape)
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "got none; give --image FILE --painted FILE, or --project FOLDER"),
        (("--project", "none"), "none"),
        (("--project", "set", "--channel", "1"), "leave out --image, --painted and --channel"),
        (("--project", "set"), "has no images; add one"),
    ],
)
def test_data_that_is_missing_or_too_much(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Project.create(tmp_path / "set")
    result = command("finetune", "--out", tmp_path / "new.safetensors", *more)
    assert result.code == 2
    assert message in result.err
