"""A project in the dock: learned from without its layers, and copied as a command."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from qtpy.QtWidgets import QApplication, QWidget

from napari_unetpp.cli.main import main
from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.model.cards import bundled_models, read_card
from napari_unetpp.core.model.modelfile import save_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.teach.project import Project
from napari_unetpp.core.tune.strokes import load_split, split_path
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.protocol import TuneOutcome
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 120_000
QUICK = ["--max-seconds", "1", "--teacher", "none", "--device", "cpu", "--json"]


class Asked:
    """Stands where the engine fine-tunes: keeps what it was asked, and ends when it is told."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher()
        self.requests: list[tuple[list[Any], Any]] = []
        self.jobs: list[Job] = []

    def tune(self, pairs: Any, request: Any) -> Job:
        self.requests.append((list(pairs), request))
        job = Job(len(self.jobs) + 1, "tune", self.dispatcher, lambda job, dropped: None)
        self.jobs.append(job)
        return job

    def keep_base(self) -> None:
        """End the last one: nothing was better."""
        row = {"before": 0.5, "after": 0.5, "seconds_per_megapixel": 0.1}
        report = {
            "levels": {"1": row}, "cheapest": 1, "base_kept": True, "steps": 1, "seconds": 1.0,
            "sentences": [],
        }  # fmt: skip
        self.jobs[-1].finish("done", TuneOutcome(report, {"parts": {}}, None))


@pytest.fixture
def asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    made = Asked()
    monkeypatch.setattr(engine, "tune", made.tune)
    yield made
    made.dispatcher.stop(5)


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def status(dock: UNetPPWidget) -> str:
    return str(part(dock, "teach_status").text())


def strokes(shape: tuple[int, ...] = (96, 128), top: int = 2) -> NDArray[np.uint8]:
    """Return strokes on the blobs: two of each value at least."""
    painted = np.zeros(shape, np.uint8)
    painted[3, 5:60] = painted[90, 5:60] = 1
    painted[30, 32:48] = painted[60, 82:98] = 2
    if top > 2:
        painted[30, 70:90] = painted[80, 30:50] = 3
    return painted


@pytest.fixture
def project(tmp_path: Path, blobs: NDArray[np.uint8]) -> Project:
    """Return a project of two images, in which a class is painted that no model knows."""
    made = Project.create(
        tmp_path / "mein set", base="nuclei", classes=[ClassInfo("nucleus"), ClassInfo("debris")]
    )
    for name in ("one", "two"):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, blobs)
        made.add(path, strokes(top=3), name=name)
    return made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model that knows nothing yet: quick where its answers do not matter."""
    config = NetworkConfig(filters=(4, 6, 8))
    card = ModelCard("small", config, (ClassInfo("nucleus"),), levels_trained=(1, 2))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = NestedUNet(config)
    return save_model(tmp_path_factory.mktemp("model") / "small.safetensors", network, card)


def opened(dock: UNetPPWidget, qtbot: Any, project: Project) -> UNetPPWidget:
    dock.teach.training.open(project.folder)
    qtbot.waitUntil(lambda: not dock.teach.training._busy, timeout=WAIT)
    return dock


def begin(dock: UNetPPWidget) -> None:
    button = part(dock, "finetune_button")
    assert button.isEnabled(), button.toolTip()
    button.click()
    assert dock.teach.tuning.running


def copied(dock: UNetPPWidget, qtbot: Any) -> str:
    """Press the button and return what it says at its end."""
    part(dock, "copy_finetune_button").click()
    qtbot.waitUntil(lambda: "looking into" not in status(dock), timeout=WAIT)
    return status(dock)


def test_it_is_learned_from_with_no_image_open(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, project: Project, asked: Asked
) -> None:
    dock = make_dock()
    assert not part(dock, "finetune_button").isEnabled()
    opened(dock, qtbot, project)
    begin(dock)
    pairs, request = asked.requests[-1]
    assert [pair.name for pair in pairs] == ["one", "two"]
    assert request.classes == ("nucleus", "debris")  # the project's, after the model's
    np.testing.assert_array_equal(np.asarray(pairs[1].painted.data), strokes(top=3))
    asked.keep_base()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    # A new network knows the project's classes alone.
    part(dock, "start_combo").setCurrentIndex(1)
    begin(dock)
    assert asked.requests[-1][1].classes == ("nucleus", "debris")
    assert asked.requests[-1][1].model.model == "scratch"
    asked.keep_base()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)


def test_an_image_that_is_open_but_not_painted_is_no_hindrance(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, project: Project, asked: Asked,
    blobs: NDArray[np.uint8],
) -> None:  # fmt: skip
    dock = opened(make_dock(data=blobs, name="other"), qtbot, project)
    begin(dock)
    assert [pair.name for pair in asked.requests[-1][0]] == ["one", "two"]
    asked.keep_base()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    part(dock, "new_painted_button").click()
    qtbot.waitUntil(lambda: dock.teach.painting.counts == {}, timeout=WAIT)
    begin(dock)  # an empty layer neither
    assert [pair.name for pair in asked.requests[-1][0]] == ["one", "two"]
    assert asked.requests[-1][1].classes == ("nucleus", "debris")
    asked.keep_base()
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)


def test_images_that_are_all_gone_are_said(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, project: Project
) -> None:
    for pair in project.pairs():
        pair.image_path.unlink()
    dock = opened(make_dock(), qtbot, project)
    button = part(dock, "finetune_button")
    assert not button.isEnabled()
    assert "The image of 'one' is not at" in button.toolTip()


@pytest.mark.parametrize("base", ["scratch", "file", "gone", "unknown"])
def test_it_begins_with_what_the_project_begins_with(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, project: Project, tmp_path: Path, base: str
) -> None:
    mine = tmp_path / "mine.safetensors"
    if base == "file":
        mine.write_bytes(bundled_models()["nuclei"].read_bytes())
    project.set_base({"scratch": "scratch", "unknown": "no-such-model"}.get(base, str(mine)))
    dock = opened(make_dock(), qtbot, project)
    assert dock.selection.model_value == (str(mine) if base == "file" else "nuclei")
    assert dock.teach.form.training.scratch == (base == "scratch")
    lacking = base in ("gone", "unknown")
    assert ("is not there: choose another one" in status(dock)) == lacking
    assert "opened mein set: 2 images" in status(dock)


def test_the_real_engine_learns_from_it(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, project: Project
) -> None:
    dock = opened(make_dock(), qtbot, project)
    dock.teach.form.budget.set_choices([("test", 3.0)], 3.0)
    begin(dock)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert status(dock).startswith("done:"), status(dock)
    card = dock.selection.card
    assert card is not None
    assert [c.name for c in card.classes] == ["nucleus", "debris"]
    assert part(dock, "report_table").item(0, 2).text() not in ("", "–")
    qtbot.waitUntil(lambda: not dock.teach.training._busy, timeout=WAIT)
    assert set(project.split().shapes) == {"one#0", "two#0"}
    # An image opened afterwards is predicted by what was learned.
    part(dock, "training_set_list").setCurrentRow(0)
    part(dock, "show_pair_button").click()
    qtbot.waitUntil(lambda: dock.teach.painting.layer is not None, timeout=WAIT)
    assert [row.name for row in dock.teach.painting.classes()][1:] == ["nucleus", "debris"]
    part(dock, "revert_button").click()
    assert dock.selection.model_value == "nuclei"


# Copying


def test_a_project_is_copied_once_its_strokes_are_saved(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, project: Project, small: Path,
    blobs: NDArray[np.uint8],
) -> None:  # fmt: skip
    project.set_base(small)
    dock = opened(make_dock(), qtbot, project)
    out = project.folder / "small-tuned.safetensors"
    said = copied(dock, qtbot)  # no image in hand
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    words = shlex.split(clipboard.text())
    assert said == f"copied: {clipboard.text()}"
    assert words[:4] == ["napari-unetpp", "finetune", "--project", str(project.folder)]
    assert "--classes=nucleus,debris" in words
    assert main([*words[1:], *QUICK]) == 0
    assert [c.name for c in read_card(out).classes] == ["nucleus", "debris"]
    assert read_card(out).name == "small-tuned"

    part(dock, "training_set_list").setCurrentRow(0)
    part(dock, "show_pair_button").click()
    qtbot.waitUntil(lambda: dock.teach.painting.layer is not None, timeout=WAIT)
    painting = dock.teach.painting
    qtbot.waitUntil(lambda: bool(painting.counts), timeout=WAIT)
    assert "small-tuned-2.safetensors" in copied(dock, qtbot)  # the one that is there stays
    painting.layer.paint((50, 50), 2)
    assert "paint: one was painted on since it was saved: press Save" in copied(dock, qtbot)
    part(dock, "save_project_button").click()
    qtbot.waitUntil(lambda: not dock.teach.training._busy, timeout=WAIT)
    assert copied(dock, qtbot).startswith("copied: ")
    # Strokes that the project does not have would be learned from here, and not there.
    dock.viewer.add_image(blobs, name="third")
    part(dock, "new_painted_button").click()
    dock.teach.painting.layer.paint((30, 40), 2)
    qtbot.waitUntil(lambda: bool(painting.counts), timeout=WAIT)
    assert "paint: third is not in the project mein set: press Save" in copied(dock, qtbot)


def test_saved_layers_are_copied_with_their_sides(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, tmp_path: Path, small: Path,
    blobs: NDArray[np.uint8],
) -> None:  # fmt: skip
    dock = make_dock(data=blobs, name="cells")
    dock.selection.add_model(str(small))
    button = part(dock, "copy_finetune_button")
    assert not button.isEnabled()
    assert "press New" in button.toolTip()
    part(dock, "new_painted_button").click()
    layer, painting = dock.teach.painting.layer, dock.teach.painting
    layer.data = strokes()
    qtbot.waitUntil(lambda: bool(painting.counts), timeout=WAIT)
    assert "cells is in no file that a command could read: press Save as…" in copied(dock, qtbot)

    tifffile.imwrite(tmp_path / "cells.tif", blobs)
    tifffile.imwrite(tmp_path / "paint.tif", strokes())
    dock.viewer.layers.clear()
    dock.viewer.open(str(tmp_path / "cells.tif"), plugin="napari")
    assert "press New" in part(dock, "copy_finetune_button").toolTip()
    (layer,) = dock.viewer.open(
        str(tmp_path / "paint.tif"), plugin="napari", layer_type="labels", name="paint"
    )
    dock.teach.painting.choose(layer)
    qtbot.waitUntil(lambda: bool(painting.counts), timeout=WAIT)
    dock.teach.form.budget.set_choices([("test", 2.0)], 2.0)
    begin(dock)
    qtbot.waitUntil(lambda: not dock.teach.tuning.running, timeout=WAIT)
    assert status(dock).startswith("done:"), status(dock)
    part(dock, "revert_button").click() if dock.teach.tuning.reverts else None
    assert copied(dock, qtbot).startswith("copied: "), status(dock)
    clipboard = QApplication.clipboard()
    assert clipboard is not None
    words = shlex.split(clipboard.text())
    assert words[2:6] == ["--image", str(tmp_path / "cells.tif"),
                          "--painted", str(tmp_path / "paint.tif")]  # fmt: skip
    # Held out here is held out there.
    kept = split_path(tmp_path / "paint.tif")
    side = load_split(kept).to_json()["parts"]
    (here,) = dock.teach.training.split["parts"].values()
    assert list(side.values()) == [here]
    assert main([*words[1:], *QUICK]) == 0
    assert load_split(kept).to_json()["parts"] == side
