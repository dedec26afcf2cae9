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
from napari_unetpp.core.tune.finetune import TuneJob, finetune, read_splits
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.scoring import crops, score_network
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.strokes import HELD_OUT, load_split, split_path
from napari_unetpp.core.tune.tune import FineTuning
from tests.core.tune.conftest import painted, small_model

QUICK = TuneConfig(max_seconds=600.0, steps=20)


def job(image: Image, labels: NDArray[np.uint8], folder: Path, **more: Any) -> TuneJob:
    values = {"base": small_model(), "config": QUICK} | more
    pair = painted(image, labels, split=folder / "p.strokes.json")
    return TuneJob([pair], folder / "mine.safetensors", **values)


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
        [pair := painted(image, paint, split=tmp_path / "p.strokes.json")],
        model.card,
        model,
        read_splits([pair], seed=5),
        QUICK,
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
    first = load_split(tmp_path / "p.strokes.json").to_json()["parts"]
    drain(finetune(job(image, paint, tmp_path, config=TuneConfig(600.0, 4, seed=9))))
    assert load_split(tmp_path / "p.strokes.json").to_json()["parts"] == first


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
    assert one.card().parent.startswith("nuclei ")
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
    with pytest.raises(InputError, match="different names, got discs, discs"):
        TuneJob(pairs * 2, tmp_path / "m.safetensors")


def test_every_label_file_keeps_its_own_split(
    image: Image, paint: NDArray[np.uint8], tmp_path: Path
) -> None:
    other = np.roll(paint, 3, axis=0)
    files = [split_path(tmp_path / name) for name in ("a.tif", "b.tif")]
    pairs = [
        Painted(name, image, Image.from_array(labels, "YX"), split=file)
        for name, labels, file in zip("ab", (paint, other), files, strict=True)
    ]
    one = TuneConfig(max_seconds=600.0, steps=1)
    drain(finetune(TuneJob(pairs, tmp_path / "m.safetensors", small_model(), one)))
    first = [file.read_text() for file in files]
    for file, labels in zip(files, (paint, other), strict=True):
        side = load_split(file).side_of("0", labels.shape)
        assert ((side > 0) == (labels > 0)).all()
    # In another order, and one alone: the sides stay.
    drain(finetune(TuneJob(pairs[::-1], tmp_path / "m.safetensors", small_model(), one)))
    drain(finetune(TuneJob(pairs[1:], tmp_path / "m.safetensors", small_model(), one)))
    assert [file.read_text() for file in files] == first


def test_a_file_to_go_on_with_stays_where_nobody_knows_what_is_better(
    image: Image, tmp_path: Path
) -> None:
    labels = np.zeros(image.shape, np.uint8)
    labels[30, 30:34], labels[5, 5:9] = 2, 1
    first = job(image, labels, tmp_path)
    drain(finetune(first))
    before = first.out.read_bytes()
    again = job(image, labels, tmp_path, base=load_model(first.out))
    assert again.in_place
    report = drain(finetune(again))
    assert first.out.read_bytes() == before
    assert "stays as it was; write to another file" in report.sentences[-1]
