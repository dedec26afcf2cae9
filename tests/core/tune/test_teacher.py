"""Who teaches what: forest, walker or base, and the choice between them, class by class."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.tune.forest import fit_forest
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING
from napari_unetpp.core.tune.teacher import choose, class_scores, confidence
from tests.core.tune.conftest import discs

NAMES = ("left", "right")


def card(activation: str = "sigmoid") -> ModelCard:
    network = NetworkConfig(
        filters=(4, 6),
        out_channels=2 + (activation == "softmax"),
        activation=activation,  # type: ignore[arg-type]
    )
    classes = tuple(ClassInfo(n) for n in NAMES)
    return ModelCard(name="two", network=network, classes=classes, levels_trained=(1,))


def truth() -> NDArray[np.uint8]:
    """Two discs, each a class of its own."""
    labels = discs().astype(np.uint8)
    labels[:, 56:] *= 2
    return labels


def window(*, held_out: bool = True, classes: tuple[int, ...] = (0, 1, 2)) -> Window:
    labels = np.full(truth().shape, UNLABELLED, np.uint8)
    sides = np.zeros(labels.shape, np.uint8)
    for row, side in ((28, TRAINING), (30, HELD_OUT), (62, TRAINING), (60, HELD_OUT)):
        if side == TRAINING or held_out:
            keep = np.isin(truth()[row], classes)
            labels[row][keep], sides[row][keep] = truth()[row][keep], side
    noise = np.random.default_rng(0).normal(0, 0.05, labels.shape)
    image = (truth() / 2.0 + noise).astype(np.float32)[None]
    return Window("discs", image, labels, sides)


def maps(*right: bool) -> NDArray[np.float32]:
    """Channels that are right, or find nothing, class by class."""
    rows = [(truth() == k + 1) & good for k, good in enumerate(right)]
    return np.stack(rows).astype(np.float32) * 0.8 + 0.1


def forest(*right: bool) -> NDArray[np.float32]:
    channels = maps(*right)
    return np.concatenate([1 - channels.max(axis=0, keepdims=True), channels])


def test_a_forest_learns_the_strokes() -> None:
    answers = fit_forest([window()], None, card())
    assert answers is not None
    assert answers[0].shape == (3, *truth().shape)
    np.testing.assert_allclose(answers[0].sum(axis=0), 1.0, atol=1e-5)
    assert (answers[0].argmax(axis=0) == truth()).mean() > 0.9


def test_a_forest_listens_to_the_base() -> None:
    """On an image that shows nothing, the heads are all there is to learn from."""
    blind = Window("dark", np.zeros((1, *truth().shape), np.float32), *_paint())
    answers = fit_forest([blind], [maps(True, True)], card())
    assert answers is not None
    assert (answers[0].argmax(axis=0) == truth()).mean() > 0.99


def _paint() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    found = window()
    return found.labels, found.sides


def test_one_value_is_nothing_to_learn() -> None:
    assert fit_forest([window(classes=(1,))], None, card()) is None


def test_windows_for_which_there_is_no_time_get_no_answer() -> None:
    answers = fit_forest([window(), window()], None, card(), enough=lambda: True)
    assert answers is not None
    assert len(answers) == 1
    taught = choose(None, answers, [window(), window()], card(), 0)
    assert taught.sure[0].max() > 0.5
    assert taught.sure[1].max() == 0


@pytest.mark.parametrize(("left", "right"), [(True, True), (True, False), (False, True)])
def test_each_class_has_the_teacher_that_is_right(left: bool, right: bool) -> None:
    taught = choose([maps(left, right)], [forest(not left, not right)], [window()], card(), known=2)
    expected = tuple("base" if good else "forest" for good in (left, right))
    assert taught.by_class == expected
    assert taught.name == {1: expected[0]}.get(len({*expected}), "forest and base")
    # Whoever it is, what is taught is right.
    np.testing.assert_array_equal(taught.maps[0] > 0.5, maps(True, True) > 0.5)
    np.testing.assert_allclose(taught.sure[0], confidence(taught.maps[0], card()))


@pytest.mark.parametrize(
    ("base", "trees", "known", "doubtful"),
    [
        ((False, False), (False, False), 2, True),
        ((True, False), (False, False), 2, False),  # at home: its empty class may be right
        ((False, False), (True, False), 2, False),
        ((False, False), (False, False), 1, False),  # a new class wants whatever there is
    ],
)
def test_where_nobody_is_right_that_is_said(
    base: tuple[bool, ...], trees: tuple[bool, ...], known: int, doubtful: bool
) -> None:
    taught = choose([maps(*base)], [forest(*trees)], [window()], card(), known)
    assert taught.doubtful is doubtful
    assert not doubtful or taught.by_class == ("forest", "forest")


def test_a_class_without_paint_does_not_speak_for_the_base() -> None:
    only = [window(classes=(0, 1))]
    taught = choose([maps(False, True)], [forest(False, False)], only, card(), known=2)
    assert taught.doubtful
    assert taught.by_class == ("forest", "base")


def test_what_is_not_painted_stays_with_the_base() -> None:
    """A forest that never saw a class would teach that it is nowhere."""
    taught = choose(
        [maps(False, True)], [forest(True, False)], [window(classes=(0, 1))], card(), known=2
    )
    assert taught.by_class == ("forest", "base")


def test_a_new_class_has_no_base() -> None:
    taught = choose([maps(True, True)], [forest(False, False)], [window()], card(), known=1)
    assert taught.by_class == ("base", "forest")


def test_a_new_class_that_is_not_painted_has_nobody() -> None:
    taught = choose(
        [maps(True, True)], [forest(True, True)], [window(classes=(0, 1))], card(), known=1
    )
    assert taught.by_class == ("base", "none")
    assert taught.sure[0][1].max() == 0


@pytest.mark.parametrize(("good", "name"), [(True, "base"), (False, "forest")])
def test_without_held_out_strokes_the_base_is_asked_about_its_own(good: bool, name: str) -> None:
    taught = choose(
        [maps(good, good)], [forest(True, True)], [window(held_out=False)], card(), known=2
    )
    assert taught.by_class == (name, name)
    assert taught.scores == {"base": None, "forest": None}


@pytest.mark.parametrize(
    ("trees", "walk", "expected"),
    [
        ((True, True), (True, True), ("walker", "walker")),
        ((False, False), (False, False), ("walker", "walker")),  # the one that keeps to pieces
        ((True, False), (False, True), ("forest", "walker")),
    ],
)
def test_a_forest_must_be_clearly_better_than_a_walker(
    trees: tuple[bool, ...], walk: tuple[bool, ...], expected: tuple[str, ...]
) -> None:
    taught = choose(None, [forest(*trees)], [window()], card(), 0, ([forest(*walk)], [True]))
    assert taught.by_class == expected
    assert set(taught.scores) == {"forest", "walker"}
    assert taught.name == " and ".join(sorted({*expected}))


@pytest.mark.parametrize(
    ("trees", "walk", "base", "expected"),
    [
        (0.5, 0.3, None, "walker"),
        (0.7, 0.3, None, "forest"),
        (0.3, 0.1, None, "forest"),  # a walker that is noise, and trees that are not
        (0.1, 0.0, None, "walker"),
        (0.7, 0.5, 0.3, "walker"),
        (0.7, 0.5, 0.45, "forest"),  # the walker is not clearly better than the base
        (0.7, 0.5, 0.65, "base"),
    ],
)
def test_who_teaches_by_held_out_iou(
    trees: float, walk: float, base: float | None, expected: str
) -> None:
    def found(share: float) -> NDArray[np.float32]:
        """Probabilities that are right on such a share of each disc's held-out stroke."""
        answer = forest(False, False)
        for k, row in ((1, 30), (2, 60)):
            places = np.flatnonzero(truth()[row] == k)[: round(share * (truth()[row] == k).sum())]
            answer[:, row, places] = 0.1
            answer[k, row, places] = 0.9
        return answer

    taught = choose(
        None if base is None else [found(base)[1:]],
        [found(trees)], [window()], card(), 0 if base is None else 2, ([found(walk)], [True]),
    )  # fmt: skip
    assert taught.by_class == (expected, expected)
    assert not taught.doubtful


def test_where_nothing_is_held_out_a_walker_teaches() -> None:
    only = [window(held_out=False)]
    taught = choose(None, [forest(True, True)], only, card(), 0, ([forest(True, True)], [True]))
    assert taught.by_class == ("walker", "walker")


def test_a_walker_is_judged_where_it_had_time() -> None:
    """In the second window it says the prior alone, and the forest wins nothing by that."""
    good, prior = forest(True, True), forest(False, False)
    both = [window(), window()]
    for count, expected in ((1, "walker"), (2, "forest")):
        taught = choose(None, [good, good], both, card(), 0, ([good, prior], [True] * count))
        # Half of what is held out is found: 0.5 is WHOLE behind, 1.0 is not.
        assert taught.by_class == (expected, expected)
        assert taught.sure[1].max() > 0.5


def test_a_walker_that_did_not_walk_teaches_nothing() -> None:
    only = [window(held_out=False)]
    trees = [forest(True, True)]
    taught = choose(None, trees, only, card(), 0, ([forest(False, False)], [False]))
    assert taught.by_class == ("forest", "forest")
    assert set(taught.scores) == {"forest"}


def test_a_walker_knows_the_classes_that_it_walked_from() -> None:
    both = [window(classes=(0, 1)), window(classes=(0, 2))]
    trees, walks = [forest(False, False)] * 2, [forest(True, True)] * 2
    for there in ([True, True], [True, False], [True]):
        taught = choose(None, trees, both, card(), 0, (walks, there))
        assert taught.by_class == ("walker", "walker" if there == [True, True] else "forest")
        assert taught.walked is (there == [True, True])


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("trees", "expected"), [(True, "forest"), (False, "walker")])
def test_a_class_that_is_not_held_out_goes_by_the_others(
    activation: str, trees: bool, expected: str
) -> None:
    seen = window()
    seen.sides[(seen.sides == HELD_OUT) & (seen.labels == 2)] = 0
    walk = [forest(not trees, not trees)]
    taught = choose(None, [forest(trees, trees)], [seen], card(activation), 0, (walk, [True]))
    assert taught.by_class == (expected, expected)


def test_competing_classes_have_a_teacher_that_knows_them_all() -> None:
    """The second class is painted where nobody walked."""
    both = [window(classes=(0, 1)), window(classes=(0, 2))]
    trees, walks = [forest(False, False)] * 2, [forest(True, True)] * 2
    for there, expected in (([True, True], "walker"), ([True, False], "forest")):
        taught = choose(None, trees, both, card("softmax"), 0, (walks, there))
        assert taught.by_class == (expected, expected)


def test_competing_classes_have_one_teacher() -> None:
    soft = forest(True, False)
    taught = choose([soft], [forest(False, True)], [window()], card("softmax"), known=2)
    assert taught.by_class == ("forest", "forest")
    assert taught.maps[0].shape[0] == 3


def test_class_scores_count_painted_pixels_of_one_side() -> None:
    found = class_scores([maps(True, True)], [window()], card(), HELD_OUT)
    assert found == {0: 1.0, 1: 1.0}
    assert class_scores([maps(True, True)], [window(held_out=False)], card(), HELD_OUT) == {}


def test_a_forest_without_time_for_held_out_windows_is_compared_where_it_answered() -> None:
    """The base answers every window, the forest the first alone."""
    first, second = window(held_out=False), window()
    right, wrong = maps(True, True), maps(False, False)
    taught = choose([right, right], [forest(True, True)], [first, second], card(), known=2)
    assert taught.by_class == ("base", "base")
    taught = choose([wrong, wrong], [forest(True, True)], [first, second], card(), known=2)
    assert taught.by_class == ("forest", "forest")
    assert taught.sure[0].max() > 0.5
    assert taught.sure[1].max() == 0


def test_what_a_forest_had_no_time_to_see_it_does_not_teach() -> None:
    seen, unseen = window(classes=(0, 1)), window()
    taught = choose(None, [forest(True, False)], [seen, unseen], card(), known=0)
    assert taught.by_class == ("forest", "none")
