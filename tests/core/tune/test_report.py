"""Reports: the cheapest good level, and honest words where a number would say nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from napari_unetpp.core.tune.report import cheapest_level, make_report, sentences
from napari_unetpp.core.tune.result import TeacherChosen, TuneResult
from napari_unetpp.core.tune.scoring import Score
from tests.core.tune.conftest import small_model

MODEL = small_model()
RESULT = TuneResult(
    MODEL.network, Score({1: 0.5, 2: 0.6}, 1.0), Score({1: 0.895, 2: 0.9}, 0.5), False, 40, 60, 9.5,
    TeacherChosen("forest", {"base": 0.5, "forest": 0.7}), "all", (), {1: (200, 90), 2: (300, 80)},
)  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "level"),
    [
        ({1: 0.8, 2: 0.895, 3: 0.9, 4: 0.88}, 2),
        ({1: 0.89, 2: 0.9}, 1),
        ({1: 0.5, 2: 0.7, 3: 0.9}, 3),
        ({}, None),
    ],
)
def test_the_cheapest_level_within_a_hundredth(scores: dict[int, float], level: int | None) -> None:
    assert cheapest_level(scores) == level


def test_levels_that_fell_are_named() -> None:
    fallen = replace(RESULT, after=Score({1: 0.9, 2: 0.54}, 0.5))
    words = "Worse than before on the held-out strokes: L2 (0.54, before 0.60); use L1, or"
    assert words in " ".join(sentences(fallen, MODEL.card))
    for after in (0.56, 0.9):  # a little less is noise
        kept = replace(RESULT, after=Score({1: 0.9, 2: after}, 0.5))
        assert "Worse than before" not in " ".join(sentences(kept, MODEL.card))
    new = replace(RESULT, before=None, after=Score({1: 0.9, 2: 0.1}, 0.5))
    assert "Worse than before" not in " ".join(sentences(new, MODEL.card))


def test_the_report_holds_before_after_and_time() -> None:
    image = np.random.default_rng(0).random((1, 70, 90), dtype=np.float32)
    report = make_report(RESULT, MODEL.card, image)
    assert report.cheapest == 1
    assert [(r.level, r.before, r.after) for r in report.levels] == [
        (1, 0.5, 0.895),
        (2, 0.6, 0.9),
    ]
    assert all(0 < r.seconds_per_megapixel < float("inf") for r in report.levels)
    values = json.loads(json.dumps(report.to_json()))
    assert values["levels"]["2"]["after"] == 0.9
    assert values["painted"]["2"] == {"training": 300, "held_out": 80}
    assert "flatters" in report.sentences[-1]


def test_without_held_out_strokes_there_is_a_sentence_and_no_number() -> None:
    bare = replace(RESULT, before=None, after=None, painted={1: (40, 0), 2: (30, 0)})
    text = " ".join(sentences(bare, MODEL.card))
    assert "Too little is painted to hold anything out" in text
    assert "paint a second stroke of background, cell" in text
    assert "flatters" not in text
    report = make_report(bare, MODEL.card, np.zeros((1, 32, 32), np.float32))
    assert report.cheapest is None
    assert [r.after for r in report.levels] == [None, None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"painted": {1: (200, 0), 2: (300, 80)}}, "No stroke of background is held out"),
        ({"painted": {1: (200, 90), 2: (300, 12)}}, "Fewer than 50 pixels of cell are held out"),
        ({"base_kept": True}, "the base stays"),
        ({"steps": 0}, "stopped before the first step"),
        ({"notes": ("No stroke shows x.",)}, "No stroke shows x."),
    ],
)
def test_what_the_numbers_cannot_say(changes: dict[str, object], words: str) -> None:
    assert words in " ".join(sentences(replace(RESULT, **changes), MODEL.card))  # type: ignore[arg-type]


def test_stopped_before_the_first_score_is_not_called_too_little_paint() -> None:
    text = " ".join(sentences(replace(RESULT, before=None, after=None), MODEL.card))
    assert "stopped before its first score" in text
    assert "Too little" not in text
