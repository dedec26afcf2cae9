"""From two folders to a model file: scores of the file as written, and nothing half-written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.config import ClassInfo, InstanceRule, ModelCard, NetworkConfig
from napari_unetpp.core.data.labels import LabelRule
from napari_unetpp.core.data.pairs import find_pairs
from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import StepDone, drain
from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.run.api import segment_array
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.score.evaluation import evaluate
from napari_unetpp.core.train.fit import FitJob, fit
from napari_unetpp.core.train.settings import TrainConfig

CARD = ModelCard(
    "spots",
    NetworkConfig(filters=(4, 6, 8), norm="batch", out_channels=2),
    (ClassInfo("nucleus"),),
    auxiliary=("centre",),
    instances=InstanceRule(),
    levels_trained=(1, 2),
)


@pytest.fixture
def job(tmp_path: Path) -> FitJob:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for seed in range(3):
        phantom = nuclei_2d(seed=seed)
        tifffile.imwrite(tmp_path / "images" / f"p{seed}.tif", phantom.image[:128, :128])
        tifffile.imwrite(
            tmp_path / "labels" / f"p{seed}.tif", phantom.labels[:128, :128].astype(np.uint16)
        )
    return FitJob(
        find_pairs(tmp_path / "images", tmp_path / "labels"),
        CARD,
        LabelRule("instances", dense=True),
        TrainConfig(steps=6, batch=2, patch=(32, 32), validate_every=3, learning_rate=1e-2),
        tmp_path / "m.safetensors",
        tmp_path / "run",
        held_out=0.34,
    )


def test_the_card_carries_the_scores_of_the_file_itself(job: FitJob) -> None:
    report = drain(fit(job))
    model = load_model(job.out)
    assert model.card.levels_trained == (1, 2)
    assert set(model.card.scores) == {"1", "2", "ensemble"}
    assert model.card.split.startswith("2 images for training, 1 held out: p")
    held_out = [p for p in job.pairs if p.name in model.card.split.split(": ")[1]]
    again = drain(evaluate(Runner(model, choose_device()), held_out))
    for level, scores in model.card.scores.items():
        for metric, value in scores.items():
            assert again.levels[level][metric] == pytest.approx(value, abs=1e-6)
    assert all(row["seconds_per_megapixel"] > 0 for row in model.card.timings.values())
    assert report.n_training == 2
    assert report.steps == 6
    on_disk = json.loads((job.folder / "report.json").read_text())
    assert on_disk["evaluation"]["levels"].keys() == {"1", "2", "ensemble"}
    assert (job.folder / "curve.png").stat().st_size > 5000


def test_a_cancelled_fit_leaves_no_model_and_goes_on(job: FitJob) -> None:
    job.out.write_bytes(b"an older model")
    running = fit(job)
    for event in running:
        if isinstance(event, StepDone) and event.step == 4:
            running.close()
    assert job.out.read_bytes() == b"an older model"
    resumed = drain(fit(job))
    straight = drain(fit(replace(job, folder=job.folder.with_name("other"))))
    assert resumed.steps == straight.steps
    assert resumed.evaluation is not None
    assert straight.evaluation is not None
    for level in ("1", "2"):
        for key in ("iou_per_image", "dice_pooled"):
            assert resumed.evaluation.levels[level][key] == straight.evaluation.levels[level][key]


@pytest.fixture
def painted_job(job: FitJob) -> FitJob:
    """Two painted classes: the upper half of every image, and its lower half, unevenly."""
    for pair in job.pairs:
        labels = tifffile.imread(pair.labels)
        painted = np.zeros_like(labels, np.uint8)
        painted[:20], painted[40:60], painted[100:110] = 1, 2, 3
        tifffile.imwrite(pair.labels, painted)
    network = NetworkConfig(filters=(4, 6, 8), norm="batch", out_channels=2)
    card = ModelCard("painted", network, (ClassInfo("a"), ClassInfo("b")), levels_trained=(1, 2))
    return replace(job, card=card, rule=LabelRule("classes"))


def test_painted_classes_are_scored_where_there_is_paint(painted_job: FitJob) -> None:
    report = drain(fit(painted_job))
    assert report.evaluation is not None
    assert set(report.evaluation.classes) == {"a", "b"}
    (held_out,) = [
        p for p in painted_job.pairs if p.name in load_model(report.out).card.split.split(": ")[1]
    ]
    image, painted = tifffile.imread(held_out.image), tifffile.imread(held_out.labels)
    found = segment_array(image, load_model(report.out), level=2, device="cpu", axes="YX")
    ious = []
    for value in (1, 2):
        pred, true = (found == value) & (painted > 0), painted == value + 1
        ious.append((pred & true).sum() / (pred | true).sum())
    assert report.evaluation.levels["2"]["iou_per_image"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_a_model_is_written_even_if_the_scoring_fails(
    job: FitJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileError("the disk is gone; bring it back.")

    monkeypatch.setattr("napari_unetpp.core.train.fit.evaluate", fail)
    with pytest.raises(FileError, match="the disk is gone"):
        drain(fit(job))
    assert load_model(job.out).card.scores == {}


def test_corrected_images_are_not_passed_over(job: FitJob) -> None:
    drain(fit(job))
    for pair in job.pairs:
        tifffile.imwrite(pair.image, tifffile.imread(pair.image)[::-1].copy())
    with pytest.raises(InputError, match="other settings or images; give another folder"):
        drain(fit(job))


@pytest.mark.parametrize("place", ["out", "folder"])
def test_a_place_that_cannot_be_written_ends_it_before_anything_is_read(
    job: FitJob, place: str
) -> None:
    if place == "out":
        job.out.mkdir()
        with pytest.raises(FileError, match="is a folder, expected a file name"):
            replace(job)
        return
    job.folder.write_text("not a folder")
    with pytest.raises(FileError, match="cannot be written"):
        drain(fit(job))


def test_where_the_model_goes_is_checked_before_anything_runs(job: FitJob) -> None:
    with pytest.raises(InputError, match=r"must end in \.safetensors, got 'm\.pt'"):
        replace(job, out=job.out.with_suffix(".pt"))
    with pytest.raises(FileError, match="does not exist; make it first"):
        replace(job, out=job.out.parent / "none" / "m.safetensors")


def test_a_base_gives_its_weights_and_becomes_the_parent(job: FitJob, tmp_path: Path) -> None:
    drain(fit(job))
    base = load_model(job.out)
    # A rate of nearly 0: what comes out is what went in, batch norm's statistics apart.
    still = replace(job.config, steps=1, validate_every=1, learning_rate=1e-12)
    second = replace(
        job,
        card=base.card.replace(auto_tolerance=0.2),
        config=still,
        base=base,
        out=tmp_path / "n.safetensors",
        folder=tmp_path / "run2",
    )
    drain(fit(second))
    found = load_model(second.out)
    assert found.card.parent == f"spots {base.sha256[:16]}"
    assert found.card.auto_tolerance is None  # it was measured of other weights
    for name, weight in base.network.named_parameters():
        assert np.allclose(dict(found.network.named_parameters())[name].detach(), weight.detach())


def test_a_base_of_another_network_is_refused(job: FitJob, tmp_path: Path) -> None:
    drain(fit(job))
    other = CARD.replace(network=replace(CARD.network, filters=(4, 6, 10)))
    wrong = replace(job, card=other, base=load_model(job.out), folder=tmp_path / "run2")
    with pytest.raises(InputError, match=r"the base 'spots' has .* choose a base of the same"):
        drain(fit(wrong))
