"""Leaving a pass in the middle, and pausing between levels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run.inference import predict, predict_levels
from napari_unetpp.core.run.runtime import Device, Level, Runner

NODES = {1: 3, 2: 6, 3: 10, 4: 15, "ensemble": 15}  # stage k adds k + 1 nodes


class Left(Exception):
    """What a caller raises to leave a pass."""


@cache
def model() -> Model:
    torch.manual_seed(0)
    config = NetworkConfig(filters=(2, 3, 4, 5, 6))
    card = ModelCard("test", config, (ClassInfo("thing"),), levels_trained=(1, 2, 3, 4))
    return Model(card, NestedUNet(config).eval(), Path("m.safetensors"), "")


def runner_in(precision: Any = "float32") -> Runner:
    return Runner(model(), Device("cpu", "test", precision, "a test"))


def array(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def after(calls: int) -> Callable[[], None]:
    """Return an interrupt that lets this many nodes pass."""
    left = iter(range(calls))

    def interrupt() -> None:
        if next(left, None) is None:
            raise Left("enough")

    return interrupt


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The nodes that were computed, in order."""
    nodes: list[tuple[int, int]] = []
    plain = NestedUNet.node

    def counted(self: NestedUNet, node: tuple[int, int], *rest: Any) -> torch.Tensor:
        nodes.append(node)
        return plain(self, node, *rest)

    monkeypatch.setattr(NestedUNet, "node", counted)
    return nodes


@pytest.mark.parametrize("level", [1, 2, 3, 4, "ensemble"])
def test_every_node_of_a_level_asks_first(level: Level, computed: list[Any]) -> None:
    runner = runner_in()
    asked: list[int] = []
    runner.interrupt = lambda: asked.append(len(computed))
    runner.probabilities(array(1, 1, 32, 32), level)
    assert asked == list(range(NODES[level]))
    assert len(computed) == NODES[level]


def test_levels_ask_before_every_node(computed: list[Any]) -> None:
    runner = runner_in()
    asked: list[int] = []
    runner.interrupt = lambda: asked.append(len(computed))
    assert [level for level, _ in runner.levels(array(1, 1, 32, 32))] == [1, 2, 3, 4]
    assert asked == list(range(15))


def test_the_check_of_a_precision_asks_too() -> None:
    runner = runner_in("bfloat16")
    asked: list[int] = []
    runner.interrupt = lambda: asked.append(0)
    runner.probabilities(array(1, 1, 32, 32), 2)
    assert len(asked) == 3 * NODES[2]  # in float32, in bfloat16, and the pass itself
    runner.probabilities(array(1, 1, 32, 32), 2)
    assert len(asked) == 4 * NODES[2]


@pytest.mark.parametrize("calls", [0, 1, 14])
@pytest.mark.parametrize("level", [4, "ensemble"])
def test_a_pass_that_was_left_can_be_run_again(
    level: Level, calls: int, computed: list[Any]
) -> None:
    runner = runner_in()
    x = array(1, 1, 32, 32)
    expected = runner.probabilities(x, level)
    computed.clear()
    runner.interrupt = after(calls)
    with pytest.raises(Left, match="enough"):
        runner.probabilities(x, level)
    assert len(computed) == calls
    runner.interrupt = None
    assert np.array_equal(runner.probabilities(x, level), expected)
    assert runner.notes == []


@pytest.mark.parametrize("calls", [2, 8])  # in the check's first pass and in its second
def test_a_check_that_was_left_is_made_again(calls: int) -> None:
    runner = runner_in("bfloat16")
    x = array(1, 1, 32, 32)
    runner.interrupt = after(calls)
    with pytest.raises(Left):
        runner.probabilities(x, 2)
    assert runner.agreements == {}
    runner.interrupt = None
    found = runner.probabilities(x, 2)
    assert list(runner.agreements) == [2]
    assert np.array_equal(found, runner_in("bfloat16").probabilities(x, 2))


def test_levels_that_were_left_end_and_can_be_begun_again() -> None:
    runner = runner_in()
    x = array(1, 1, 32, 32)
    runner.interrupt = after(NODES[2] + 1)
    levels = runner.levels(x)
    first = dict([next(levels), next(levels)])
    with pytest.raises(Left):
        next(levels)
    assert list(levels) == []
    runner.interrupt = None
    again = dict(runner.levels(x))
    assert list(again) == [1, 2, 3, 4]
    assert all(np.array_equal(again[k], first[k]) for k in (1, 2))


@pytest.mark.parametrize("through", [False, True])
def test_paused_levels_compute_only_what_is_missing(through: bool, computed: list[Any]) -> None:
    """Another run of the same runner in the pause takes nothing from what is kept."""
    runner = runner_in()
    block = array(30, 40)
    expected = dict(predict_levels(block, runner))
    computed.clear()
    levels = predict_levels(block, runner)
    found = dict([next(levels)])
    assert len(computed) == NODES[1]
    if through:
        runner.interrupt = after(4)
        with pytest.raises(Left):
            list(predict_levels(array(50, 60), runner))
        runner.interrupt = None
    computed.clear()
    for level in (2, 3, 4):
        found |= [next(levels)]
        assert len(computed) == NODES[level] - NODES[1]
    assert all(sum(node) >= 2 for node in computed)
    assert all(np.array_equal(found[k], expected[k]) for k in expected)


def test_what_an_interrupt_raises_comes_out_of_a_run_unchanged() -> None:
    runner = runner_in()
    image = Image.from_array(array(60, 70), "YX")
    expected = np.zeros((60, 70), np.float32)
    options: dict[str, Any] = {"level": 2, "kind": "probabilities", "tile": 32}
    drain(predict(image, runner, expected, **options))

    error = Left("a newer request")
    calls = iter(range(2 * NODES[2] + 1))  # into the third tile

    def interrupt() -> None:
        if next(calls, None) is None:
            raise error

    runner.interrupt = interrupt
    sink = np.full((60, 70), -1, np.float32)
    with pytest.raises(Left) as caught:
        drain(predict(image, runner, sink, **options))
    assert caught.value is error
    done = sink >= 0
    assert 0 < done.mean() < 1  # tiles that were finished stay
    assert np.array_equal(sink[done], expected[done])

    runner.interrupt = None
    drain(predict(image, runner, sink, **options))
    assert np.array_equal(sink, expected)


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_errors_of_python_pass_too(error: BaseException) -> None:
    runner = runner_in()

    def interrupt() -> None:
        raise error

    runner.interrupt = interrupt
    sink = np.zeros((20, 20), np.uint8)
    with pytest.raises(type(error)) as caught:
        drain(predict(Image.from_array(array(20, 20), "YX"), runner, sink, level=1))
    assert caught.value is error
