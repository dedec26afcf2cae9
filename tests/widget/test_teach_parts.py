"""Parts of Teach that need layers or files, and no engine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Image, Labels

from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.model.cards import bundled_models, read_card
from napari_unetpp.core.tune import start
from napari_unetpp.widget import drafts, paint_count
from napari_unetpp.widget.models import ModelList, figures
from napari_unetpp.widget.paint_count import PaintCount, count_values
from napari_unetpp.widget.painted_layer import (
    class_rows,
    dress,
    empty_paint,
    grid_shape,
    make_painted,
    paint_on,
    painted_source,
    pair_name,
    write_classes,
    write_pair,
)
from napari_unetpp.widget.relay import Relay

CARD = read_card("nuclei")


@pytest.mark.parametrize(
    ("axes", "shape", "wanted", "letters"),
    [
        ("YX", (8, 9), (8, 9), "YX"),
        ("ZYX", (3, 8, 9), (3, 8, 9), "ZYX"),
        ("CYX", (2, 8, 9), (8, 9), "YX"),
        ("TCYX", (4, 2, 8, 9), (4, 1, 8, 9), "TYX"),
        ("YXC", (8, 9, 2), (8, 9, 1), "YX"),
        ("YXS", (8, 9, 3), (8, 9), "YX"),
    ],
)
def test_a_painted_layer_has_the_grid_of_its_image(
    axes: str, shape: tuple[int, ...], wanted: tuple[int, ...], letters: str
) -> None:
    image = Image(np.zeros(shape, np.uint8), rgb=axes.endswith("S"), name="cells")
    assert grid_shape(image, axes) == wanted
    layer = make_painted(image, axes, CARD, "paint")
    assert layer.data.shape == wanted
    assert layer.data.dtype == np.uint8
    layer.data[(2,) * layer.ndim if layer.data.ndim == 2 else (0,) * layer.ndim] = 1
    source = painted_source(layer, image, axes)
    assert source.axes == letters
    assert len(source.data.shape) == len(letters)
    whole = np.asarray(source.data[...] if hasattr(source.data, "_axis") else source.data)
    assert whole.sum() == 1
    one = np.asarray(source.data[tuple(slice(0, 5) for _ in letters)])
    np.testing.assert_array_equal(one, whole[tuple(slice(0, 5) for _ in letters)])
    first = np.asarray(source.data[0])
    np.testing.assert_array_equal(first, whole[0])


def test_a_painted_layer_lies_on_its_image() -> None:
    turned = {"scale": (0.5, 0.25), "translate": (10, -3), "rotate": 30, "shear": [0.2]}
    image = Image(
        np.zeros((20, 30)), name="cells", units=("µm", "µm"), axis_labels=("y", "x"), **turned
    )
    layer = make_painted(image, "YX", CARD, "paint: cells")
    for point in ((0, 0), (19, 29), (7, 3)):
        np.testing.assert_allclose(layer.data_to_world(point), image.data_to_world(point))
    assert layer.units == image.units
    assert layer.axis_labels == image.axis_labels
    assert (layer.selected_label, layer.name) == (2, "paint: cells")
    there = paint_on(image, "YX", np.ones((30, 20), np.uint8), "XY", "again")
    assert there.data.shape == (20, 30)


def test_a_layer_of_another_shape_is_refused_in_a_sentence() -> None:
    image = Image(np.zeros((8, 9)), name="cells")
    other = Labels(np.zeros((8, 8), np.uint8), name="mine")
    with pytest.raises(InputError, match=r"mine has the shape 8 × 8, but cells needs 8 × 9"):
        painted_source(other, image, "YX")


def test_large_paint_lies_in_a_sparse_file_that_goes_with_it() -> None:
    small = empty_paint((10, 10))
    assert not isinstance(small, np.memmap)
    large = empty_paint((300, 1000, 1000), limit=1e6)
    assert isinstance(large, np.memmap)
    path = Path(str(large.filename))
    if hasattr(os.stat_result, "st_blocks"):
        assert path.stat().st_blocks * 512 < 1e6
    large[5, 5, 5] = 2
    assert large[5, 5, 5] == 2
    assert large[:4].sum() == 0
    del large
    assert not path.exists()


def test_classes_are_the_models_and_then_the_layers() -> None:
    layer = make_painted(Image(np.zeros((8, 9)), name="cells"), "YX", CARD, "paint")
    assert [(r.value, r.name, r.own) for r in class_rows(layer, CARD)] == [
        (1, "background", False),
        (2, "nucleus", False),
    ]
    write_classes(layer, ["nucleus", "debris"])
    rows = class_rows(layer, CARD, [1, 2, 7])
    assert [(r.value, r.name, r.own, r.known) for r in rows] == [
        (1, "background", False, True),
        (2, "nucleus", False, True),
        (3, "debris", True, True),
        (7, "no class", False, False),
    ]
    scratch = class_rows(layer, CARD, scratch=True)
    assert [(r.name, r.own) for r in scratch[1:]] == [("nucleus", True), ("debris", True)]
    # The layer's classes have the colours that the fine-tuned model's card will give them.
    assert rows[2].colour == start.grown_card(CARD, ["nucleus", "debris"]).classes[1].color


def test_a_painted_layer_wears_its_classes() -> None:
    layer = make_painted(Image(np.zeros((8, 9)), name="cells"), "YX", CARD, "paint")
    rows = class_rows(layer, CARD)
    dress(layer, rows)
    assert list(layer.features["class"]) == ["unlabelled", "background", "nucleus"]
    green = [int(CARD.classes[0].color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    np.testing.assert_allclose(layer.colormap.color_dict[2][:3], green, atol=1e-6)
    assert layer.colormap.color_dict[0][3] == 0
    map_before = layer.colormap
    dress(layer, rows)
    assert layer.colormap is map_before  # nothing is drawn anew for nothing


def test_a_pair_has_a_name_that_goes_with_the_layer() -> None:
    layer = Labels(np.zeros((4, 4), np.uint8), metadata={"other": 1})
    assert pair_name(layer) == ""
    write_pair(layer, "cells")
    write_classes(layer, ["nucleus"])
    assert pair_name(layer) == "cells"
    assert layer.metadata["other"] == 1


@pytest.mark.parametrize("chunk", [7, 64, 10**6])
def test_counts_are_those_of_the_whole(chunk: int, rng: np.random.Generator) -> None:
    data = rng.integers(0, 4, (5, 17, 13)) * (rng.random((5, 17, 13)) < 0.2)
    expected = {int(v): int((data == v).sum()) for v in np.unique(data) if v}
    assert count_values(data.astype(np.uint8), chunk) == expected
    assert count_values(np.zeros((0, 3), np.uint8)) == {}
    assert count_values(np.zeros((4, 3), np.uint8)) == {}


def test_counting_follows_strokes_and_undo(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay()
    calls: list[Any] = []
    count = PaintCount(relay, lambda: calls.append(count.counts))
    layer = Labels(np.zeros((40, 40), np.uint8))
    count.watch(layer)
    qtbot.waitUntil(lambda: count.counts == {}, timeout=5000)
    layer.selected_label = 2
    layer.brush_size = 1
    layer.paint((5, 5), 2)
    layer.paint((9, 9), 1)
    qtbot.waitUntil(lambda: count.counts == {1: 1, 2: 1}, timeout=5000)
    layer.undo()
    qtbot.waitUntil(lambda: count.counts == {2: 1}, timeout=5000)
    layer.data = np.full((40, 40), 3, np.uint8)
    qtbot.waitUntil(lambda: count.counts == {3: 1600}, timeout=5000)
    monkeypatch.setattr(paint_count, "LARGE", 100)
    other = Labels(np.ones((40, 40), np.uint8))
    count.watch(other)
    qtbot.wait(300)
    assert count.counts is None  # too large to count
    told = len(calls)
    count.close()
    layer.paint((5, 5), 2)
    qtbot.wait(300)
    assert len(calls) == told
    relay.close()


@pytest.fixture
def draft() -> str:
    path = drafts.new_draft("nuclei")
    shutil.copyfile(bundled_models()["nuclei"], path)
    return str(path)


def test_drafts_are_named_after_their_base(draft: str, tmp_path: Path) -> None:
    assert drafts.is_draft(draft)
    assert Path(draft).parent == tmp_path / "data" / "fine-tuned"
    assert drafts.draft_label(draft) == "nuclei (fine-tuned)"
    again = drafts.new_draft("nuclei-tuned")
    assert str(again) != draft
    assert drafts.draft_label(str(again)) == "nuclei (fine-tuned)"
    assert drafts.draft_label(str(drafts.new_draft("Zellen / übel: 3"))).endswith("(fine-tuned)")
    assert not drafts.is_draft("nuclei")
    assert not drafts.is_draft("")


def test_a_draft_is_saved_whole_or_not_at_all(draft: str, tmp_path: Path) -> None:
    target = tmp_path / "größe 1" / "mine"
    target.parent.mkdir()
    path = drafts.save_copy(draft, str(target))
    assert path.name == "mine.safetensors"
    assert path.read_bytes() == Path(draft).read_bytes()
    with pytest.raises(FileError):
        drafts.save_copy(draft, str(path / "in a file.safetensors"))
    with pytest.raises(InputError, match="save the model elsewhere"):
        drafts.save_copy(draft, str(drafts.drafts_folder() / "x.safetensors"))
    drafts.forget_draft(str(path))
    assert path.exists()  # it is no draft
    drafts.forget_draft(draft)
    assert not Path(draft).exists()
    with pytest.raises(FileError):
        drafts.save_copy(draft, str(tmp_path / "late.safetensors"))


def test_old_drafts_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "MOST", 2)
    made = []
    folder = drafts.new_draft("nuclei").parent
    for number in range(4):
        path = folder / f"{number}.safetensors"
        path.write_bytes(b"x")
        os.utime(path, (number, number))
        made.append(path)
    drafts.new_draft("nuclei")
    assert [p.exists() for p in made] == [False, False, True, True]


def test_the_list_of_models_says_what_is_a_draft(draft: str) -> None:
    models = ModelList()
    models.add_file(draft)
    entry = next(e for e in models.entries() if e.value == draft)
    assert (entry.label, entry.group) == ("nuclei (fine-tuned)", "file")
    assert "Not saved yet" in entry.tooltip
    assert models.label(draft) == "nuclei (fine-tuned)"
    assert ModelList().label(draft) == "nuclei (fine-tuned)"  # another day, under recent
    models.forget(draft)
    assert draft not in [e.value for e in models.entries()]
    assert draft not in [e.value for e in ModelList().entries()]


def test_scores_on_strokes_are_the_figures_of_a_tuned_card() -> None:
    card = CARD.replace(scores={"1": {"iou_strokes": 0.7}, "4": {"iou_strokes": 0.9}}, timings={})
    found = figures(card)
    assert (found[4].score, found[4].score_name, found[4].strokes) == (0.9, "IoU", True)
    assert (found[2].score, found[2].strokes) == (None, False)
    assert not figures(CARD)[4].strokes


def test_the_slider_says_that_scores_are_of_strokes(
    panel: Any, figures: dict[Any, Any], find: Callable[..., Any]
) -> None:
    import dataclasses

    from qtpy.QtWidgets import QLabel

    strokes = {k: dataclasses.replace(f, strokes=True) for k, f in figures.items()}
    panel.set_levels((1, 2, 3, 4), strokes)
    texts = [label.text() for label in panel.findChildren(QLabel)]
    assert "strokes" in texts
    assert "held out" not in texts
