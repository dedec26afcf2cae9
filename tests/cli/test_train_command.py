"""``train``: from folders to a model that ``segment`` takes; killed runs; slips in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.model.modelfile import load_model, read_card

SMALL = ("--filters", "4,6,8", "--steps", "4", "--batch", "2", "--patch", "32,32",
         "--validate-every", "2", "--device", "cpu", "--precision", "float32")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for kind in ("images", "labels", "painted"):
        (tmp_path / kind).mkdir()
    for seed in range(3):
        phantom = nuclei_2d((96, 96), count=8, seed=seed)
        labels = phantom.labels.astype(np.uint16)
        painted = np.zeros_like(labels, np.uint8)
        painted[:20] = np.where(labels[:20] > 0, 2, 1)
        for kind, array in (("images", phantom.image), ("labels", labels), ("painted", painted)):
            tifffile.imwrite(tmp_path / kind / f"p{seed}.tif", array)
    return tmp_path


def words(folder: Path, *more: str, labels: str = "labels") -> list[str]:
    out = str(folder / "m.safetensors")
    return ["train", "--images", str(folder / "images"), "--labels", str(folder / labels),
            "--out", out, *SMALL, *more]  # fmt: skip


def test_instances_give_a_model_that_separates_objects(folder: Path, command: Any) -> None:
    result = command(*words(folder, "--labels-are", "instances", "--dense", "--json"))
    assert result.code == 0, result.err
    report = result.json
    assert report["steps"] == 4
    assert report["n_training"] == 2
    assert report["n_held_out"] == 1
    assert set(report["evaluation"]["levels"]) == {"1", "2", "ensemble"}
    card = load_model(folder / "m.safetensors").card
    assert card.auxiliary == ("centre",)
    assert card.instances is not None
    assert card.levels_trained == (1, 2)
    assert (
        card.scores["2"]["iou_per_image"] == (report["evaluation"]["levels"]["2"]["iou_per_image"])
    )
    assert {"curve.png", "history.csv", "report.json", "state.safetensors"} <= {
        p.name for p in (folder / "m.run").iterdir()
    }
    out = folder / "labels.tif"
    used = command("segment", folder / "images" / "p0.tif", "--model", folder / "m.safetensors",
                   "--level", 2, "--kind", "instances", "--out", out)  # fmt: skip
    assert used.code == 0, used.err
    assert tifffile.imread(out).shape == (96, 96)


def test_painted_classes_are_counted_from_the_labels(folder: Path, command: Any) -> None:
    result = command(*words(folder, labels="painted"))
    assert result.code == 0, result.err
    card = read_card(folder / "m.safetensors")
    assert [c.name for c in card.classes] == ["class 1"]
    assert card.instances is None
    assert "L1" in result.out
    assert "ended by steps" in result.out


def test_the_card_says_what_it_was_told(folder: Path, command: Any) -> None:
    text = ("--name", "mine", "--classes", "cell", "--licence", "CC0", "--citation", "me 2026")
    result = command(*words(folder, *text, "--softmax", "--norm", "none", labels="painted"))
    assert result.code == 0, result.err
    card = read_card(folder / "m.safetensors")
    assert (card.name, card.licence, card.citation) == ("mine", "CC0", "me 2026")
    assert card.network.activation == "softmax"
    assert card.network.norm == "none"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--filters", "4,x"], "expected whole numbers with commas, got '4,x'"),
        (["--patch", "30,32"], "patch must be 2 multiples of 4"),
        (["--steps", "0"], "expected a whole number from 1, got '0'"),
        (["--max-seconds", "-1"], "expected a number above 0, got '-1'"),
        (["--held-out", "1"], "expected a share from 0 and below 1, got '1'"),
        (["--window", "5,1"], "expected two intensities LOW,HIGH"),
        (["--classes", "a,b", "--labels-are", "instances"], "objects of one class, got 2 names"),
        (["--classes", "a,a", "--labels-are", "classes"], "class and channel names must differ"),
        (["--classes", "a", "--labels-are", "classes", "--dense"], "expected at most 1 (a)"),
        (["--loss", "eq2"], "Eq. 2 as printed needs a softmax"),
        (["--axes", "ZYX", "--patch", "16,16,16"], "needs axes ZYX, got an image with YX"),
        (["--orientation", "SPL"], "orientation must name three directions"),
        (["--table", "none.csv"], "the table none.csv cannot be read"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_a_slip_ends_in_one_line(folder: Path, command: Any, more: list[str], message: str) -> None:
    target = folder / "m.safetensors"
    target.write_bytes(b"an older model")
    base = [] if "--labels-are" in more or "--dense" in more else ["--labels-are", "instances"]
    result = command(*words(folder, *base, *(["--dense"] if base else []), *more))
    assert result.code == 2
    assert result.out == ""
    line = [x for x in result.err.splitlines() if x.startswith("napari-unetpp: error:")]
    assert len(line) == 1
    assert message in line[0]
    assert target.read_bytes() == b"an older model"


def test_where_the_model_goes_is_checked_first(folder: Path, command: Any) -> None:
    arguments = words(folder, "--labels-are", "instances", "--dense")
    for out, message in (("m.pt", "must end in .safetensors"), ("no/m.safetensors", "not exist")):
        arguments[arguments.index("--out") + 1] = str(folder / out)
        result = command(*arguments)
        assert result.code == 2
        assert message in result.err
    assert not (folder / "m.run").exists()


def test_a_killed_run_goes_on_with_the_same_result(folder: Path, command: Any) -> None:
    """SIGKILL in mid-run, the same command again: the weights of an uninterrupted run."""
    many = ["--labels-are", "instances", "--dense", "--steps", "12"]
    child = subprocess.Popen(
        [sys.executable, "-m", "napari_unetpp.cli.main", *words(folder, *many)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    state = folder / "m.run" / "state.safetensors"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert state.exists()
    assert not (folder / "m.safetensors").exists()
    assert command(*words(folder, *many)).code == 0
    resumed = load_model(folder / "m.safetensors").network.state_dict()
    straight_words = words(folder, *many, "--run-dir", str(folder / "other.run"))
    assert command(*straight_words).code == 0
    straight = load_model(folder / "m.safetensors").network.state_dict()
    assert all(np.array_equal(resumed[k], straight[k]) for k in straight)
