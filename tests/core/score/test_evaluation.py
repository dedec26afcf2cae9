"""Evaluation with networks whose answer is known: a pixel is foreground where it is bright."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_unetpp.core.config import (
    ClassInfo,
    InstanceRule,
    ModelCard,
    NetworkConfig,
    Normalisation,
)
from napari_unetpp.core.data.geometry import Grid, GridMap
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.pairs import Pair
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, Note, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.backends.pytorch import TorchBackend
from napari_unetpp.core.run.precision import DTYPES, Agreement
from napari_unetpp.core.run.runtime import Device, Runner, choose_device
from napari_unetpp.core.score.evaluation import Evaluation, ImageScored, evaluate

DIM, BRIGHT = 0.6, 1.0
# Logits of an output: slope and offset in the pixel's intensity.
ABOVE_HALF = (20.0, -10.0)
ABOVE_EIGHTH = (60.0, -45.0)  # likelier than ABOVE_HALF above 0.875
NEVER = (0.0, -20.0)


def runner_of(
    heads: dict[int, list[tuple[float, float]]],
    classes: tuple[str, ...] = ("nucleus",),
    *,
    ndim: int = 2,
    auxiliary: tuple[str, ...] = (),
    instances: InstanceRule | None = None,
    **network: Any,
) -> Runner:
    """Return a model whose head k gives sigmoid(slope * pixel + offset) for each channel."""
    outputs = len(next(iter(heads.values())))
    config = NetworkConfig(
        ndim=ndim, filters=(1,) * (len(heads) + 1), out_channels=outputs, **network
    )
    net = NestedUNet(config)
    middle = (0, 0, *(1,) * ndim)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.zero_()
            if name.startswith("nodes.") and name.endswith("weight"):
                parameter[middle] = 1  # each node passes X^{i,0} on
        for level, channels in heads.items():
            for k, (slope, offset) in enumerate(channels):
                net.heads[str(level)].weight[k] = slope  # type: ignore[operator,index]
                net.heads[str(level)].bias[k] = offset  # type: ignore[operator,index]
    card = ModelCard(
        name="bright",
        network=config,
        classes=tuple(ClassInfo(c) for c in classes),
        auxiliary=auxiliary,
        axes="YX" if ndim == 2 else "ZYX",
        normalisation=Normalisation("window", 0.0, 1.0),
        instances=instances,
        levels_trained=tuple(heads),
    )
    return Runner(Model(card, net, Path("none"), "0" * 64), choose_device("cpu", "float32"))


def image_of(pixels: np.ndarray, axes: str = "YX", **more: Any) -> Image:
    return Image.from_array(pixels.astype(np.float32), axes, **more)


def truth_of(labels: np.ndarray, axes: str = "YX", **more: Any) -> Image:
    return Image.from_array(labels, axes, **more)


def run(*args: Any, **options: Any) -> tuple[Evaluation, list[Event]]:
    events: list[Event] = []
    return drain(evaluate(*args, **options), events.append), events


def two_images() -> list[tuple[Image, Image]]:
    """Return images of 10x10; what is predicted of them is rows that are BRIGHT."""
    first, second = np.zeros((10, 10)), np.zeros((10, 10))
    first[:4], second[:2] = BRIGHT, BRIGHT
    first_truth, second_truth = np.zeros((10, 10), np.uint16), np.zeros((10, 10), np.uint16)
    first_truth[:8] = 7  # TP 40, FN 40: IoU 1/2, Dice 2/3
    second_truth[:2] = 3  # TP 20: 1, 1
    return [
        (image_of(first), truth_of(first_truth)),
        (image_of(second), truth_of(second_truth)),
    ]


def test_one_class_by_hand_at_every_level() -> None:
    runner = runner_of({1: [ABOVE_HALF], 2: [NEVER]})
    found, events = run(runner, two_images())
    result = found.to_json()
    assert list(result) == ["model", "device", "n_images", "levels", "classes"]
    assert (result["model"], result["n_images"]) == ("bright", 2)
    assert result["device"].startswith("cpu (")
    assert "float32" in result["device"]
    assert list(result["levels"]) == ["1", "2", "ensemble"]
    row = result["levels"]["1"]
    assert list(row) == [
        "iou_per_image", "iou_pooled", "dice_per_image", "dice_pooled",
        "ap50", "score", "seconds_per_megapixel", "peak_memory_mb",
    ]  # fmt: skip
    assert row["iou_per_image"] == pytest.approx((1 / 2 + 1) / 2)
    assert row["dice_per_image"] == pytest.approx((2 / 3 + 1) / 2)
    assert row["iou_pooled"] == pytest.approx(60 / 100)  # TP 60, FN 40
    assert row["dice_pooled"] == pytest.approx(120 / 160)
    assert row["ap50"] is row["score"] is None  # no instance rule
    for level in ("2", "ensemble"):  # the mean with NEVER stays below a half
        assert result["levels"][level]["iou_pooled"] == 0
    nucleus = result["classes"]["nucleus"]
    assert set(nucleus["1"]) == {
        "iou_per_image", "iou_pooled", "dice_per_image", "dice_pooled", "n_images"
    }  # fmt: skip
    assert nucleus["1"]["iou_pooled"] == pytest.approx(0.6)
    assert nucleus["1"]["n_images"] == 2
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    scored = [e for e in events if isinstance(e, ImageScored)]
    assert [(e.done, e.total, e.level) for e in scored] == [
        (1, 6, 1), (2, 6, 2), (3, 6, "ensemble"), (4, 6, 1), (5, 6, 2), (6, 6, "ensemble"),
    ]  # fmt: skip
    assert scored[0].iou == {"nucleus": 0.5}


def test_levels_are_those_asked_for() -> None:
    runner = runner_of({1: [ABOVE_HALF], 2: [NEVER]})
    found, _ = run(runner, two_images(), [2, 1, 2])
    assert list(found.levels) == ["2", "1"]


def test_time_and_memory_are_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of({1: [ABOVE_HALF]})
    ticks = iter(range(10_000))
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr("napari_unetpp.core.score.evaluation.time", clock)
    found, events = run(runner, two_images(), [1])
    # Each step of a run takes one tick: one tile for each of two images, and its end.
    steps = sum(type(e).__name__ == "TileDone" for e in events) + 2
    assert found.levels["1"]["seconds_per_megapixel"] == pytest.approx(steps / 200e-6)
    assert 0 <= found.levels["1"]["peak_memory_mb"] < 2000  # type: ignore[operator]


def test_an_image_without_the_class_is_not_scored_for_it() -> None:
    nothing = np.zeros((10, 10), np.uint8)
    pairs = [*two_images(), (image_of(nothing), truth_of(nothing))]
    found, _ = run(runner_of({1: [ABOVE_HALF]}), pairs)
    assert found.levels["1"]["iou_per_image"] == pytest.approx((1 / 2 + 1) / 2)
    assert found.classes["nucleus"]["1"]["iou_per_image"] == pytest.approx((1 / 2 + 1) / 2)
    assert found.classes["nucleus"]["1"]["n_images"] == 2


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_several_classes_are_scored_where_their_truth_is(activation: str) -> None:
    # dim pixels are class 1, bright ones class 2; class 3 is never predicted nor in any truth
    heads = [ABOVE_HALF, ABOVE_EIGHTH, NEVER]
    if activation == "softmax":
        heads = [(0.0, 0.0), *heads]
    runner = runner_of({1: heads}, ("dim", "bright", "none"), activation=activation)
    first, second = np.zeros((10, 10)), np.zeros((10, 10))
    first[:4], first[6:] = DIM, BRIGHT
    second[:5] = DIM
    first_truth, second_truth = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    first_truth[:2], first_truth[6:] = 1, 2  # dim: TP 20, FP 20; bright: TP 40
    second_truth[:10] = 1  # dim: TP 50, FN 50; bright is not in this truth
    found, _ = run(
        runner,
        [(image_of(first), truth_of(first_truth)), (image_of(second), truth_of(second_truth))],
    )
    dim, bright, none = (found.classes[c]["1"] for c in ("dim", "bright", "none"))
    assert dim["iou_per_image"] == pytest.approx((20 / 40 + 50 / 100) / 2)
    assert dim["dice_per_image"] == pytest.approx((40 / 60 + 100 / 150) / 2)
    assert dim["iou_pooled"] == pytest.approx(70 / 140)
    assert dim["n_images"] == 2
    assert (bright["iou_per_image"], bright["n_images"]) == (1.0, 1)
    assert none == dict.fromkeys(dim) | {"n_images": 0}
    assert found.levels["1"]["iou_per_image"] == pytest.approx((0.5 + 1) / 2)
    assert found.levels["1"]["dice_pooled"] == pytest.approx((140 / 210 + 1) / 2)
    assert found.levels["1"]["ap50"] is None
    assert "iou_per_image" not in found.for_card()["class_scores"]["none"]["1"]


def nuclei() -> tuple[np.ndarray, np.ndarray]:
    """Return a picture whose brightest pixels are the centres of two touching squares."""
    pixels, labels = np.zeros((12, 20)), np.zeros((12, 20), np.uint16)
    pixels[2:9, 2:9], pixels[2:9, 9:16] = DIM, DIM
    pixels[5, 5] = pixels[5, 12] = BRIGHT
    labels[2:9, 2:9], labels[2:9, 9:16] = 5, 9
    return pixels, labels


RULE = InstanceRule(seed_smoothing=0.0, min_size=0)


def separator() -> Runner:
    return runner_of({1: [ABOVE_HALF, (20.0, -16.0)]}, auxiliary=("centre",), instances=RULE)


def test_objects_by_hand() -> None:
    pixels, labels = nuclei()
    joined = labels.copy()
    joined[labels == 9] = 5
    joined[0, 19] = 1  # one pixel that is missed
    found, _ = run(separator(), [(image_of(pixels), truth_of(labels))])
    assert found.levels["1"]["ap50"] == 1
    assert found.levels["1"]["score"] == 1
    # The same squares as one object: IoU of each half is 49/98 = 0.5, no match: 0 of 2 and 2.
    found, _ = run(
        separator(), [(image_of(pixels), truth_of(labels)), (image_of(pixels), truth_of(joined))]
    )
    assert found.levels["1"]["ap50"] == pytest.approx(2 / (2 + 2 + 2))
    assert found.levels["1"]["score"] == pytest.approx((1 + 0) / 2)
    card = separator().card.replace(**found.for_card())
    assert card.scores["1"]["ap50"] == pytest.approx(1 / 3)
    assert set(card.timings["1"]) == {"seconds_per_megapixel", "peak_memory_mb"}
    assert card.timing_device == found.device


def test_a_mask_as_truth_gives_no_object_scores() -> None:
    pixels, labels = nuclei()
    pixels[:, 8:10], labels[:, 8:10] = 0, 0
    mask = np.where(labels > 0, 255, 0).astype(np.uint8)  # one value on two regions
    found, _ = run(separator(), [(image_of(pixels), truth_of(mask))])
    assert found.levels["1"]["iou_pooled"] == 1
    assert found.levels["1"]["ap50"] is found.levels["1"]["score"] is None
    # One object alone is an object; and a set is of objects if any image shows it.
    one = np.where(labels == 5, 1, 0).astype(np.uint8)
    found, _ = run(separator(), [(image_of(np.where(one, pixels, 0)), truth_of(one))])
    assert found.levels["1"]["ap50"] == 1
    found, _ = run(
        separator(), [(image_of(pixels), truth_of(mask)), (image_of(pixels), truth_of(labels))]
    )
    assert found.levels["1"]["ap50"] == pytest.approx(2 / (2 + 2 + 1))  # mask: 2 FP, 1 FN


def test_a_2d_model_scores_the_objects_of_each_plane() -> None:
    pixels, labels = nuclei()
    stack, truth = np.stack([pixels] * 3), np.stack([labels] * 3)
    truth[2] = 0
    found, _ = run(separator(), [(image_of(stack, "ZYX"), truth_of(truth, "ZYX"))])
    assert found.n_images == 1
    assert found.levels["1"]["iou_pooled"] == pytest.approx(2 / 3)
    assert found.levels["1"]["ap50"] == pytest.approx(4 / 6)


def test_a_3d_model_with_another_spacing() -> None:
    runner = runner_of({1: [ABOVE_HALF]}, ("organ",), ndim=3)
    runner.card = runner.card.replace(spacing=(2.0, 1.0, 1.0), spacing_unit="mm")
    volume = np.zeros((8, 8, 8))
    volume[:, :4] = BRIGHT
    image = image_of(volume, "ZYX", spacing=(1.0, 1.0, 1.0), unit="mm")
    found, _ = run(runner, [(image, truth_of((volume > 0).astype(np.uint8), "ZYX"))])
    assert found.levels["1"]["dice_pooled"] == 1


def test_files_are_read_and_float_labels_accepted(tmp_path: Path) -> None:
    (image, labels), _ = two_images()
    tifffile.imwrite(tmp_path / "a.tif", image.data)
    tifffile.imwrite(tmp_path / "b.tif", labels.data.astype(np.float32))
    for pair in (
        Pair("a", tmp_path / "a.tif", tmp_path / "b.tif"),
        (str(tmp_path / "a.tif"), tmp_path / "b.tif"),
    ):
        found, _ = run(runner_of({1: [ABOVE_HALF]}), [pair])
        assert found.levels["1"]["iou_pooled"] == 0.5


def test_labels_with_axes_in_another_order_or_of_length_one() -> None:
    pixels = np.zeros((6, 9))
    pixels[:3] = BRIGHT
    labels = (pixels > 0).astype(np.uint8)
    for truth in (truth_of(labels.T, "XY"), truth_of(labels[None], "CYX"), truth_of(labels > 0)):
        found, _ = run(runner_of({1: [ABOVE_HALF]}), [(image_of(pixels), truth)])
        assert found.levels["1"]["iou_pooled"] == 1


def test_notes_come_once_and_geometry_is_compared() -> None:
    pixels = np.zeros((4, 8, 8))
    pixels[0, 0, 0] = np.nan
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    moved = affine.copy()
    moved[0, 3] = 5
    runner = runner_of({1: [ABOVE_HALF]}, ndim=3)
    labels = np.zeros((4, 8, 8), np.uint8)
    pair = (image_of(pixels, "ZYX", affine=affine), truth_of(labels, "ZYX", affine=moved))
    same = (pair[0], truth_of(labels, "ZYX", affine=affine))
    _, events = run(runner, [pair, same])
    notes = [e.code for e in events if isinstance(e, Note)]
    assert notes.count("label-geometry") == 1
    assert notes.count("non-finite") == 1


@pytest.mark.parametrize("orientation", ["SPL", "IAR", "LSP", "PLI", "RIA"])
def test_labels_stored_in_another_orientation_are_turned(orientation: str) -> None:
    # Cubic, so that the shape tells nothing.
    place = Grid.from_spacing((6, 6, 6), (1.5, 1.0, 0.5), "SPL")
    pixels = np.zeros((6, 6, 6))
    pixels[0, :2, :3], pixels[4, 3:, 5] = BRIGHT, BRIGHT
    way = GridMap.for_card(place, three_d_card(orientation))
    labels = way.to_model((pixels > 0).astype(np.uint8), order=0)
    pair = (
        image_of(pixels, "ZYX", affine=place.affine),
        truth_of(labels, "ZYX", affine=way.model_grid.affine),
    )
    found, events = run(runner_of({1: [ABOVE_HALF]}, ndim=3), [pair])
    assert found.levels["1"]["iou_pooled"] == 1
    assert not [e for e in events if isinstance(e, Note)]
    # Turned and moved by a voxel, they are left as they are, and it is said.
    moved = way.model_grid.affine.copy()
    moved[0, 3] += 5.0
    _, events = run(
        runner_of({1: [ABOVE_HALF]}, ndim=3),
        [(pair[0], truth_of(labels, "ZYX", affine=moved))],
    )
    assert [e.code for e in events if isinstance(e, Note)] == ["label-geometry"]


def three_d_card(orientation: str) -> ModelCard:
    return runner_of({1: [ABOVE_HALF]}, ndim=3).card.replace(orientation=orientation)


def test_each_level_keeps_one_precision_and_the_device_says_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = {k: [ABOVE_HALF] for k in (1, 2, 3)}
    exact = runner_of(heads)
    model = Model(exact.card, exact._master, Path("none"), "0" * 64)
    runner = Runner(model, Device("cpu", "chip", "bfloat16", "a test"))
    # Level 2 alone disagrees, whatever the hardware makes of it.
    answers = iter([Agreement(0.0, 0.0), Agreement(0.5, 0.0), Agreement(0.0, 0.0)])
    monkeypatch.setattr("napari_unetpp.core.run.runtime.compare", lambda *_: next(answers))
    ran: list[tuple[int, torch.dtype]] = []
    plain = TorchBackend.run

    def watched(self: TorchBackend, x: Any, levels: tuple[int, ...], *rest: Any) -> Any:
        ran.append((levels[0], DTYPES[self.precision]))
        return plain(self, x, levels, *rest)

    monkeypatch.setattr(TorchBackend, "run", watched)
    done: list[int] = []

    def listen(event: Event) -> None:
        if isinstance(event, ImageScored):
            done.append(len(ran))
        elif isinstance(event, Note):
            notes.append(event.code)

    notes: list[str] = []
    found = drain(evaluate(runner, two_images(), (1, 2, 3)), listen)
    assert found.device == "cpu (chip, bfloat16; L2 float32)"
    assert notes.count("precision-fallback") == 1
    low, full = torch.bfloat16, torch.float32
    # The run that each event tells of is the last before it.
    assert [ran[n - 1] for n in done] == [(1, low), (2, full), (3, low)] * 2


def test_a_closed_evaluation_stops() -> None:
    job = evaluate(runner_of({1: [ABOVE_HALF]}), two_images())
    next(job)
    job.close()
    with pytest.raises(StopIteration):
        next(job)


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.zeros((9, 10), np.uint8), r"image is 10x10 \(YX\) but its labels are 9x10 \(YX\)"),
        (np.full((10, 10), 0.5), r"whole numbers, got 0\.5"),
        (np.full((10, 10), np.nan), "whole numbers, got nan"),
        (np.full((10, 10), -1), "negative, got -1"),
        (np.arange(100).reshape(10, 10), r"hold 3, 4, 5, 6, 7, \.\.\., but.*1 dim, 2 bright"),
    ],
)
def test_labels_that_do_not_fit(labels: np.ndarray, word: str) -> None:
    runner = runner_of({1: [ABOVE_HALF, ABOVE_EIGHTH]}, ("dim", "bright"))
    with pytest.raises(InputError, match=word):
        run(runner, [(image_of(np.zeros((10, 10))), truth_of(labels))])


def test_bad_arguments_are_refused_at_once() -> None:
    runner = runner_of({1: [ABOVE_HALF]})
    with pytest.raises(InputError, match="at least one image"):
        evaluate(runner, [])
    with pytest.raises(InputError, match="at least one level"):
        evaluate(runner, two_images(), [])
    with pytest.raises(InputError, match="trained at level 1, got 3"):
        evaluate(runner, two_images(), [1, 3])
