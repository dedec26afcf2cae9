"""A random walker: pieces as far as the image is alike, and no word about what it did not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import drain
from napari_unetpp.core.tune import tune, walker
from napari_unetpp.core.tune.inputs import Painted, Window
from napari_unetpp.core.tune.settings import STROKES, TuneConfig
from napari_unetpp.core.tune.start import scratch_card
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING, Split
from napari_unetpp.core.tune.tune import FineTuning
from napari_unetpp.core.tune.walker import walk
from tests.core.tune.conftest import painted, run, tuning

SPACE = (20, 40, 24)
BALL, TWIN = (10, 10, 12), (10, 30, 12)


def ball(middle: tuple[int, ...], radius: float = 6.0) -> NDArray[np.bool_]:
    offsets = np.indices(SPACE) - np.reshape(middle, (3, 1, 1, 1))
    return np.asarray((offsets**2).sum(axis=0) < radius**2)


Stroke = tuple[tuple[slice | int, ...], int, int]


def window(*strokes: Stroke, channels: int = 1, noise: float = 0.05) -> Window:
    """Two balls that look alike; strokes are (where, value, side)."""
    grain = np.random.default_rng(0).normal(0, noise, (channels, *SPACE))
    image = ((ball(BALL) | ball(TWIN)) + grain).astype(np.float32)
    labels, sides = np.full(SPACE, UNLABELLED, np.uint8), np.zeros(SPACE, np.uint8)
    for where, value, side in strokes:
        labels[where], sides[where] = value, side
    return Window("balls", image, labels, sides)


IN_BALL = ((10, 10, slice(8, 17)), 1, TRAINING)
BESIDE = ((10, slice(2, 38), 2), 0, TRAINING)
HELD = ((10, 30, slice(8, 17)), 1, HELD_OUT)


def trees(chance: float = 0.5, classes: int = 1) -> NDArray[np.float32]:
    """A forest that does not know."""
    rest = (1.0 - chance) / classes
    return np.stack([np.full(SPACE, v, np.float32) for v in (chance, *[rest] * classes)])


def iou(answer: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((answer & truth).sum() / (answer | truth).sum())


@pytest.mark.parametrize(("channels", "noise"), [(1, 0.0), (1, 0.05), (3, 0.05), (1, 0.1)])
def test_it_finds_the_piece_that_is_painted_and_not_its_twin(channels: int, noise: float) -> None:
    seen = window(IN_BALL, BESIDE, channels=channels, noise=noise)
    (found,), there = walk([seen], [trees(0.9)])
    assert there == [True]
    assert iou(found[1] > 0.5, ball(BALL)) > 0.9
    assert (found[1][ball(TWIN)] > 0.5).mean() < 0.1
    np.testing.assert_allclose(found.sum(axis=0), 1.0, atol=1e-3)


def test_far_from_strokes_it_is_what_the_prior_says() -> None:
    """The twin is joined to nothing that is painted."""
    twin = ball(TWIN, 4.0)
    for chance in (0.2, 0.8):
        (found,), _ = walk([window(IN_BALL, BESIDE)], [trees(chance)])
        expected = 0.5 * (1.0 - chance)
        assert abs(float(found[1][twin].mean()) - expected) < 0.1


def test_strokes_keep_their_value_and_held_out_ones_are_not_seen() -> None:
    (one,), _ = walk([window(IN_BALL, BESIDE, HELD)], [trees()])
    (other,), _ = walk([window(IN_BALL, BESIDE)], [trees()])
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one[1][10, 10, 8:17], 1.0)
    np.testing.assert_allclose(one[0][10, 2:38, 2], 1.0)


def test_a_class_without_a_stroke_is_as_likely_as_trees_say() -> None:
    """Nothing leads to it, and where nothing else does it is left."""
    perfect = np.stack([~(ball(BALL) | ball(TWIN)), ball(BALL), ball(TWIN)]).astype(np.float32)
    (found,), _ = walk([window(IN_BALL, BESIDE)], [perfect])
    inner = ball(TWIN, 4.0)
    assert abs(float(found[2][inner].mean()) - 0.5) < 0.1
    assert found[2][~ball(TWIN)].max() < 0.1
    assert iou(found[1] > 0.5, ball(BALL)) > 0.9


def test_without_a_stroke_of_background_not_everything_is_a_class() -> None:
    """What comes to no stroke has given up, and the prior has background in it."""
    far = (10, 30, slice(8, 17)), 2, TRAINING
    truth = np.stack([~(ball(BALL) | ball(TWIN)), ball(BALL), ball(TWIN)]).astype(np.float32)
    (found,), _ = walk([window(IN_BALL, far)], [truth])
    assert iou(found.argmax(axis=0) > 0, ball(BALL) | ball(TWIN)) > 0.8


EVERYWHERE = ((slice(None),) * 3, 0, TRAINING)


@pytest.mark.parametrize("strokes", [(), (HELD,), (EVERYWHERE, IN_BALL)])
def test_where_it_cannot_walk_it_says_the_prior(strokes: tuple[Stroke, ...]) -> None:
    (found,), there = walk([window(*strokes)], [trees(0.8)])
    assert there == [False]
    np.testing.assert_allclose(found[0], 0.9)
    np.testing.assert_allclose(found[1], 0.1)


def test_without_time_only_the_first_window_is_walked() -> None:
    both = [window(IN_BALL, BESIDE)] * 2
    found, there = walk(both, [trees(), trees()], enough=lambda: True)
    assert (len(found), there) == (2, [True])
    assert found[0][1].max() == 1.0
    assert found[1][1].max() == 0.25
    assert len(walk(both, [trees()])[0]) == 1  # nor where the forest had none


def test_it_walks_in_a_box_around_the_strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    small = window(IN_BALL, ((10, 2, slice(8, 17)), 0, TRAINING))
    monkeypatch.setattr(walker, "MARGINS", (24, 4))
    for work, end in ((2 * 9 * 15 * 17, 15), (2 * 9 * 9 * 17, 15)):
        monkeypatch.setattr(walker, "WORK", work)
        (found,), there = walk([small], [trees(0.8)])
        assert there == [True]
        assert found[1].max() == 1.0
        np.testing.assert_allclose(found[1][:, end:], 0.1)
        # With less room it leaves what is background alone.
        assert bool(found[0][10, 2, 10] == 1.0) is (work > 2 * 9 * 9 * 17)
    monkeypatch.setattr(walker, "WORK", 2 * 9 * 9 * 17 - 1)
    (found,), there = walk([small], [trees(0.8)])
    assert there == [False]
    np.testing.assert_allclose(found[1], 0.1)


@pytest.mark.parametrize("noise", [0.1, 0.2])
def test_what_was_clipped_does_not_hide_how_noisy_the_rest_is(noise: float) -> None:
    seen = window(IN_BALL, BESIDE, noise=noise)
    seen.image[..., 18:] = seen.image.min()
    (found,), _ = walk([seen], [trees(0.9)])
    assert iou(found[1] > 0.5, ball(BALL)) > 0.85


def test_an_image_of_one_value_is_walked_as_well() -> None:
    flat = window(IN_BALL, BESIDE)
    flat.image[:] = 7.0
    (found,), _ = walk([flat], [trees()])
    assert np.isfinite(found).all()
    assert found[1][10, 10, 12] == 1.0


def volume_pair() -> tuple[Painted, NDArray[np.bool_]]:
    """A volume with strokes of two pieces each way, as a person paints."""
    truth = ball(BALL) | ball(TWIN)
    grain = np.random.default_rng(0).normal(0, 0.05, SPACE)
    labels = np.zeros(SPACE, np.uint8)
    for y in (10, 30):
        labels[10, y, 8:17] = 2
        labels[14, y, 9:15] = 2
    for y in (2, 20, 38):
        labels[10, y, 4:20] = 1
    pixels = (100 * (truth + grain)).astype(np.float32)
    return Painted("balls", Image(pixels, "ZYX"), Image(labels, "ZYX")), truth


@pytest.mark.parametrize("teacher", ["auto", "walker", "forest"])
def test_volumes_are_walked(teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, _ = volume_pair()
    weights: list[float] = []
    real = tune.Learner

    def note(*args: Any) -> Any:
        weights.append(args[6])
        return real(*args)

    monkeypatch.setattr(tune, "Learner", note)
    config = TuneConfig(max_seconds=600.0, steps=2, teacher=teacher)
    job = FineTuning([pair], scratch_card("new", ["cell"], "ZYX", 1), None, Split(0), config)
    result = drain(job.run())
    expected = "forest" if teacher == "forest" else "walker"
    assert result.teacher.name == expected
    assert set(result.teacher.scores) == {
        "auto": {"forest", "walker"}, "walker": {"walker"}, "forest": {"forest"}
    }[teacher]  # fmt: skip
    assert weights == [STROKES if expected == "walker" else 1.0]


@pytest.mark.parametrize(("teacher", "expected"), [("auto", "forest"), ("walker", "walker")])
def test_planes_are_walked_if_it_is_asked_for(
    teacher: str, expected: str, image: Image, paint: NDArray[np.uint8]
) -> None:
    job = tuning(painted(image, paint), None, steps=1, teacher=teacher, body="random")
    result, _ = run(job)
    assert result.teacher.name == expected


def test_dense_labels_are_not_walked() -> None:
    pair, truth = volume_pair()
    dense = Painted("balls", pair.image, Image(truth.astype(np.uint8), "ZYX"), dense=True)
    config = TuneConfig(max_seconds=600.0, steps=1)
    job = FineTuning([dense], scratch_card("new", ["cell"], "ZYX", 1), None, Split(0), config)
    assert set(drain(job.run()).teacher.scores) == {"forest"}


def test_trees_teach_where_a_walk_was_asked_for_and_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walker, "WORK", 1)
    pair, _ = volume_pair()
    config = TuneConfig(max_seconds=600.0, steps=1, teacher="walker")
    job = FineTuning([pair], scratch_card("new", ["cell"], "ZYX", 1), None, Split(0), config)
    assert drain(job.run()).teacher.name == "forest"
