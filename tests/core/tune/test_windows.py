"""How much is read around the paint: windows, and the crops in which a state is judged."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.tune import inputs, retention
from napari_unetpp.core.tune.inputs import PIXELS, Window, _Place, windows
from napari_unetpp.core.tune.retention import Retention
from napari_unetpp.core.tune.scoring import CROPS, MARGIN, SIDE, crops, head_probabilities
from napari_unetpp.core.tune.strokes import HELD_OUT
from tests.core.tune.conftest import small_model


def window(shape: tuple[int, ...], *places: tuple[int, ...]) -> Window:
    """Return a window of noise with held-out pixels at some places."""
    labels = np.full(shape, UNLABELLED, np.uint8)
    sides = np.zeros(shape, np.uint8)
    for place in places:
        labels[place], sides[place] = 1, HELD_OUT
    image = np.zeros((1, *shape), np.float32)
    if len(shape) == 2:
        image[0] = np.random.default_rng(0).normal(size=shape)
    return Window("noise", image, labels, sides)


class Reads:
    """Stands for a reader: places of given sizes, and what was read of them."""

    def __init__(self, sizes: list[int], free: list[int]) -> None:
        self._places = [_place(n, paint=100 - k) for k, n in enumerate(sizes)]
        self._free = [_place(n, paint=0) for n in free]

    def painted(self) -> list[_Place]:
        return self._places

    def free(self, count: int) -> list[_Place]:
        return self._free[:count]

    def window(self, place: _Place) -> Any:
        return SimpleNamespace(size=place.size)


def _place(size: int, paint: int) -> _Place:
    return _Place(0, (slice(0, 1), slice(0, 1), slice(0, size)), paint)


@pytest.mark.parametrize(
    ("sizes", "free", "expected"),
    [
        ([2 * PIXELS[3]], [5], [2 * PIXELS[3]]),  # the first is held whatever its size
        ([10, 20], [5, 6], [10, 20, 5, 6]),
        ([PIXELS[3] - 10, 20], [5, 5], [PIXELS[3] - 10]),
        ([PIXELS[3] - 10], [5, 6], [PIXELS[3] - 10, 5]),
    ],
)
def test_windows_together_are_no_larger_than_memory_allows(
    sizes: list[int], free: list[int], expected: list[int]
) -> None:
    found = windows([cast(inputs.Reader, Reads(sizes, free))], 3)
    assert [cast(Any, w).size for w in found] == expected


def test_a_volume_of_an_organ_is_one_window() -> None:
    assert inputs._regions((107, 140, 140)) == [(slice(0, 107), slice(0, 140), slice(0, 140))]


@pytest.mark.parametrize("shape", [(400, 400), (90, 100, 110)])
def test_strokes_are_judged_with_what_is_around_them(shape: tuple[int, ...]) -> None:
    middle = tuple(n // 2 for n in shape)
    found = crops([window(shape, middle)], HELD_OUT)
    assert len(found) == 1
    assert all(n <= SIDE[len(shape)] for n in found[0].space)
    (place,) = np.argwhere(found[0].sides == HELD_OUT)
    for before, n in zip(place, found[0].space, strict=True):
        assert before >= MARGIN[len(shape)]
        assert n - 1 - before >= MARGIN[len(shape)]


def test_every_stroke_is_judged_once_though_crops_overlap() -> None:
    inner = SIDE[2] - 2 * MARGIN[2]
    one = window((600, 600), (5, 5), (5, 5 + inner), (5, 5 + inner + MARGIN[2] // 2))
    found = crops([one], HELD_OUT)
    assert sum(int((c.sides == HELD_OUT).sum()) for c in found) == 3
    assert len(found) == 2


def test_a_scoring_is_bounded() -> None:
    far = [(5, 5, k) for k in range(5, 400, 60)]
    assert len(far) > CROPS[3]
    assert len(crops([window((10, 10, 400), *far)], HELD_OUT)) == CROPS[3]


def test_a_part_of_a_window_is_compared_with_the_base_on_that_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model()
    one = window((64, 64))
    mean = np.mean(list(head_probabilities(model.network, one.image).values()), axis=0)
    card = model.card.replace(threshold=float(np.median(mean)))
    seen: list[int] = []
    ask = head_probabilities

    def note(network: Any, image: Any, precision: str) -> Any:
        seen.append(math.prod(image.shape[1:]))
        return ask(network, image, precision)

    monkeypatch.setattr(retention, "SIDE", {2: 32, 3: 32})
    monkeypatch.setattr(retention, "head_probabilities", note)
    kept = Retention([one], [mean], model.network, ("base",), card, "float32")
    assert kept.share(model.network) == 1.0
    assert seen == [32 * 32] * 2


def test_crops_begin_with_classes_and_not_with_a_corner_of_background() -> None:
    one = window((300, 100, 100), (200, 50, 60))
    one.labels[:150], one.sides[:150] = 0, HELD_OUT
    first = crops([one], HELD_OUT)[0]
    assert ((first.labels == 1) & (first.sides == HELD_OUT)).sum() == 1


def test_a_base_has_not_forgotten_itself_whatever_its_heads_say() -> None:
    model = small_model()
    one = window((40, 40))
    heads = head_probabilities(model.network, one.image)
    # The deepest head alone differs from the mean of all, which a state is asked for.
    deepest = heads[max(heads)]
    card = model.card.replace(threshold=float(np.median(deepest)))
    kept = Retention([one], [deepest], model.network, ("base",), card, "float32")
    assert kept.share(model.network) == 1.0


def test_what_is_looked_at_holds_something_of_two_far_places() -> None:
    answer = np.zeros((1, 140, 140, 140), bool)
    answer[:, :20, :20, :20] = answer[:, 120:, 120:, 120:] = True
    assert answer[(slice(None), *retention._around(answer))].sum() == 20**3
