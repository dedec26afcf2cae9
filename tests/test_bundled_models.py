"""The bundled models: what ships, what their cards say, and that they do what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import bundled_models, load_model, read_card
from napari_unetpp.core.run.api import segment_array
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.score.evaluation import evaluate
from napari_unetpp.core.score.metrics import iou

NAMES = ("nuclei", "ct-head-neck")
LEVELS = ("1", "2", "3", "4", "ensemble")
ORGANS = (
    "brainstem",
    "spinal cord",
    "right parotid",
    "left parotid",
    "oesophagus",
    "larynx",
    "mandible",
)


def held_out(card: ModelCard) -> list[str]:
    return re.split(r",\s*", card.split.split("held out: ")[1].rstrip("."))


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_everything(name: str) -> None:
    path = bundled_models()[name]
    assert path.stat().st_size < 30e6
    card = read_card(name)
    assert card.name == name
    assert card.levels_trained == (1, 2, 3, 4)
    for level in LEVELS:
        assert 0 < card.scores[level]["iou_per_image"] < 1
        assert card.timings[level]["seconds_per_megapixel"] > 0
    assert card.data
    assert card.citation
    assert card.licence.startswith("Weights: BSD-3-Clause")
    assert len(held_out(card)) > 20
    assert card.timing_device


def test_what_the_models_are_for() -> None:
    nuclei, ct = (read_card(name) for name in NAMES)
    assert (nuclei.axes, [c.name for c in nuclei.classes]) == ("YX", ["nucleus"])
    assert nuclei.instances is not None
    assert (ct.axes, ct.orientation) == ("ZYX", "SPL")
    assert tuple(c.name for c in ct.classes) == ORGANS


def test_nuclei_of_another_source_come_out_as_objects() -> None:
    """The labelled image inside the stardist wheel; what resembles it was not trained on."""
    spec = importlib.util.find_spec("stardist")
    assert spec is not None, "scripts/setup installs stardist's images"
    folder = Path(spec.submodule_search_locations[0]) / "data" / "images"
    image = np.asarray(read_image(folder / "img2d.tif").data)
    truth = np.asarray(read_labels(folder / "mask2d.tif").data)
    model = load_model("nuclei")
    scores = {}
    for level in (1, 4):
        found = segment_array(image, model, level=level, axes="YX", kind="instances", device="cpu")
        scores[level] = iou(found > 0, truth > 0)
    assert scores[1] > 0.4
    assert scores[4] > 0.75
    assert 70 < found.max() < 180  # 125 in truth


def test_stained_tissue_is_found_by_its_nuclei() -> None:
    tissue = data.immunohistochemistry()
    found = segment_array(tissue, load_model("nuclei"), level=4, axes="YXS", device="cpu")
    share = (found > 0).mean()
    assert 0.02 < share < 0.6
    # Haematoxylin absorbs red: what was found is darker there than the rest.
    assert tissue[found > 0][:, 0].mean() < tissue[found == 0][:, 0].mean() - 20


def test_held_out_nuclei_score_as_the_card_says(shared_data: Path) -> None:
    card = read_card("nuclei")
    pairs = [
        (shared_data / f"nuclei/images/{n}.tif", shared_data / f"nuclei/masks/{n}.tif")
        for n in held_out(card)[::9]
    ]
    runner = Runner(load_model("nuclei"), choose_device("cpu"))
    found = drain(evaluate(runner, pairs, (1, 4))).levels
    for level in ("1", "4"):
        # A tenth of the images: their mean lies about that of all.
        assert found[level]["iou_per_image"] == pytest.approx(
            card.scores[level]["iou_per_image"], abs=0.1
        )
    assert found["4"]["iou_per_image"] > found["1"]["iou_per_image"] - 0.02


def test_a_held_out_ct_scores_as_the_card_says(shared_data: Path) -> None:
    card = read_card("ct-head-neck")
    folder = shared_data / "ct_head_neck"
    pairs = [
        (folder / f"images/{n}.nii.gz", folder / f"masks/{n}.nii.gz") for n in held_out(card)[:3]
    ]
    runner = Runner(load_model("ct-head-neck"), choose_device("cpu"))
    found = drain(evaluate(runner, pairs, (4,))).classes
    for organ in ("mandible", "right parotid", "left parotid"):
        expected = card.class_scores[organ]["4"]["dice_per_image"]
        assert found[organ]["4"]["dice_per_image"] == pytest.approx(expected, abs=0.15)
    assert found["mandible"]["4"]["dice_per_image"] > 0.7
