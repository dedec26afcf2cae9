"""Painted layers in a real viewer: every way of painting is kept, and comes back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import platformdirs
import pytest
from napari.layers.labels._labels_mouse_bindings import draw
from napari.utils.colormaps import DirectLabelColormap

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.core.teach.places import data_folder, journal_folder
from napari_unetpp.core.teach.recorder import Recorder
from napari_unetpp.core.teach.recovered import read_journal, recover
from napari_unetpp.widget.journalling import Journalling

INFO = LayerInfo(
    "paint", axes="YX", image="cells", image_path="/data/cells.tif",
    classes=(ClassInfo("nucleus", "#3fb27f"),),
)  # fmt: skip


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[..., Journalling]]:
    """Return a function that makes the journalling of a viewer; it is closed at the end."""
    made: list[Journalling] = []

    def begin(viewer: Any, folder: Path | None = None, **options: Any) -> Journalling:
        recorder = Recorder(folder or tmp_path / "kept", delay=0.0, sweep=1000.0)
        made.append(Journalling(viewer, recorder=recorder, **options))
        return made[-1]

    yield begin
    for one in made:
        one.close()


def kept(journalling: Journalling, layer: Any) -> Any:
    """Return the labels that the journal of a layer holds now."""
    assert journalling.flush()
    path = journalling._followed[id(layer)].track.path
    assert path is not None
    return read_journal(path).labels()


def test_every_way_of_painting_is_kept(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    viewer = make_napari_viewer()
    layer = viewer.add_labels(np.zeros((300, 260), np.uint8))
    journalling = keep(viewer)
    journalling.follow(layer, INFO)
    acts: list[Callable[[], Any]] = [
        lambda: layer.paint((50, 60), 2),
        lambda: layer.paint((200, 200), 3),
        lambda: layer.paint((52, 60), 0),
        lambda: layer.paint_polygon([[100, 100], [100, 160], [160, 130]], 4),
        lambda: layer.fill((250, 10), 1),
        lambda: layer.undo(),
        lambda: layer.undo(),
        lambda: layer.redo(),
        lambda: layer.data_setitem((np.array([5, 299]), np.array([6, 259])), 9),
    ]
    states = []
    for act in acts:
        act()
        assert np.array_equal(kept(journalling, layer), layer.data)
        states.append(layer.data.tobytes())
    assert len(set(states)) == len(acts) - 3  # undo and redo brought back what was
    layer.visible = False
    layer.paint((20, 20), 5)
    layer.undo()
    journalling._followed[id(layer)].track.sweep()  # what happens every two seconds
    assert np.array_equal(kept(journalling, layer), layer.data)


def test_in_volumes_too(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    viewer = make_napari_viewer()
    layer = viewer.add_labels(np.zeros((20, 80, 90), np.int32))
    journalling = keep(viewer)
    journalling.follow(layer, INFO.replace(axes="ZYX"), empty=True)
    layer.n_edit_dimensions = 3
    layer.brush_size = 15
    layer.paint((10, 40, 40), 2)
    assert np.count_nonzero(layer.data.any(axis=(1, 2))) > 5
    assert np.array_equal(kept(journalling, layer), layer.data)
    layer.n_edit_dimensions = 2
    viewer.dims.order = (1, 2, 0)
    layer.paint((10, 20, 20), 3)
    assert np.array_equal(kept(journalling, layer), layer.data)
    layer.undo()
    layer.undo()
    assert not kept(journalling, layer).any()


def _event(layer: Any, kind: str, position: tuple[float, float]) -> Any:
    return SimpleNamespace(
        type=kind, position=position, view_direction=None, dims_displayed=[0, 1], button=1,
        modifiers=(), pos=position,
    )  # fmt: skip


def test_a_stroke_that_goes_on_is_kept_before_its_end(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    viewer = make_napari_viewer()
    layer = viewer.add_labels(np.zeros((300, 300), np.uint8))
    journalling = keep(viewer)
    journalling.follow(layer, INFO)
    layer.mode = "paint"
    layer.selected_label = 2
    event = _event(layer, "mouse_press", (20, 20))
    assert draw in layer.mouse_drag_callbacks
    stroke = draw(layer, event)
    next(stroke)
    for k in range(5):
        event.type, event.position = "mouse_move", (20 + 40 * k, 20 + 50 * k)
        next(stroke)
    assert layer.data.any()
    assert np.array_equal(kept(journalling, layer), layer.data)
    event.type = "mouse_release"
    next(stroke, None)
    assert np.array_equal(kept(journalling, layer), layer.data)


def test_a_layer_comes_back_as_it_was(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    first = make_napari_viewer()
    layer = first.add_labels(
        np.zeros((60, 70), np.uint16), name="first name", scale=(0.5, 0.25), translate=(3, 4),
        rotate=30, shear=[0.2], affine=np.array([[1, 0.1, 5], [0, 1, 6], [0, 0, 1]]),
        units=("um", "um"), axis_labels=("y", "x"), opacity=0.4, metadata={"mine": [1, "a"]},
    )  # fmt: skip
    journalling = keep(first)
    journalling.follow(layer, INFO, empty=True)
    layer.paint((20, 20), 2)
    layer.name = "paint: Zellen ü"
    layer.colormap = DirectLabelColormap(
        color_dict={None: (0.5, 0.5, 0.5, 1), 0: (0, 0, 0, 0), 2: (1, 0, 0, 1)}
    )
    layer.features = {"index": [0, 1, 2], "class": ["unlabelled", "background", "nucleus"]}
    layer.selected_label = 2
    layer.brush_size = 7
    journalling.close()

    second = make_napari_viewer()
    journalling = keep(second)
    (offer,) = journalling.offers()
    assert offer.text.startswith("paint: Zellen ü on cells (")
    back = journalling.restore(offer)
    assert back in second.layers
    assert journalling.offers() == []
    assert back.name == "paint: Zellen ü"
    assert np.array_equal(back.data, layer.data)
    assert back.data.dtype == np.uint16
    for name in ("scale", "translate", "rotate"):
        assert np.allclose(getattr(back, name), getattr(layer, name))
    assert np.allclose(back.affine.affine_matrix, layer.affine.affine_matrix)
    assert np.allclose(back.extent.world, layer.extent.world)
    assert (back.units, back.axis_labels) == (layer.units, layer.axis_labels)
    assert (back.opacity, back.selected_label, back.brush_size) == (0.4, 2, 7)
    assert np.allclose(back.colormap.color_dict[2], (1, 0, 0, 1))
    assert list(back.features["class"]) == ["unlabelled", "background", "nucleus"]
    assert back.metadata["mine"] == [1, "a"]
    # Painting goes on in the same journal.
    back.paint((50, 50), 3)
    assert np.array_equal(kept(journalling, back), back.data)
    assert len(list(journalling.folder.glob("*.journal"))) == 1
    info = journalling._followed[id(back)].track.info
    assert (info.image_path, info.classes) == (INFO.image_path, INFO.classes)


def test_other_data_takes_the_place(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    viewer = make_napari_viewer()
    layer = viewer.add_labels(np.ones((30, 40), np.uint8))
    journalling = keep(viewer)
    journalling.follow(layer, INFO)
    assert kept(journalling, layer).shape == (30, 40)
    layer.data = np.full((50, 20), 3, np.int64)
    layer.paint((10, 10), 4)
    back = kept(journalling, layer)
    assert back.dtype == layer.data.dtype
    assert np.array_equal(back, layer.data)
    layer.data = np.full((4, 50, 20), 1, np.uint8)
    assert np.array_equal(kept(journalling, layer), layer.data)
    data = layer.data
    data[2, 3, 4] = 7
    layer.refresh()
    assert np.array_equal(kept(journalling, layer), data)


def test_what_becomes_of_a_journal(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    viewer = make_napari_viewer()
    journalling = keep(viewer)
    for name in ("removed", "deleted", "saved", "saved, painted on", "empty", "closed"):
        layer = viewer.add_labels(np.zeros((30, 40), np.uint8), name=name)
        journalling.follow(layer, INFO)
        if name != "empty":
            layer.paint((10, 10), 2)
    assert journalling.flush()
    viewer.layers.remove("removed")
    assert [o.recovered.info.name for o in journalling.offers()] == ["removed"]
    journalling.forget(viewer.layers["deleted"], delete=True)
    journalling.saved(viewer.layers["saved"], "/there.tif")
    journalling.saved(viewer.layers["saved, painted on"], "/there.tif")
    assert journalling.flush()
    viewer.layers["saved, painted on"].paint((20, 20), 1)
    journalling.close()
    again = keep(viewer)
    offers = again.offers()
    assert {o.recovered.info.name for o in offers} == {"removed", "saved, painted on", "closed"}
    for offer in offers:
        again.discard(offer)
    assert again.offers() == []
    assert list(again.folder.iterdir()) == []
    with pytest.raises(FileError, match="not there any more"):
        again.restore(offers[0])


def test_two_viewers_share_a_folder(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    one, two = make_napari_viewer(), make_napari_viewer()
    first, second = keep(one), keep(two)
    layer = one.add_labels(np.zeros((30, 40), np.uint8), name="one")
    first.follow(layer)
    layer.paint((10, 10), 2)
    assert first.flush()
    assert second.offers() == []
    first.forget(layer)
    (mine,), (yours,) = first.offers(), second.offers()
    second.restore(yours)
    with pytest.raises(FileError, match="open in another window"):
        first.restore(mine)
    with pytest.raises(FileError, match="open in another window"):
        first.discard(mine)
    assert np.array_equal(two.layers["one"].data, layer.data)


def test_a_problem_is_told_on_the_gui_thread(
    make_napari_viewer: Callable[..., Any], tmp_path: Path, qtbot: Any
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    said: list[tuple[str, Any]] = []
    viewer = make_napari_viewer()
    journalling = Journalling(
        viewer, blocked / "kept", lambda text: said.append((text, threading.current_thread()))
    )
    layer = viewer.add_labels(np.zeros((30, 40), np.uint8))
    journalling.follow(layer)
    layer.paint((10, 10), 2)
    qtbot.waitUntil(lambda: bool(said), timeout=10000)
    layer.paint((20, 20), 2)
    assert not journalling.flush()
    blocked.unlink()
    qtbot.waitUntil(lambda: len(said) > 1, timeout=10000)
    journalling.close()
    assert "painting goes on" in said[0][0]
    assert said[1:] == [("", threading.main_thread())]
    assert said[0][1] is threading.main_thread()
    assert np.array_equal(recover(blocked / "kept")[0].labels(), layer.data)


def test_of_a_huge_volume_only_touched_blocks_are_kept(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling], tmp_path: Path
) -> None:
    path = tmp_path / "huge.npy"
    huge = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(1500, 1024, 1024))
    viewer = make_napari_viewer()
    layer = viewer.add_labels(huge, name="huge")
    journalling = keep(viewer)
    journalling.follow(layer, INFO.replace(axes="ZYX"))
    viewer.dims.set_point(0, 700)
    layer.paint((700, 500, 400), 2)
    assert journalling.flush()
    journal = journalling._followed[id(layer)].track.path
    assert journal is not None
    assert journal.stat().st_size < 3000
    found = read_journal(journal)
    assert not found.complete
    assert found.boxes() == [((696, 704), (448, 512), (384, 448))]  # the one block around it
    viewer.layers.clear()
    journalling.close()
    del huge, layer


def test_layers_that_cannot_be_painted_are_refused(
    make_napari_viewer: Callable[..., Any], keep: Callable[..., Journalling]
) -> None:
    viewer = make_napari_viewer()
    scales = [np.zeros((64, 64), np.uint8), np.zeros((32, 32), np.uint8)]
    layer = viewer.add_labels(scales, multiscale=True)
    with pytest.raises(InputError, match="several scales"):
        keep(viewer).follow(layer)


def test_where_journals_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_UNETPP_DATA", str(tmp_path / "given"))
    assert journal_folder() == tmp_path / "given" / "journal"
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("NAPARI_UNETPP_DATA", str(tmp_path / "blocked"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fallback = journal_folder()
    assert fallback.parent == tmp_path
    assert fallback == journal_folder()  # found again the next time
    monkeypatch.delenv("NAPARI_UNETPP_DATA")

    # What is left where there is no home folder, as in a container of an unknown user.
    nowhere = "~/.local/share/napari-unetpp"
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda *_, **__: nowhere)
    with pytest.raises(FileError, match="no home folder"):
        data_folder()
    assert journal_folder() == fallback


_VIEWER = """
import sys, time
from pathlib import Path
import napari, numpy as np
from qtpy.QtCore import QTimer
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.widget.journalling import Journalling

viewer = napari.Viewer(show=True)
layer = viewer.add_labels(np.zeros((512, 512), np.uint8), name="crashed", scale=(2, 2))
layer.brush_size = 1
journalling = Journalling(viewer, Path(sys.argv[1]))
journalling.follow(layer, LayerInfo("crashed", image="cells"), empty=True)
count = 0

def stroke():
    global count
    y, x = divmod(count, 400)
    if count % 10 == 9:  # every tenth is painted, undone and done again
        layer.paint((y, x), 2)
        layer.undo()
        layer.redo()
    else:
        layer.paint((y, x), count % 200 + 1)
    print(count, time.time(), flush=True)
    count += 1

timer = QTimer()
timer.timeout.connect(stroke)
timer.start(30)
assert "torch" not in sys.modules
napari.run()
"""


def test_strokes_outlive_a_viewer_that_is_killed(
    make_napari_viewer: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    lines = []
    command = [sys.executable, "-c", _VIEWER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # However slowly it starts: ten strokes, and others for longer than two seconds.
        end = float("inf")
        while time.time() < end:
            lines.append(process.stdout.readline())
            assert lines[-1], "the viewer ended"
            if len(lines) == 10:
                end = time.time() + 2.5
        assert recover(folder) == []  # it lives
        process.kill()
        killed = time.time()
        lines += process.stdout.read().splitlines()
    told = [line.split() for line in lines if " " in line]
    old = [int(number) for number, when in told if float(when) < killed - 2.0]
    assert len(old) > 5
    viewer = make_napari_viewer()
    journalling = Journalling(viewer, folder)
    (offer,) = journalling.offers()
    layer = journalling.restore(offer)
    assert (layer.name, tuple(layer.scale)) == ("crashed", (2, 2))
    for number in old:
        place = divmod(number, 400)
        assert layer.data[place] == (2 if number % 10 == 9 else number % 200 + 1)
    layer.paint((300, 300), 7)
    journalling.close()
    assert recover(folder)[0].labels()[300, 300] == 7
