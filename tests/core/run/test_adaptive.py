"""``auto``: each tile goes as deep as its first two heads disagree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Event, TileDone, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.adaptive import Adaptive, disagreement
from napari_unetpp.core.run.inference import Prediction, predict
from napari_unetpp.core.run.precision import Agreement, native_bfloat16
from napari_unetpp.core.run.runtime import Device, Level, Runner

FLOAT32 = Device("cpu", "test", "float32", "a test")


def card_of(tolerance: float | None = 0.3, **network: Any) -> ModelCard:
    config = NetworkConfig(**{"filters": (4, 6, 8, 10, 12), **network})
    first = 1 if config.activation == "softmax" else 0
    classes = tuple(ClassInfo(f"c{k}") for k in range(config.out_channels - first))
    axes = "YX" if config.ndim == 2 else "ZYX"
    trained = config.head_levels
    return ModelCard(
        "test", config, classes, axes, levels_trained=trained, auto_tolerance=tolerance
    )


def runner_of(
    tolerance: float | None, backend: str = "torch", device: Device = FLOAT32, **network: Any
) -> Runner:
    torch.manual_seed(1)
    card = card_of(tolerance, **network)
    net = NestedUNet(card.network).eval()
    with torch.no_grad():
        x = torch.rand((1, 1, *(32,) * card.network.ndim))
        for level, logits in net.forward_heads(x).items():
            head = net.heads[str(level)]
            head.weight.div_(logits.std())
            head.bias.sub_(logits.mean()).div_(logits.std())
    return Runner(Model(card, net, Path("m.safetensors"), ""), device, backend)


def run(
    runner: Runner, array: NDArray[Any], level: Level, **options: Any
) -> tuple[NDArray[np.float32], Prediction, list[Event]]:
    heard: list[Event] = []
    sink = np.full(array.shape, np.nan, np.float32)
    axes = "YX" if array.ndim == 2 else "ZYX"
    job = predict(
        Image.from_array(array, axes), runner, sink, level=level, kind="probabilities", **options
    )
    return sink, drain(job, heard.append), heard


def picture(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(4).random(shape, dtype=np.float32)


def test_disagreement_by_hand() -> None:
    first, second = np.zeros((2, 1, 10, 10), np.float32)
    first[0, :4], second[0, 2:5] = 1.0, 1.0  # 20 of 50 foreground pixels are shared
    assert disagreement(first, second, card_of()) == pytest.approx(0.6)
    assert disagreement(first, first, card_of()) == 0.0
    empty = np.zeros((1, 100, 100), np.float32)
    speck = empty.copy()
    speck[0, 5, 5:7] = 1.0
    assert disagreement(empty, speck, card_of()) == pytest.approx(2 / 20)  # 0.2 % always counts


def test_disagreement_is_of_the_worst_class() -> None:
    card = card_of(out_channels=3, activation="softmax")
    first = np.zeros((3, 4, 4), np.float32)
    first[0] = 0.4
    first[1, :2], first[2, 2:] = 0.5, 0.5
    second = first.copy()
    second[2, 3], second[0, 3] = 0.1, 0.8  # half of the second class has gone
    assert disagreement(first, second, card) == pytest.approx(0.5)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.parametrize(("tolerance", "level"), [(1.0, 2), (0.0, 4)])
def test_it_is_one_level_where_all_tiles_agree(tolerance: float, level: int, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    runner = runner_of(tolerance, backend)
    array = picture(100, 150)
    found, prediction, heard = run(runner, array, "auto", tile=48)
    expected, _, _ = run(runner, array, level, tile=48)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert prediction.tiles_by_level == {level: prediction.n_tiles}
    assert {e.level for e in heard if isinstance(e, TileDone)} == {level}
    assert prediction.to_json()["tiles_by_level"] == {str(level): prediction.n_tiles}


def test_each_tile_is_that_of_its_level() -> None:
    """Whatever was expected of a tile: deep tiles are L4's numbers, others L2's."""
    array = picture(100, 250)
    runner = runner_of(0.0)
    by_level = {k: run(runner, array, k, tile=48)[0] for k in (1, 2, 4)}
    _, _, heard = run(runner, array, "auto", tile=48)
    regions = [e.region for e in heard if isinstance(e, TileDone)]
    found = [
        disagreement(by_level[1][region][None], by_level[2][region][None], runner.card)
        for region in regions
    ]
    middle = float(np.median(found))
    result, prediction, heard = run(runner_of(middle), array, "auto", tile=48)
    levels = [e.level for e in heard if isinstance(e, TileDone)]
    assert levels == [4 if one > middle else 2 for one in found]
    assert prediction.tiles_by_level == {2: levels.count(2), 4: levels.count(4)}
    assert min(prediction.tiles_by_level.values()) > 3
    for region, level in zip(regions, levels, strict=True):
        np.testing.assert_allclose(result[region], by_level[level][region], atol=1e-5)


def test_expecting_depth_does_not_change_the_judgement() -> None:
    seen = set()
    for seed in range(8):
        runner = runner_of(0.55)
        x = np.random.default_rng(seed).random((1, 64, 64), dtype=np.float32)
        crop, ends = (slice(0, 32), slice(0, 32)), (64, 64)
        runner.deep_in_a_row = 0
        one = Adaptive(runner).run(x, crop, ends)
        runner.deep_in_a_row = 9
        other = Adaptive(runner).run(x, crop, ends)
        assert one.level == other.level
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        seen.add(one.level)
    assert seen <= {2, 4}


def test_expecting_depth_does_not_change_the_judgement_at_the_images_end() -> None:
    """49 pixels are padded to 52 for L2 and to 64 for L4, which changes what L1 and L2 say."""
    block = picture(1, 49, 49) ** 4
    crop, ends = (slice(0, 49), slice(0, 49)), (49, 49)
    x = np.pad(block, [(0, 0), (0, 15), (0, 15)], mode="edge")
    runner = runner_of(0.3)
    judged = []
    for size in (52, 64):
        heads = runner.several(x[None, :, :size, :size], (1, 2))
        first, second = (heads[k][0][:, :49, :49] for k in (1, 2))
        judged.append(disagreement(first, second, runner.card))
    assert judged[0] < judged[1]
    runner = runner_of(sum(judged) / 2)
    found = []
    for before in (0, 9):
        runner.deep_in_a_row = before
        found.append(Adaptive(runner).run(x, crop, ends))
    assert [one.level for one in found] == [2, 2]
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, atol=1e-5)


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_a_glance_at_the_middle_foretells_the_first_window_alone(
    monkeypatch: pytest.MonkeyPatch, tolerance: float
) -> None:
    runner = runner_of(tolerance)
    asked: list[tuple[tuple[int, ...], int]] = []
    plain = runner.several

    def several(x: NDArray[np.float32], levels: Any) -> dict[int, NDArray[np.float32]]:
        asked.append((tuple(levels), x.shape[-1]))
        return plain(x, levels)

    monkeypatch.setattr(runner, "several", several)
    x, crop = picture(1, 512, 512), (slice(0, 512), slice(0, 512))
    glancing = Adaptive(runner)
    found = [glancing.run(x, crop, (512, 512)) for _ in range(2)]
    assert asked[0][1] ** 2 < 512**2 / 8
    whole = ((1, 2), 512)
    assert asked[1:] == ([((1, 2, 4), 512), whole] if tolerance == 0 else [whole, whole])
    assert {one.level for one in found} == {4 if tolerance == 0 else 2}
    np.testing.assert_allclose(found[0].probabilities, found[1].probabilities, atol=1e-5)


@pytest.mark.skipif(not native_bfloat16(), reason="this processor has no bfloat16")
@pytest.mark.parametrize("fallen", [None, 2, 4])
def test_levels_of_different_precision_are_not_judged_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, fallen: int | None
) -> None:
    runner = runner_of(0.0, device=Device("cpu", "test", "bfloat16", "a test"))
    runner.agreements = {level: Agreement(0.0, 0.0) for level in (1, 2, 3, 4)}
    if fallen is not None:
        runner._rung = {fallen: 1}
    asked: list[tuple[int, ...]] = []
    plain = runner.several

    def several(x: NDArray[np.float32], levels: Any) -> dict[int, NDArray[np.float32]]:
        asked.append(tuple(levels))
        return plain(x, levels)

    monkeypatch.setattr(runner, "several", several)
    runner.deep_in_a_row = 9
    found = Adaptive(runner).run(picture(1, 64, 64), (slice(0, 64), slice(0, 64)), (64, 64))
    assert found.level == 4
    assert asked == [(1, 2, 4) if fallen is None else (1, 2)]


def test_a_level_that_is_found_to_need_another_precision_is_not_judged_in_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = runner_of(0.0)
    asked: list[tuple[int, ...]] = []
    plain = runner.several

    def compare(_: Any, levels: Any) -> None:
        if 4 in levels:  # which was not known before
            runner._rungs, runner._rung = 2 * runner._rungs, {4: 1}

    def several(x: NDArray[np.float32], levels: Any) -> dict[int, NDArray[np.float32]]:
        asked.append(tuple(levels))
        return plain(x, levels)

    monkeypatch.setattr(runner, "compare", compare)
    monkeypatch.setattr(runner, "several", several)
    monkeypatch.setattr(runner, "precision_of", lambda level: runner._rung.get(level, 0))
    runner.deep_in_a_row = 9
    found = Adaptive(runner).run(picture(1, 64, 64), (slice(0, 64), slice(0, 64)), (64, 64))
    assert found.level == 4
    assert asked == [(1, 2)]


@pytest.mark.slow
def test_where_all_goes_deep_it_costs_hardly_more_than_the_deepest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted in nodes and pixels: after the first tiles nothing is computed twice."""
    work = []
    plain = NestedUNet.node

    def counted(self: NestedUNet, node: tuple[int, int], x: Any, nodes: Any) -> torch.Tensor:
        result = plain(self, node, x, nodes)
        work.append(result.numel())
        return result

    monkeypatch.setattr(NestedUNet, "node", counted)
    array = picture(256, 256)
    run(runner_of(0.0), array, 4, tile=32)
    deep = sum(work)
    work.clear()
    run(runner_of(0.0), array, "auto", tile=32)
    assert sum(work) < 1.1 * deep


def test_without_a_tolerance_a_note_says_so() -> None:
    _, prediction, _ = run(runner_of(None), picture(32, 32), "auto")
    assert [n.code for n in prediction.notes] == ["auto-uncalibrated"]


def test_two_levels_leave_nothing_to_choose() -> None:
    runner = runner_of(0.3, filters=(4, 6, 8))
    array = picture(40, 40)
    found, prediction, _ = run(runner, array, "auto")
    np.testing.assert_array_equal(found, run(runner, array, 2)[0])
    assert prediction.tiles_by_level == {2: 1}


@pytest.mark.slow
def test_a_volume() -> None:
    runner = runner_of(1.0, ndim=3)
    array = picture(20, 33, 48)
    found, _, _ = run(runner, array, "auto", tile=16)
    np.testing.assert_allclose(found, run(runner, array, 2, tile=16)[0], atol=1e-5)


def test_a_single_pass_has_no_auto() -> None:
    with pytest.raises(InputError, match="auto chooses a level for each tile"):
        runner_of(0.3).probabilities(picture(1, 1, 32, 32), "auto")


def test_a_tolerance_lies_between_0_and_1() -> None:
    with pytest.raises(InputError, match="auto_tolerance must lie between 0 and 1, got 1"):
        card_of(1.5)
