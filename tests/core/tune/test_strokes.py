"""Strokes keep their side for good; both sides get each class where there are two strokes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.tune.strokes import (
    HELD_OUT,
    TRAINING,
    Split,
    load_split,
    pieces,
    save_split,
    split_path,
)


def test_pieces_are_connected_over_corners_and_apart_by_value() -> None:
    labels = np.array([[1, 0, 0, 2], [0, 1, 0, 2], [2, 0, 0, 0]])
    found = {(p.value, tuple(p.pixels)) for p in pieces(labels)}
    assert found == {(1, (0, 5)), (2, (3, 7)), (2, (8,))}


def test_a_large_piece_is_cut_into_blocks_and_a_small_one_is_not() -> None:
    labels = np.zeros((8, 200), np.uint8)
    labels[2, 30:90] = 1  # 60 pixels over a block's edge: whole
    labels[5, :130] = 2  # 130 pixels: blocks of 64, 64 and 2
    found = pieces(labels)
    assert [p.pixels.size for p in found if p.value == 1] == [60]
    assert [p.pixels.size for p in found if p.value == 2] == [64, 64, 2]


def test_two_strokes_of_a_class_are_one_on_each_side(paint: NDArray[np.uint8]) -> None:
    for seed in range(8):
        split = Split(seed)
        split.update({"a": paint})
        side = split.side_of("a", paint.shape)
        assert (side > 0).sum() == (paint > 0).sum()
        for value in (1, 2):
            assert set(side[paint == value]) == {TRAINING, HELD_OUT}


def test_one_stroke_is_for_training() -> None:
    labels = np.zeros((20, 20), np.uint8)
    labels[3, 3] = 2
    split = Split()
    split.update({"a": labels})
    assert split.side_of("a", labels.shape)[3, 3] == TRAINING


def test_about_a_third_is_held_out() -> None:
    labels = np.zeros((200, 200), np.uint8)
    labels[::10, 5:15] = 1
    labels[::10, 105:115] = 2
    split = Split(3)
    split.update({"a": labels})
    side = split.side_of("a", labels.shape)
    for value in (1, 2):
        assert 0.25 <= (side[labels == value] == HELD_OUT).mean() <= 0.4


def test_painting_on_reshuffles_nothing(paint: NDArray[np.uint8]) -> None:
    split = Split(1)
    split.update({"a": paint})
    before = split.side_of("a", paint.shape)
    more = paint.copy()
    more[30, 45:50] = 2  # goes on with a stroke
    more[70:75, 20] = 1  # a new one
    more[5, 10:20] = 0  # rubbed out
    more[88, 5:10] = 2  # repainted
    split.update({"a": more})
    after = split.side_of("a", paint.shape)
    assert (after[before > 0] == before[before > 0]).all()
    assert (after[30, 45:50] == before[30, 44]).all()
    assert len(set(after[70:75, 20])) == 1
    assert after[70, 20] > 0
    again = split.to_json()
    split.update({"a": more})
    assert split.to_json() == again


def test_a_second_stroke_of_a_class_is_held_out() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[3, 3:20] = 2
    split = Split()
    split.update({"a": labels})
    labels[30, 3:9] = 2
    split.update({"a": labels})
    assert (split.side_of("a", labels.shape)[30, 3:9] == HELD_OUT).all()


def test_several_images_share_the_sides() -> None:
    one, two = np.zeros((2, 30, 30), np.uint8)
    one[3, 3:9] = 2
    two[4, 5:9] = 2
    split = Split()
    split.update({"a": one, "b": two})
    sides = {int(split.side_of("a", one.shape)[3, 3]), int(split.side_of("b", two.shape)[4, 5])}
    assert sides == {TRAINING, HELD_OUT}


def test_the_file_brings_back_the_same_split(tmp_path: Path, paint: NDArray[np.uint8]) -> None:
    path = split_path(tmp_path / "cells.tif")
    assert path.name == "cells.tif.strokes.json"
    split = load_split(path, seed=4)
    split.update({"a": paint})
    save_split(path, split)
    back = load_split(path, seed=9)
    assert back.seed == 4
    assert np.array_equal(back.side_of("a", paint.shape), split.side_of("a", paint.shape))
    assert back.to_json() == split.to_json()
    assert path.stat().st_size < 1000


def test_labels_of_another_shape_are_refused(paint: NDArray[np.uint8]) -> None:
    split = Split()
    split.update({"a": paint})
    with pytest.raises(InputError, match=r"have shape \(50, 112\), but their strokes were split"):
        split.update({"a": paint[:50]})


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        json.dumps({"format": "other"}),
        json.dumps([1]),
        json.dumps(
            {
                "format": "napari-unetpp strokes 1",
                "seed": 0,
                "parts": {"a": {"shape": [2, 2], "training": [3, 5], "held_out": []}},
            }
        ),
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.strokes.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"x\.strokes\.json.*delete it"):
        load_split(path)


def test_a_split_that_is_not_strict_deals_another_shape_anew() -> None:
    split = Split(0)
    labels = np.zeros((30, 40), np.uint8)
    labels[5, 5:20], labels[20, 5:20] = 1, 1
    split.update({"cells#0": labels})
    other = np.zeros((50, 20), np.uint8)
    other[5, 5:15], other[40, 5:15] = 1, 1
    with pytest.raises(InputError, match="were split at shape"):
        split.update({"cells#0": other})
    split.strict = False
    split.update({"cells#0": other})
    assert split.shapes["cells#0"] == (50, 20)
    side = split.side_of("cells#0", (50, 20))
    assert {int(v) for v in np.unique(side[other > 0])} == {TRAINING, HELD_OUT}
    assert side[other == 0].max() == 0
