"""From painted images to a model file: names, parent, split beside the labels, closing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Validated, drain
from napari_unetpp.core.model.modelfile import load_model, read_card
from napari_unetpp.core.tune.finetune import TuneJob, finetune
from napari_unetpp.core.tune.scoring import crops, score_network
from napari_unetpp.core.tune.strokes import HELD_OUT, load_split
from napari_unetpp.core.tune.tune import FineTuning, TuneConfig
from tests.core.tune.conftest import painted, small_model

QUICK = TuneConfig(max_seconds=600.0, steps=20)


def job(image: Image, labels: NDArray[np.uint8], folder: Path, **more: Any) -> TuneJob:
    values = {"base": small_model(), "config": QUICK, "split": folder / "p.strokes.json"} | more
    return TuneJob([painted(image, labels)], folder / "mine.safetensors", **values)


def test_the_file_names_its_parent_and_holds_the_reported_scores(
    image: Image, paint: NDArray[np.uint8], tmp_path: Path
) -> None:
    report = drain(finetune(job(image, paint, tmp_path)))
    model = load_model(tmp_path / "mine.safetensors")
    assert model.card.parent == "small abababababababab"
    assert model.card.name == "mine"
    assert [c.name for c in model.card.classes] == ["cell"]
    assert {k: row["iou_strokes"] for k, row in model.card.scores.items()} == {
        str(row.level): row.after for row in report.levels
    }
    assert set(model.card.timings) == {"1", "2"}
    assert report.cheapest in (1, 2)
    # The file as written does on the held-out strokes what the report says.
    again = FineTuning(
        [painted(image, paint)], model.card, model, load_split(tmp_path / "p.strokes.json"), QUICK
    )
    again._read()
    score = score_network(model.network, crops(again.windows, HELD_OUT), model.card, HELD_OUT)
    assert score is not None
    for row in report.levels:
        assert score.iou[row.level] == pytest.approx(row.after, abs=0.02)


def test_the_split_stays_beside_the_labels(
    image: Image, paint: NDArray[np.uint8], tmp_path: Path
) -> None:
    drain(finetune(job(image, paint, tmp_path)))
    first = (tmp_path / "p.strokes.json").read_text()
    drain(finetune(job(image, paint, tmp_path, config=TuneConfig(600.0, 4, seed=9))))
    assert (tmp_path / "p.strokes.json").read_text() == first


def test_closing_leaves_the_best_so_far_in_the_file(
    image: Image, paint: NDArray[np.uint8], tmp_path: Path
) -> None:
    out = tmp_path / "mine.safetensors"
    config = TuneConfig(max_seconds=600.0, steps=200, teacher="forest")
    events = finetune(job(image, paint, tmp_path, config=config))
    best = None
    for event in events:
        if isinstance(event, Validated) and event.best and event.step:
            best = event
        if best and not isinstance(event, Validated):
            break
    events.close()
    assert best is not None
    assert read_card(out).scores == {str(k): dict(v) for k, v in best.scores.items()}


def test_from_scratch_classes_are_counted_or_named(
    image: Image, paint: NDArray[np.uint8], tmp_path: Path
) -> None:
    one = job(image, paint, tmp_path, base=None)
    assert [c.name for c in one.card().classes] == ["class 1"]
    assert one.card().parent == ""
    paint[50, 3:9] = 3
    named = job(image, paint, tmp_path, base=None, classes=("cell", "debris"))
    assert [c.name for c in named.card().classes] == ["cell", "debris"]
    grown = job(image, paint, tmp_path)
    assert [c.name for c in grown.card().classes] == ["cell", "class 2"]
    renamed = job(image, paint, tmp_path, classes=("cell", "debris"))
    assert [c.name for c in renamed.card().classes] == ["cell", "debris"]


def test_classes_2_and_7_only(image: Image, paint: NDArray[np.uint8], tmp_path: Path) -> None:
    paint[paint == 1] = 7
    for base in (small_model(), None):
        with pytest.raises(InputError, match="values 2, 7 are painted, but class 3 is neither"):
            drain(finetune(job(image, paint, tmp_path, base=base)))
    names = ("cell", "b", "c", "d", "e", "f")
    quick = TuneConfig(max_seconds=600.0, steps=1)
    report = drain(finetune(job(image, paint, tmp_path, classes=names, config=quick)))
    text = " ".join(report.sentences)
    assert "No stroke shows b, c, d, e, so nothing new is learned" in text
    assert "No background (1) is painted" in text
    assert read_card(tmp_path / "mine.safetensors").channel_names == names


def test_the_names_must_begin_with_the_base_s(
    image: Image, paint: NDArray[np.uint8], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"must begin with the base's \(cell\), got axon"):
        job(image, paint, tmp_path, classes=("axon",)).card()


def test_an_empty_layer_and_background_alone(image: Image, tmp_path: Path) -> None:
    empty = np.zeros((96, 112), np.uint8)
    for base in (small_model(), None):
        with pytest.raises(InputError, match="nothing is painted"):
            drain(finetune(job(image, empty, tmp_path, base=base)))
    empty[3, 3:9] = 1
    with pytest.raises(InputError, match="no class is painted"):
        drain(finetune(job(image, empty, tmp_path, base=None)))
    assert not (tmp_path / "mine.safetensors").exists()


def test_one_pixel_gives_a_model_and_says_that_it_has_no_score(
    image: Image, tmp_path: Path
) -> None:
    labels = np.zeros((96, 112), np.uint8)
    labels[30, 30] = 2
    report = drain(finetune(job(image, labels, tmp_path)))
    assert report.cheapest is None
    assert "Too little is painted to hold anything out" in " ".join(report.sentences)
    assert read_card(tmp_path / "mine.safetensors").scores == {}


def test_places_are_checked_first(image: Image, paint: NDArray[np.uint8], tmp_path: Path) -> None:
    pairs = [painted(image, paint)]
    with pytest.raises(InputError, match="must end in"):
        TuneJob(pairs, tmp_path / "m.pt")
    with pytest.raises(FileError, match="does not exist"):
        TuneJob(pairs, tmp_path / "no" / "m.safetensors")
    with pytest.raises(InputError, match="got none"):
        TuneJob([], tmp_path / "m.safetensors")
