"""A tolerance for ``auto`` from held-out images."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import load_model, save_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.score.calibration import Judged, calibrate, choose_tolerance
from napari_unetpp.core.score.evaluation import evaluate


def test_the_largest_tolerance_within_the_bound() -> None:
    judged = [
        Judged(0.1, 0.90, 0.90), Judged(0.2, 0.89, 0.90), Judged(0.4, 0.80, 0.90),
        Judged(0.8, 0.20, 0.90),
    ]  # fmt: skip
    found = choose_tolerance(judged, 0.005)
    assert (found.tolerance, found.share_deep) == (pytest.approx(0.3), 0.5)
    assert found.auto == pytest.approx(0.8975)
    assert (found.shallow, found.deep) == (pytest.approx(0.6975), pytest.approx(0.9))
    assert choose_tolerance(judged, 0.03).tolerance == pytest.approx(0.6)
    assert choose_tolerance(judged, 1.0).tolerance == 1.0
    strict = choose_tolerance(judged[2:], 0.001)
    assert (strict.tolerance, strict.share_deep, strict.auto) == (0.0, 1.0, pytest.approx(0.9))


def test_images_of_one_disagreement_go_the_same_way() -> None:
    judged = [Judged(0.1, 0.9, 0.9), Judged(0.2, 0.9, 0.9), Judged(0.2, 0.0, 0.9)]
    found = choose_tolerance(judged, 0.01)
    assert 0.1 < found.tolerance < 0.2
    assert found.auto == pytest.approx(0.9)


def test_it_is_judged_as_the_card_keeps_it() -> None:
    """Rounded up, the middle of 0.10004 and 0.10008 would let the second image pass."""
    judged = [Judged(0.10004, 0.9, 0.9), Judged(0.10008, 0.0, 0.9)]
    found = choose_tolerance(judged, 0.01)
    assert (found.tolerance, found.share_deep) == (0.1, 1.0)
    assert found.auto == pytest.approx(0.9)
    apart = choose_tolerance([judged[0], Judged(0.10038, 0.0, 0.9)], 0.01)
    assert (apart.tolerance, apart.share_deep) == (0.1002, 0.5)


def test_where_shallow_is_better_nothing_goes_deep() -> None:
    found = choose_tolerance([Judged(0.5, 0.9, 0.8), Judged(0.6, 0.9, 0.85)], 0.0)
    assert (found.tolerance, found.share_deep) == (1.0, 0.0)


def test_nothing_to_calibrate_by() -> None:
    with pytest.raises(InputError, match="at least one labelled image"):
        choose_tolerance([])


def pairs(count: int) -> list[tuple[Image, Image]]:
    made = [nuclei_2d((96, 128), count=6, seed=seed) for seed in range(count)]
    return [(Image(p.image, "YX"), Image(p.labels, "YX")) for p in made]


def test_the_bundled_model_and_its_file(tmp_path: Path) -> None:
    """A tolerance goes into the card, and the weights stay as they are, bit for bit."""
    model = load_model("nuclei")
    runner = Runner(model, choose_device("cpu", "float32"))
    found = drain(calibrate(runner, pairs(3)))
    assert 0 <= found.tolerance <= 1
    assert found.deep - found.auto <= 0.01
    assert 0.3 < found.shallow <= 1
    card = model.card.replace(auto_tolerance=found.tolerance)
    again = load_model(save_model(tmp_path / "m.safetensors", model.network, card))
    assert again.card == card
    data = [path.read_bytes() for path in (model.path, again.path)]
    starts = [8 + int.from_bytes(d[:8], "little") for d in data]
    assert data[0][starts[0] :] == data[1][starts[1] :]


def test_an_evaluation_tells_the_share_of_tiles() -> None:
    model = load_model("nuclei")
    model = type(model)(model.card.replace(auto_tolerance=0.0), model.network, model.path, "")
    runner = Runner(model, choose_device("cpu", "float32"))
    found = drain(evaluate(runner, pairs(2), (2, 4, "auto")))
    assert found.levels["auto"]["tiles_l4"] == 1.0
    assert "tiles_l4" not in found.levels["4"]
    assert found.levels["auto"]["iou_per_image"] == pytest.approx(
        found.levels["4"]["iou_per_image"]
    )


def test_two_levels_need_no_calibration() -> None:
    model = load_model("nuclei")
    model = type(model)(model.card.replace(levels_trained=(1, 4)), model.network, model.path, "")
    with pytest.raises(InputError, match="was trained at 2; use one of its levels"):
        drain(calibrate(Runner(model, choose_device("cpu", "float32")), pairs(1)))
