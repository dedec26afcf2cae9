"""Where heads differ, and where to paint next."""

from __future__ import annotations

import numpy as np
import pytest

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.tune.disagreement import disagreement, next_places, uncertainty


def test_agreement_is_0_and_halves_apart_is_1() -> None:
    a, b = np.zeros((2, 4, 5), np.float32), np.zeros((2, 4, 5), np.float32)
    b[1, 2, 3] = 1.0
    found = disagreement([a, b])
    assert found[2, 3] == 1.0
    assert found.sum() == 1.0
    heads = [np.full((1, 2, 2), p, np.float32) for p in (0.2, 0.4, 0.6, 0.8)]
    assert disagreement(heads) == pytest.approx(2 * np.std([0.2, 0.4, 0.6, 0.8]))


def test_uncertainty_is_1_where_heads_differ_and_where_all_are_unsure() -> None:
    a = np.array([[[0.0, 0.5, 0.0, 0.1]]], np.float32)
    b = np.array([[[1.0, 0.5, 0.0, 0.1]]], np.float32)
    assert uncertainty([a, b])[0] == pytest.approx([1.0, 1.0, 0.0, 0.469], abs=1e-3)


def test_one_level_or_other_shapes_are_refused() -> None:
    one = np.zeros((1, 3, 3), np.float32)
    for heads in ([one], [one, one[:, :2]]):
        with pytest.raises(InputError, match="at least two levels"):
            uncertainty(heads)
        with pytest.raises(InputError, match="at least two levels"):
            disagreement(heads)


def test_places_come_largest_first_and_apart() -> None:
    field = np.zeros((200, 300), np.float32)
    field[40:60, 40:60] = 0.5  # 200 in all
    field[150:160, 240:250] = 1.0  # 100
    field[45:50, 70:75] = 1.0  # 25, near the first
    found = next_places(field, 5, size=32)
    assert [round(s.amount) for s in found[:2]] == [pytest.approx(205, abs=25), 100]
    assert abs(found[0].place[0] - 50) < 20
    assert abs(found[1].place[1] - 245) < 20
    for k, one in enumerate(found):
        for other in found[:k]:
            apart = np.abs(np.subtract(one.place, other.place))
            assert apart.max() > 32
    amounts = [s.amount for s in found]
    assert amounts == sorted(amounts, reverse=True)


def test_what_is_painted_is_not_suggested_and_nothing_gives_nothing() -> None:
    field = np.zeros((64, 64), np.float32)
    assert next_places(field) == []
    field[10:20, 10:20] = 1
    assert len(next_places(field, 1)) == 1
    assert next_places(field, painted=field > 0) == []


def test_volumes() -> None:
    field = np.zeros((20, 40, 40), np.float32)
    field[10, 20, 30] = 1.0
    (found,) = next_places(field, 3, size=5)
    assert found.amount == pytest.approx(1.0)
    assert np.abs(np.subtract(found.place, (10, 20, 30))).max() <= 2
