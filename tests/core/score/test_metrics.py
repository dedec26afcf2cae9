"""Metrics against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.score import metrics
from napari_unetpp.core.score.metrics import (
    THRESHOLDS,
    Counts,
    PooledCounts,
    PooledObjects,
    average_precision,
    challenge_score,
    count_pixels,
    dice,
    iou,
    match_objects,
)


def row(*runs: tuple[int, int], length: int = 100) -> np.ndarray:
    """Return a (1, length) label image with objects 1, 2, ... on [start, stop)."""
    labels = np.zeros((1, length), np.int32)
    for number, (start, stop) in enumerate(runs, start=1):
        labels[0, start:stop] = number
    return labels


def test_iou_and_dice_of_two_squares() -> None:
    truth, pred = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    truth[0:4, 0:4] = True  # 16
    pred[2:6, 0:4] = True  # 16, of which rows 2 and 3 are shared: 8
    assert count_pixels(pred, truth) == Counts(tp=8, fp=8, fn=8)
    assert iou(pred, truth) == 8 / 24
    assert dice(pred, truth) == 16 / 32


def test_where_takes_pixels_out_of_every_count() -> None:
    truth = np.array([True, True, False, False])
    pred = np.array([True, False, True, False])
    where = np.array([True, False, True, True])
    assert count_pixels(pred, truth, where) == Counts(tp=1, fp=1, fn=0)
    assert iou(pred, truth, where) == 1 / 2
    assert dice(pred, truth, where) == 2 / 3


def test_empty_images() -> None:
    none, some = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert iou(none, none) == dice(none, none) == 1
    assert iou(some, none) == dice(some, none) == 0
    assert iou(none, some) == dice(none, some) == 0


def test_per_image_and_pooled_differ_as_they_should() -> None:
    small, large = PooledCounts(), PooledCounts()
    truth = np.array([True] * 2 + [False] * 98)
    pred = np.array([True] * 1 + [False] * 99)  # TP 1, FP 0, FN 1: IoU 1/2, Dice 2/3
    small.add(pred, truth)
    full = np.array([True] * 100)  # TP 100: IoU 1, Dice 1
    large.add(full, full)
    both = PooledCounts(small.images + large.images)
    assert both.n_images == 2
    assert both.pooled == Counts(101, 0, 1)
    assert both.iou_per_image == pytest.approx((1 / 2 + 1) / 2)
    assert both.dice_per_image == pytest.approx((2 / 3 + 1) / 2)
    assert both.iou_pooled == pytest.approx(101 / 102)
    assert both.dice_pooled == pytest.approx(202 / 203)


def test_without_images_figures_are_nan_and_not_perfect() -> None:
    pixels, objects = PooledCounts(), PooledObjects()
    for value in (
        pixels.iou_pooled, pixels.dice_pooled, pixels.iou_per_image, pixels.dice_per_image,
        objects.ap50, objects.ap50_per_image, objects.score,
    ):  # fmt: skip
        assert math.isnan(value)


def test_matching_and_average_precision_by_hand() -> None:
    # truth   1: [0, 10)   2: [20, 30)  3: [40, 50)
    # pred    1: [0, 10) = 10/10 = 1    2: [22, 32) = 8/12 = 0.667   3: [45, 55) = 5/15 = 0.333
    truth = row((0, 10), (20, 30), (40, 50))
    pred = row((0, 10), (22, 32), (45, 55))
    overlaps = match_objects(pred, truth)
    np.testing.assert_allclose(overlaps.iou, [1, 8 / 12, 5 / 15])
    np.testing.assert_array_equal(overlaps.matches(0.5), [[1, 1], [2, 2]])
    np.testing.assert_array_equal(overlaps.matches(0.7), [[1, 1]])
    # TP 2, FP 1, FN 1 up to 0.65 (four thresholds): 2/4; then TP 1, FP 2, FN 2: 1/5
    expected = [2 / 4] * 4 + [1 / 5] * 6
    np.testing.assert_allclose(average_precision(pred, truth), expected)
    assert challenge_score(pred, truth) == pytest.approx((4 * 0.5 + 6 * 0.2) / 10)  # 0.32


@pytest.mark.parametrize("percent", range(50, 100, 5))
def test_an_iou_of_exactly_the_threshold_is_no_match(percent: int) -> None:
    # truth has 100 pixels, the prediction the first `percent` of them: IoU = percent / 100
    truth, pred = row((0, 100)), row((0, percent))
    at = THRESHOLDS.index(percent / 100)
    ap = average_precision(pred, truth)
    np.testing.assert_array_equal(ap, [1.0] * at + [0.0] * (10 - at))


def test_split_and_merged_objects() -> None:
    # One true object of 10, predicted as halves of 6 and 4: IoU 0.6 and 0.4: TP 1, FP 1, FN 0.
    split = match_objects(row((0, 6), (6, 10)), row((0, 10)))
    assert split.counts(0.5) == Counts(1, 1, 0)
    # Two equal objects of 5 predicted as one of 10: IoU 0.5 each, a tie: nobody matches.
    merged = match_objects(row((0, 10)), row((0, 5), (5, 10)))
    assert merged.counts(0.5) == Counts(0, 1, 2)


def test_objects_of_empty_images() -> None:
    none, some = row(), row((0, 5), (8, 12))
    assert challenge_score(none, none) == 1
    assert challenge_score(some, none) == 0
    assert challenge_score(none, some) == 0
    assert match_objects(none, some).counts() == Counts(0, 0, 2)


def test_pooled_objects() -> None:
    pooled = PooledObjects()
    pooled.add(row((0, 10)), row((0, 10)))  # TP 1: AP 1, score 1
    pooled.add(row((0, 10), (50, 60), (70, 80)), row((0, 10)))  # TP 1, FP 2: AP 1/3, score 1/3
    assert pooled.ap50 == pytest.approx(2 / 4)
    assert pooled.ap50_per_image == pytest.approx((1 + 1 / 3) / 2)
    assert pooled.score == pytest.approx((1 + 1 / 3) / 2)


def test_ids_may_be_large_and_have_gaps() -> None:
    truth, pred = row((0, 10), (20, 30)).astype(np.uint64), row((0, 9), (40, 50)).astype(np.int64)
    truth[truth == 2] = 2**62
    pred[pred == 2] = 77
    overlaps = match_objects(pred, truth)
    np.testing.assert_array_equal(overlaps.truth_ids, [1, 2**62])
    np.testing.assert_array_equal(overlaps.pred_ids, [1, 77])
    np.testing.assert_allclose(overlaps.iou, [0.9])
    full = np.full((1, 4), 2**40)  # no background at all
    assert match_objects(full, full).counts() == Counts(1, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, 5)),
    hnp.arrays(np.uint8, (7, 9), elements=st.integers(0, 5)),
    st.booleans(),
)
def test_overlaps_equal_masks_compared_one_by_one(
    pred: np.ndarray, truth: np.ndarray, sparse: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if sparse:
            patch.setattr(metrics, "_DENSE_TABLE", -1)
        overlaps = match_objects(pred, truth)
    found = {
        (int(overlaps.pred_ids[p]), int(overlaps.truth_ids[t])): value
        for p, t, value in zip(overlaps.pred_index, overlaps.truth_index, overlaps.iou, strict=True)
    }
    expected = {
        (p, t): iou(pred == p, truth == t)
        for p in set(pred.ravel().tolist()) - {0}
        for t in set(truth.ravel().tolist()) - {0}
        if ((pred == p) & (truth == t)).any()
    }
    assert found == expected
    pairs = overlaps.matches(0.5)
    assert len(set(pairs[:, 0])) == len(set(pairs[:, 1])) == len(pairs)


def test_bad_input_says_what_came() -> None:
    with pytest.raises(InputError, match=r"boolean, got float64 and bool"):
        iou(np.zeros(3), np.zeros(3, bool))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"\(3,\) and \(4,\)"):
        dice(np.zeros(3, bool), np.zeros(4, bool))
    with pytest.raises(InputError, match=r"\(2, 2\) and \(4,\)"):
        match_objects(np.zeros((2, 2), int), np.zeros(4, int))
    with pytest.raises(InputError, match="negative"):
        match_objects(np.full((2, 2), -1), np.zeros((2, 2), int))
    with pytest.raises(InputError, match="float32"):
        challenge_score(np.zeros((2, 2), np.float32), np.zeros((2, 2), int))  # type: ignore[arg-type]
    for threshold in (0.4, 1.0, float("nan")):
        with pytest.raises(InputError, match="thresholds"):
            match_objects(row(), row()).matches(threshold)
