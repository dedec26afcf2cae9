"""The training set in a viewer: what is saved where, and that no paint is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from qtpy.QtWidgets import QWidget

from napari_unetpp.core.teach import project as project_module
from napari_unetpp.core.teach.project import Project
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.widget.dock import UNetPPWidget

WAIT = 60_000


def part(dock: UNetPPWidget, name: str) -> Any:
    found = dock.findChild(QWidget, name)
    assert found is not None
    return found


def paint(dock: UNetPPWidget, qtbot: Any, *strokes: tuple[int, int, int]) -> Any:
    """Make a painted layer by the button, and a dab for each (row, column, value)."""
    part(dock, "new_painted_button").click()
    layer, painting = dock.teach.painting.layer, dock.teach.painting
    for row, column, value in strokes:
        layer.paint((row, column), value)
    wanted = {value for _, _, value in strokes}
    qtbot.waitUntil(lambda: set(painting.counts or ()) == wanted, timeout=WAIT)
    return layer


def idle(dock: UNetPPWidget, qtbot: Any) -> None:
    """Wait until no file of the project is read or written."""
    qtbot.waitUntil(lambda: not dock.teach.training._busy, timeout=WAIT)


def save(dock: UNetPPWidget, qtbot: Any, folder: Path) -> None:
    dock.teach.training.save_to(folder)
    idle(dock, qtbot)
    assert str(part(dock, "teach_status").text()).startswith("saved in"), part(
        dock, "teach_status"
    ).text()


def painted_in(folder: Path, name: str) -> NDArray[Any]:
    return np.array(Project.open(folder).pair(name).painted().data)


def test_strokes_painted_while_it_is_saved_are_still_offered(
    make_dock: Callable[..., UNetPPWidget],
    qtbot: Any,
    blobs: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot, (10, 20, 1), (30, 40, 2))
    read, go_on = threading.Event(), threading.Event()
    write = project_module.write_labels

    def slow(*args: Any) -> Any:
        found = write(*args)
        read.set()
        assert go_on.wait(WAIT / 1000)
        return found

    monkeypatch.setattr(project_module, "write_labels", slow)
    dock.teach.training.save_to(tmp_path / "p")
    assert read.wait(WAIT / 1000)
    layer.paint((70, 100), 2)
    go_on.set()
    idle(dock, qtbot)
    journalling = dock.teach.journalling
    assert journalling.flush()
    assert painted_in(tmp_path / "p", "cells")[70, 100] == 0
    journalling.forget(layer)
    assert journalling.flush()
    (offer,) = journalling.offers()
    back = journalling.restore(offer)
    assert back.data[70, 100] == 2
    # What was saved whole is offered no more.
    dock.teach.painting.choose(back)
    monkeypatch.undo()
    save(dock, qtbot, tmp_path / "p")
    assert journalling.flush()
    journalling.forget(back)
    assert journalling.flush()
    assert journalling.offers() == []


def test_another_image_of_the_same_name_gets_a_pair_of_its_own(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: NDArray[np.uint8], tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    first = make_dock(data=blobs, name="cells")
    layer = paint(first, qtbot, (10, 20, 1), (30, 40, 2))
    save(first, qtbot, folder)
    strokes = np.array(layer.data)
    second = make_dock(data=blobs[::-1].copy(), name="cells")
    other = paint(second, qtbot, (70, 90, 1), (50, 40, 2))
    save(second, qtbot, folder)
    names = [pair.name for pair in Project.open(folder).pairs()]
    assert names == ["cells", "cells (2)"]
    np.testing.assert_array_equal(painted_in(folder, "cells"), strokes)
    np.testing.assert_array_equal(painted_in(folder, "cells (2)"), other.data)
    image = Project.open(folder).pair("cells (2)").image()
    np.testing.assert_array_equal(np.asarray(image.data), blobs[::-1])
    # Both are learned from, each once; what is saved again goes to its own pair.
    pairs, _ = second.teach.training.pairs()
    assert [p.name for p in pairs] == ["cells (2)", "cells"]
    other.paint((5, 100), 1)
    save(second, qtbot, folder)
    assert [pair.name for pair in Project.open(folder).pairs()] == names
    assert painted_in(folder, "cells (2)")[5, 100] == 1
    np.testing.assert_array_equal(painted_in(folder, "cells"), strokes)
    # Before it is saved, too, an image of that name is not taken for the project's.
    third = make_dock(data=blobs, name="cells")
    paint(third, qtbot, (20, 20, 1))
    assert [p.name for p in third.teach.training.pairs()[0]] == ["cells"]
    split = Split()
    split.update({"cells#0": np.asarray(third.teach.painting.layer.data)})
    third.teach.training.learned(split.to_json())  # as after a fine-tuning
    third.teach.training.open(folder)
    idle(third, qtbot)
    found = [p.name for p in third.teach.training.pairs()[0]]
    assert len(set(found)) == 3
    assert found[1:] == names
    # Its strokes stay on their sides, under the name that it has now.
    assert third.teach.training.split is not None
    assert list(third.teach.training.split["parts"]) == [f"{found[0]}#0"]


def test_the_classes_of_a_project_come_back_and_stay(
    make_dock: Callable[..., UNetPPWidget], qtbot: Any, blobs: NDArray[np.uint8], tmp_path: Path
) -> None:
    folder = tmp_path / "p"
    dock = make_dock(data=blobs, name="cells")
    layer = paint(dock, qtbot, (10, 20, 1), (30, 40, 2))
    part(dock, "add_class_button").click()
    part(dock, "class_table").item(2, 1).setText("mito")
    layer.paint((60, 60), 3)
    qtbot.waitUntil(lambda: 3 in (dock.teach.painting.counts or {}), timeout=WAIT)
    save(dock, qtbot, folder)
    again = make_dock()
    teach = again.teach
    teach.training.open(folder)
    idle(again, qtbot)
    button = part(again, "finetune_button")
    assert button.isEnabled(), button.toolTip()
    assert teach.training.class_names() == ("nucleus", "mito")  # or a worker refused the value 3
    teach.training.show("cells")
    idle(again, qtbot)
    qtbot.waitUntil(lambda: bool(teach.painting.counts), timeout=WAIT)
    assert teach.painting.class_names() == ("nucleus", "mito")
    assert button.isEnabled(), button.toolTip()
    # A layer for another image has them too.
    again.viewer.add_image(blobs[:50], name="other")
    part(again, "new_painted_button").click()
    assert teach.painting.class_names() == ("nucleus", "mito")
    assert part(again, "class_table").item(2, 1).text() == "mito"
    # Who paints fewer classes does not take away those of the others.
    third = make_dock(data=blobs[:40], name="third")
    paint(third, qtbot, (10, 20, 1), (30, 40, 2))
    assert third.teach.painting.class_names() == ("nucleus",)
    save(third, qtbot, folder)
    assert [c.name for c in Project.open(folder).classes] == ["nucleus", "mito"]
    assert third.teach.painting.class_names() == ("nucleus", "mito")
