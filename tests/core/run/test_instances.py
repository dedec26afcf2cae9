"""Objects from probabilities: images whose answer is known."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.core.data.targets import centre_target
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.run.instances import label_instances
from napari_unetpp.core.score.metrics import challenge_score, match_objects

RULE = InstanceRule(seed_smoothing=0.0, min_size=0)


def card_of(
    rule: InstanceRule | None = RULE, *, ndim: int = 2, classes: int = 1, softmax: bool = False
) -> ModelCard:
    auxiliary = () if softmax else ("centre",)
    network = NetworkConfig(
        ndim=ndim,
        out_channels=classes + 1,
        filters=(2, 4),
        activation="softmax" if softmax else "sigmoid",
    )
    return ModelCard(
        name="toy",
        network=network,
        classes=tuple(ClassInfo(f"class{n}") for n in range(classes)),
        auxiliary=auxiliary,
        axes="YX" if ndim == 2 else "ZYX",
        instances=rule,
        levels_trained=(1,),
    )


def ideal(labels: np.ndarray) -> np.ndarray:
    """Return the channels that a perfect network would give: class, centre."""
    return np.stack([(labels > 0) * np.float32(0.9), centre_target(labels)])


def discs(shape: tuple[int, ...], centres: list[tuple[int, ...]], radii: list[float]) -> np.ndarray:
    """Return discs or balls; where they overlap, the relatively nearer centre wins."""
    grid = np.indices(shape)
    scaled = np.stack(
        [
            np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True))) / radius
            for centre, radius in zip(centres, radii, strict=True)
        ]
    )
    return np.where(scaled.min(axis=0) < 1, scaled.argmin(axis=0) + 1, 0).astype(np.int32)


def same_objects(labels: np.ndarray, truth: np.ndarray) -> bool:
    """Return whether both arrays hold the same objects under any numbers."""
    pairs = set(zip(labels.ravel().tolist(), truth.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_touching_discs_come_apart() -> None:
    truth = discs((40, 60), [(20, 18), (20, 40)], [12, 12])
    assert (truth[20, 28], truth[20, 30]) == (1, 2)  # they touch
    labels = label_instances(ideal(truth), card_of())
    assert labels.dtype == np.int32
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert challenge_score(labels, truth) == 1.0
    np.testing.assert_array_equal(labels > 0, truth > 0)


def test_touching_balls_in_3d_come_apart() -> None:
    truth = discs((20, 24, 40), [(10, 12, 12), (10, 12, 28)], [9, 9])
    labels = label_instances(ideal(truth), card_of(ndim=3))
    assert labels.max() == 2
    assert challenge_score(labels, truth) == 1.0


def test_prominence_decides_what_is_a_peak_of_its_own() -> None:
    # Peaks of 0.9 and 0.6 in one row of foreground with a saddle of 0.5: prominence 0.1.
    channels = np.zeros((2, 3, 11), np.float32)
    channels[0, 1, 1:10] = 0.9
    channels[1, 1, 1:10] = [0.4, 0.7, 0.9, 0.7, 0.5, 0.55, 0.6, 0.55, 0.4]
    apart = label_instances(channels, card_of(replace(RULE, seed_prominence=0.09)))
    np.testing.assert_array_equal(apart[1], [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0])
    together = label_instances(channels, card_of(replace(RULE, seed_prominence=0.11)))
    np.testing.assert_array_equal(together[1], [0] + [1] * 9 + [0])
    # Below the seed threshold the second peak seeds nothing, however prominent.
    high = label_instances(channels, card_of(replace(RULE, seed_prominence=0, seed_threshold=0.7)))
    np.testing.assert_array_equal(high, together)


def test_a_chain_of_small_bumps_joins_its_highest_neighbour() -> None:
    # Two true peaks (0.9, 0.8) with bumps of 0.02 between them and on their flanks.
    heights = [0.5, 0.52, 0.5, 0.9, 0.6, 0.62, 0.4, 0.42, 0.41, 0.8, 0.7, 0.71, 0.6]
    channels = np.zeros((2, 1, len(heights)), np.float32)
    channels[0], channels[1, 0] = 0.9, heights
    labels = label_instances(channels, card_of(replace(RULE, seed_prominence=0.05)))
    assert labels.max() == 2
    assert labels[0, 0] == labels[0, 3] == labels[0, 5] == 1
    assert labels[0, 9] == labels[0, 12] == 2


def test_a_region_without_a_seed_is_still_an_object() -> None:
    truth = discs((30, 60), [(15, 15), (15, 45)], [9, 9])
    channels = ideal(truth)
    channels[1][truth == 2] = 0.1  # below the seed threshold
    assert same_objects(label_instances(channels, card_of()), truth)
    channels[1] = 0.0
    assert same_objects(label_instances(channels, card_of()), truth)


def test_small_objects_are_dropped_and_numbers_stay_consecutive() -> None:
    truth = np.zeros((12, 30), np.int32)
    truth[1:4, 1:4] = 1  # 9 pixels
    truth[1:3, 10:15] = 2  # 10 pixels
    truth[6:11, 20:25] = 3  # 25 pixels
    card = card_of(replace(RULE, min_size=10))
    labels = label_instances(ideal(truth), card)
    assert same_objects(labels, np.where(truth == 1, 0, truth))
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert label_instances(ideal(truth), card, min_size=9).max() == 3
    assert label_instances(ideal(truth), card, min_size=26).max() == 0


def test_threshold_is_the_cards_unless_given_and_strict() -> None:
    channels = np.zeros((2, 4, 4), np.float32)
    channels[0, :2], channels[0, 3] = 0.75, 0.5
    np.testing.assert_array_equal(
        label_instances(channels, card_of()), [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    )
    np.testing.assert_array_equal(
        label_instances(channels, card_of(), threshold=0.4), [[1] * 4, [1] * 4, [0] * 4, [2] * 4]
    )
    assert label_instances(channels, card_of(), threshold=0.75).max() == 0


@pytest.mark.parametrize("softmax", [False, True])
def test_several_classes_are_separated_each_by_itself(softmax: bool) -> None:
    # Class 0 owns two boxes, class 1 touches the second of them: numbers 1, 2 then 3.
    first, second = np.zeros((6, 20), np.float32), np.zeros((6, 20), np.float32)
    first[1:5, 1:5], first[1:5, 8:12], second[1:5, 12:16] = 0.8, 0.8, 0.7
    first[1:5, 12] = 0.6  # both above the threshold: the likelier class keeps the pixel
    other = np.clip(1 - first - second, 0, 1) if softmax else np.zeros_like(first)
    channels = np.stack([other, first, second] if softmax else [first, second, other])
    labels = label_instances(channels, card_of(None, classes=2, softmax=softmax))
    expected = np.zeros((6, 20), int)
    expected[1:5, 1:5], expected[1:5, 8:12], expected[1:5, 12:16] = 1, 2, 3
    np.testing.assert_array_equal(labels, expected)


def test_a_softmax_background_competes_instead_of_a_threshold() -> None:
    # background .45, .2, .4; classes .35/.2, .45/.35, .3/.3: only the second pixel is foreground
    channels = np.array([[0.45, 0.2, 0.4], [0.35, 0.45, 0.3], [0.2, 0.35, 0.3]], np.float32)
    labels = label_instances(channels[:, None], card_of(None, classes=2, softmax=True))
    np.testing.assert_array_equal(labels, [[0, 1, 0]])


def test_without_a_rule_diagonal_pixels_are_connected() -> None:
    channels = np.stack([np.eye(5, dtype=np.float32), np.zeros((5, 5), np.float32)])
    np.testing.assert_array_equal(label_instances(channels, card_of(None)), np.eye(5))


def test_empty_and_full_images() -> None:
    assert label_instances(np.zeros((2, 8, 8), np.float32), card_of()).max() == 0
    assert label_instances(np.zeros((2, 0, 8), np.float32), card_of()).shape == (0, 8)
    assert (label_instances(np.ones((2, 8, 8), np.float32), card_of()) == 1).all()
    assert (label_instances(np.ones((2, 1, 1), np.float16), card_of()) == 1).all()


def test_many_noisy_nuclei_are_found_in_a_second() -> None:
    rng = np.random.default_rng(7)
    truth = np.zeros((1024, 1024), np.int32)
    spots = [(y, x) for y in range(30, 1000, 58) for x in range(30, 1000, 58)]
    for number, (y, x) in enumerate(spots, start=1):
        y, x = y + int(rng.integers(-6, 7)), x + int(rng.integers(-6, 7))
        box = np.s_[y - 24 : y + 25, x - 24 : x + 25]
        yy, xx = np.mgrid[-24:25, -24:25]
        disc = np.hypot(yy, xx * rng.uniform(0.9, 1.3)) < rng.uniform(18, 24)
        truth[box][disc] = number
    channels = ideal(truth) + rng.normal(0, 0.05, (2, 1024, 1024)).astype(np.float32)
    card = card_of(InstanceRule())
    seconds = min(_timed(channels, card) for _ in range(2))
    labels = label_instances(channels, card)
    assert len(spots) == 289
    assert match_objects(labels, truth).counts(0.8).iou > 0.98
    assert seconds < 1.0


def _timed(channels: np.ndarray, card: ModelCard) -> float:
    start = time.process_time()
    label_instances(channels, card)
    return time.process_time() - start


@pytest.mark.parametrize(
    ("channels", "options", "word"),
    [
        (np.zeros((3, 8, 8), np.float32), {}, r"2 channel\(s\).*\(3, 8, 8\)"),
        (np.zeros((2, 4, 8, 8), np.float32), {}, "CYX"),
        (np.zeros((2, 8, 8), np.uint8), {}, "uint8"),
        (np.full((2, 8, 8), np.nan, np.float32), {}, "finite"),
        (np.zeros((2, 8, 8), np.float32), {"threshold": 1.0}, "threshold"),
        (np.zeros((2, 8, 8), np.float32), {"min_size": -1}, "min_size"),
    ],
)
def test_bad_input(channels: np.ndarray, options: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        label_instances(channels, card_of(), **options)  # type: ignore[arg-type]


def test_a_rule_that_names_no_channel() -> None:
    with pytest.raises(InputError, match=r"'middle'.*class0, centre"):
        label_instances(
            np.zeros((2, 8, 8), np.float32), card_of(InstanceRule(seed_channel="middle"))
        )
