"""OpenVINO gives PyTorch's numbers, for every network of the family; and who is chosen."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import DeviceError, InputError
from napari_unetpp.core.model.modelfile import Model, load_model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run import precision
from napari_unetpp.core.run.backends import choice
from napari_unetpp.core.run.backends.base import Backend
from napari_unetpp.core.run.backends.pytorch import TorchBackend
from napari_unetpp.core.run.device import Device
from napari_unetpp.core.run.precision import Agreement, native_bfloat16
from napari_unetpp.core.run.runtime import Runner

pytest.importorskip("openvino")

from napari_unetpp.core.run.backends.openvino_cpu import OpenVinoBackend

FLOAT32 = Device("cpu", "test", "float32", "a test")
BFLOAT16 = Device("cpu", "test", "bfloat16", "a test")
ALL = (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network_of(**changes: Any) -> NestedUNet:
    """Return a small network whose answers are spread over (0, 1)."""
    torch.manual_seed(3)
    config = NetworkConfig(**{"filters": (4, 8, 8, 8, 8), **changes})
    network = NestedUNet(config).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        x = torch.rand((1, config.in_channels, *(32,) * config.ndim))
        for level, logits in network.forward_heads(x).items():
            head = network.heads[str(level)]
            head.weight.div_(logits.std())
            head.bias.sub_(logits.mean()).div_(logits.std())
    return network


def model_of(network: NestedUNet) -> Model:
    config = network.config
    first = 1 if config.activation == "softmax" else 0
    classes = tuple(ClassInfo(f"c{k}") for k in range(config.out_channels - first))
    names = tuple(f"i{k}" for k in range(config.in_channels))
    axes = "YX" if config.ndim == 2 else "ZYX"
    card = ModelCard(
        "test", config, classes, axes, input_channels=names, levels_trained=config.head_levels
    )
    return Model(card, network, Path("m.safetensors"), "")


def windows(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


NETWORKS = [
    {},
    {"norm": "batch"},
    {"norm": "instance"},
    {"dropout": 0.5},
    {"activation": "softmax", "out_channels": 3},
    {"in_channels": 3, "out_channels": 2, "norm": "batch"},
    {"ndim": 3},
    {"ndim": 3, "norm": "instance", "activation": "softmax", "out_channels": 2},
    {"ndim": 3, "norm": "batch", "in_channels": 2},
    {"topology": "unet+"},
    {"topology": "unet-e"},
    {"topology": "unet", "up_filters": (6, 8, 8, 8)},
]


@pytest.mark.parametrize("changes", NETWORKS, ids=str)
def test_every_network_gives_the_same_numbers(changes: dict[str, Any]) -> None:
    model = model_of(network_of(**changes))
    config = model.card.network
    torch_runner, ov_runner = Runner(model, FLOAT32), Runner(model, FLOAT32, "openvino")
    shape = (2, config.in_channels, *(32, 48, 16)[: config.ndim])
    x = windows(*shape)
    # Norms of a few pixels make rounding larger.
    bound = 2e-4 if config.norm == "instance" else 2e-5
    for level in dict.fromkeys([config.head_levels[0], config.head_levels[-1], "ensemble"]):
        expected = torch_runner.probabilities(x, level)
        found = ov_runner.probabilities(x, level)
        assert expected.std() > 0.01
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=bound)
        assert ov_runner.backend_of(level) == "openvino"
    assert ov_runner.notes == []


def test_any_size_from_one_graph() -> None:
    network = network_of()
    backend, reference = (
        OpenVinoBackend(network, "float32"),
        TorchBackend(network, "cpu", "float32"),
    )
    for shape in ((1, 1, 16, 16), (3, 1, 64, 32), (1, 1, 160, 16), (1, 1, 16, 16)):
        x = windows(*shape)
        crop = (slice(3, 9), slice(0, 16))
        found = backend.run(x, (4,), crop)
        assert found.flags.c_contiguous
        np.testing.assert_allclose(found, reference.run(x, (4,), crop), atol=2e-5)
    assert len(backend._graphs) == 1


def test_results_do_not_share_memory_with_the_next_pass() -> None:
    backend = OpenVinoBackend(network_of(), "float32")
    first = backend.run(windows(1, 1, 32, 32), (2,))
    before = first.copy()
    backend.run(windows(1, 1, 32, 32, seed=2), (2,))
    np.testing.assert_array_equal(first, before)


def test_levels_one_after_the_other_equal_single_passes() -> None:
    runner = Runner(model_of(network_of()), FLOAT32, "openvino")
    x = windows(1, 1, 48, 32)
    found = dict(runner.levels(x))
    assert list(found) == [1, 2, 3, 4]
    for level in ALL:
        np.testing.assert_allclose(found[level], runner.probabilities(x, level), atol=1e-6)


def test_a_wrong_shape_says_so() -> None:
    runner = Runner(model_of(network_of()), FLOAT32, "openvino")
    with pytest.raises(InputError, match="multiples of 16 at level 4"):
        runner.probabilities(windows(1, 1, 24, 32), 4)


def test_new_weights_are_ready_in_two_seconds() -> None:
    """The paper's network, 9 million weights: what fine-tuning hands over."""
    network = NestedUNet(NetworkConfig()).eval().requires_grad_(False)
    OpenVinoBackend(network_of(), "float32").prepare((1,))  # the library itself is loaded
    start = time.perf_counter()
    OpenVinoBackend(network, "float32").prepare((4,))
    assert time.perf_counter() - start < 2.0 * 5  # wide: others compute here as well


def test_threads_are_those_of_torch() -> None:
    backend = OpenVinoBackend(network_of(), "float32")
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            backend.run(windows(1, 1, 16, 16), (1,))
            compiled = backend._graphs[1,].compiled
            assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
    finally:
        torch.set_num_threads(before)


def test_graphs_and_memory_are_bounded() -> None:
    backend = OpenVinoBackend(network_of(filters=(16, 16, 16, 16, 16)), "float32")
    for levels in ((1, 2), (1, 3), (1,), (2,), (3,), (4,), ALL):
        backend.run(windows(1, 1, 32, 32), levels)
    assert list(backend._graphs) == [(1,), (2,), (3,), (4,), ALL]
    process = psutil.Process()
    sizes = [(240 + 16 * k, 256 + 16 * (k % 3)) for k in range(6)]
    backend.run(windows(1, 1, *sizes[-1]), (4,))
    backend.release()
    before = process.memory_info().rss
    for size in sizes:
        backend.run(windows(1, 1, *size), (4,))
    backend.release()
    assert process.memory_info().rss - before < 64 * 2**20


class Left(Exception):
    """What a caller raises to leave a pass."""


def test_a_pass_can_be_left_in_the_middle() -> None:
    runner = Runner(model_of(network_of(filters=(32, 64, 64, 64, 64))), FLOAT32, "openvino")
    x = windows(1, 1, 512, 512)
    small = windows(1, 1, 32, 32)
    expected = runner.probabilities(small, 4)
    runner.agreements[4] = Agreement(0.0, 0.0)
    calls = 0

    def leave() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Left

    runner.interrupt = leave
    with pytest.raises(Left):
        runner.probabilities(x, 4)
    runner.interrupt = None
    np.testing.assert_array_equal(runner.probabilities(small, 4), expected)


# Precision


@pytest.mark.skipif(not native_bfloat16(), reason="this processor has no bfloat16")
def test_bfloat16_of_trained_weights_stays_within_the_bounds() -> None:
    runner = Runner(load_model("nuclei"), BFLOAT16, "openvino")
    picture = nuclei_2d((384, 384), seed=5).image
    rule, _ = Normaliser.fit(picture, runner.card.normalisation)
    x = np.asarray(rule(picture), np.float32)[None, None]
    exact = Runner(load_model("nuclei"), FLOAT32)
    for level in ALL:
        found = runner.probabilities(x, level)
        assert runner.backend_of(level) == "openvino"
        difference = np.abs(found - exact.probabilities(x, level)).max()
        # Of the whole picture; the check saw its busiest quarter.
        assert 0 < difference <= 1.5 * precision.MAX_DIFFERENCE
    assert "bfloat16" in [runner.precision_of(level) for level in ALL]


def test_what_disagrees_goes_down_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native_bfloat16():
        pytest.skip("this processor has no bfloat16")
    model, x = model_of(network_of()), windows(1, 1, 64, 64)
    runner = Runner(model, BFLOAT16, "openvino")
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", 1e-5)
    found = runner.probabilities(x, 2)
    assert (runner.backend_of(2), runner.precision_of(2)) == ("openvino", "float32")
    assert "OpenVINO in bfloat16 changed" in runner.notes[0].message
    assert runner.notes[0].message.endswith("at L2, so float32 is used there.")
    np.testing.assert_allclose(found, Runner(model, FLOAT32).probabilities(x, 2), atol=2e-5)
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", -1.0)
    found = runner.probabilities(x, 3)
    assert (runner.backend_of(3), runner.precision_of(3)) == ("torch", "float32")
    assert runner.notes[-1].message.endswith("at L3, so PyTorch in float32 is used there.")
    np.testing.assert_array_equal(found, Runner(model, FLOAT32).probabilities(x, 3))


def test_levels_go_on_after_a_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = model_of(network_of()), windows(1, 1, 32, 32)
    runner = Runner(model, FLOAT32, "openvino")
    exact = Runner(model, FLOAT32)
    runner.probabilities(x, 1)
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", -1.0)
    found = dict(runner.levels(x))
    assert list(found) == [1, 2, 3, 4]
    assert runner.backend_of(1) == "openvino"
    for level in (2, 3, 4):
        assert runner.backend_of(level) == "torch"
        np.testing.assert_array_equal(found[level], exact.probabilities(x, level))


def test_a_backend_that_fails_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no kernel for this")

    model, x = model_of(network_of()), windows(1, 1, 32, 32)
    runner = Runner(model, FLOAT32, "openvino")
    monkeypatch.setattr(OpenVinoBackend, "prepare", broken)
    found = runner.probabilities(x, 4)
    np.testing.assert_array_equal(found, Runner(model, FLOAT32).probabilities(x, 4))
    assert [n.code for n in runner.notes] == ["backend-fallback"]
    assert "no kernel for this" in runner.notes[0].message


def test_all_levels_after_the_first_come_from_one_graph() -> None:
    runner = Runner(model_of(network_of()), FLOAT32, "openvino")
    x = windows(1, 1, 32, 32)
    assert list(dict(runner.levels(x))) == [1, 2, 3, 4]
    backend = runner._backend(0)
    assert isinstance(backend, OpenVinoBackend)
    assert set(backend._graphs) == {(1,), (2, 3, 4)}
    dict(runner.levels(x))  # now that nothing has to be checked any more
    assert set(backend._graphs) == {(1,), (2, 3, 4)}


def failing(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    """Let so many passes of OpenVINO succeed, and all that follow fail."""
    plain, left = OpenVinoBackend._infer, iter(range(passes))

    def infer(self: OpenVinoBackend, *rest: Any) -> list[NDArray[np.float32]]:
        if next(left, None) is None:
            raise RuntimeError("the device was lost")
        return plain(self, *rest)

    monkeypatch.setattr(OpenVinoBackend, "_infer", infer)


# Passes of `levels`: L1 checked, L1, the rest checked, the rest.
@pytest.mark.parametrize("passes", [0, 1, 2, 3])
@pytest.mark.parametrize("device", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_a_backend_that_fails_is_left_between_levels(
    monkeypatch: pytest.MonkeyPatch, passes: int, device: Device
) -> None:
    if device is BFLOAT16 and not native_bfloat16():
        pytest.skip("this processor has no bfloat16")
    model, x = model_of(network_of()), windows(1, 1, 32, 32)
    runner, exact = Runner(model, device, "openvino"), Runner(model, device)
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", 1.0)
    monkeypatch.setattr(precision, "MAX_TURNED", 1.0)
    failing(monkeypatch, passes)
    found = list(runner.levels(x))
    assert [level for level, _ in found] == [1, 2, 3, 4]
    for level, probabilities in found:
        if level > 1 or passes < 2:
            np.testing.assert_array_equal(probabilities, exact.probabilities(x, level))
        assert runner.backend_of(level) == "torch"
    assert [n.code for n in runner.notes] == ["backend-fallback"]
    assert runner.choice.reason == "OpenVINO failed (the device was lost), so PyTorch computes."
    assert runner.keeps_nodes


def test_a_backend_that_fails_is_left_where_levels_had_fallen_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The ladder without OpenVINO is shorter than the place that L1 had come to."""
    if not native_bfloat16():
        pytest.skip("this processor has no bfloat16")
    model, x = model_of(network_of()), windows(1, 1, 32, 32)
    runner = Runner(model, BFLOAT16, "openvino")
    answers = iter([Agreement(1.0, 1.0)])
    good = Agreement(0.0, 0.0)
    monkeypatch.setattr("napari_unetpp.core.run.runtime.compare", lambda *_: next(answers, good))
    levels = runner.levels(x)
    next(levels)
    assert (runner.backend_of(1), runner.precision_of(1)) == ("openvino", "float32")
    failing(monkeypatch, 0)
    exact = Runner(model, BFLOAT16)
    for level, probabilities in levels:
        np.testing.assert_array_equal(probabilities, exact.probabilities(x, level))
    assert [n.code for n in runner.notes] == ["precision-fallback", "backend-fallback"]


@pytest.mark.parametrize("passes", [0, 1])
def test_a_backend_that_fails_in_a_pass_is_left(
    monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    model, x = model_of(network_of()), windows(1, 1, 32, 32)
    failing(monkeypatch, passes)  # while it is checked, or after that
    runner, exact = Runner(model, FLOAT32, "openvino"), Runner(model, FLOAT32)
    found = runner.probabilities(x, "ensemble", (slice(2, 9), slice(0, 16)))
    np.testing.assert_array_equal(found, exact.probabilities(x, "ensemble")[:, :, 2:9, :16])
    assert [n.code for n in runner.notes] == ["backend-fallback"]
    failing(monkeypatch, passes)
    runner = Runner(model, FLOAT32, "openvino")
    for level, probabilities in runner.several(x, (1, 3)).items():
        np.testing.assert_array_equal(probabilities, exact.probabilities(x, level))
    assert [n.code for n in runner.notes] == ["backend-fallback"]


def test_memory_that_runs_out_is_no_broken_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("Check 'ptr' failed: Failed to allocate 150994944 bytes of memory")

    runner = Runner(model_of(network_of()), FLOAT32, "openvino")
    monkeypatch.setattr(OpenVinoBackend, "run", full)
    with pytest.raises(RuntimeError, match="Failed to allocate"):
        runner.probabilities(windows(1, 1, 32, 32), 4)
    assert runner.notes == []
    assert runner.backend_of(4) == "openvino"


# The choice


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(choice, "cache_folder", lambda: tmp_path / "cache" / "backends")
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    return tmp_path / "cache" / "backends"


def counted(monkeypatch: pytest.MonkeyPatch, openvino: float, pytorch: float) -> list[int]:
    """Replace the measurement; return a list that grows with each."""
    calls: list[int] = []

    def measure(*_: Any) -> dict[str, float]:
        calls.append(1)
        return {"torch": pytorch, "openvino": openvino}

    monkeypatch.setattr(choice, "_measure", measure)
    return calls


def test_the_faster_one_is_taken_and_said_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, 0.2, 0.4)
    network = network_of()
    found = choice.choose_backend(network, FLOAT32, "auto")
    assert (found.name, found.reason) == (
        "openvino",
        "OpenVINO computes, in 0.50 of PyTorch's time.",
    )
    assert found.seconds_per_megapixel == {"torch": 0.4, "openvino": 0.2}
    counted(monkeypatch, 0.39, 0.4)
    found = choice.choose_backend(network, replace(FLOAT32, name="other"), "auto")
    assert (found.name, found.reason) == (
        "torch",
        "PyTorch computes: OpenVINO took 0.97 of its time.",
    )


def test_it_is_measured_once_for_a_shape_whatever_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch, 0.2, 0.4)
    network = network_of()
    choice.choose_backend(network, FLOAT32)
    with torch.no_grad():
        network.heads["1"].weight.mul_(2)
    choice.choose_backend(network, FLOAT32)
    assert len(calls) == 1
    choice.choose_backend(network_of(out_channels=2), FLOAT32)
    choice.choose_backend(network, BFLOAT16)
    monkeypatch.setattr(choice.napari_unetpp, "__version__", "99")
    choice.choose_backend(network, FLOAT32)
    monkeypatch.setattr("openvino.__version__", "2099.1.0-an-update")
    choice.choose_backend(network, FLOAT32)
    choice.choose_backend(network, FLOAT32)
    assert len(calls) == 5
    assert len(list(folder.iterdir())) == 5  # nothing half-written beside them


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"{}", b'{"key": 1}', b"null", b"3",
        b'{"key": KEY, "seconds_per_megapixel": {"torch": 1}}',
        b'{"key": KEY, "seconds_per_megapixel": {"torch": 1, "openvino": NaN}}',
        b'{"key": KEY, "seconds_per_megapixel": {"torch": 1, "openvino": -1}}',
        b'{"key": KEY, "seconds_per_megapixel": [1, 2]}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_measured_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    calls = counted(monkeypatch, 0.2, 0.4)
    network = network_of()
    choice.choose_backend(network, FLOAT32)
    (file,) = folder.iterdir()
    key = json.dumps(json.loads(file.read_text())["key"]).encode()
    file.write_bytes(content.replace(b"KEY", key))
    assert choice.choose_backend(network, FLOAT32).name == "openvino"
    assert len(calls) == 2
    choice.choose_backend(network, FLOAT32)
    assert len(calls) == 2  # and is whole again


def test_a_folder_that_cannot_be_written_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.parent.joinpath("cache").write_text("a file is in the way")
    calls = counted(monkeypatch, 0.2, 0.4)
    for _ in range(2):
        assert choice.choose_backend(network_of(), FLOAT32).name == "openvino"
    assert len(calls) == 2


def test_reasons_where_nothing_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, 0.2, 0.4)
    network = network_of()
    cuda = Device("cuda", "test", "bfloat16", "a test")
    found = choice.choose_backend(network, cuda)
    assert (found.name, found.reason) == (
        "torch", "OpenVINO is used on processors only, so PyTorch computes."
    )  # fmt: skip
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda _: None)
    found = choice.choose_backend(network, FLOAT32)
    assert found.name == "torch"
    assert "not installed (pip install 'napari-unetpp[cpu]')" in found.reason
    with pytest.raises(DeviceError, match="openvino was asked for, but OpenVINO is not installed"):
        choice.choose_backend(network, FLOAT32, "openvino")
    assert choice.choose_backend(network, FLOAT32, "torch").reason == "PyTorch was asked for."
    assert calls == []
    assert not folder.exists()


def test_the_environment_is_asked_where_nothing_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, 0.2, 0.4)
    monkeypatch.setenv(choice.VARIABLE, "torch")
    assert choice.choose_backend(network_of(), FLOAT32).name == "torch"
    assert choice.choose_backend(network_of(), FLOAT32, "auto").name == "openvino"
    monkeypatch.setenv(choice.VARIABLE, "tensorflow")
    with pytest.raises(DeviceError, match="NAPARI_UNETPP_BACKEND must be auto, torch or openvino"):
        choice.choose_backend(network_of(), FLOAT32)


def test_a_failure_while_measuring_is_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Backend:
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(choice, "make_backend", broken)
    found = choice.choose_backend(network_of(), FLOAT32)
    assert found.name == "torch"
    assert found.reason == "OpenVINO failed here (illegal instruction), so PyTorch computes."


def test_memory_that_is_short_while_measuring_is_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any) -> Backend:
        raise MemoryError("Unable to allocate 9 GiB")

    monkeypatch.setattr(choice, "make_backend", short)
    found = choice.choose_backend(network_of(), FLOAT32)
    assert (found.name, found.reason) == (
        "torch",
        "memory was too short to try OpenVINO, so PyTorch computes.",
    )
    assert not folder.exists()  # and it is tried again the next time


def test_a_measurement_is_made_of_both(folder: Path) -> None:
    found = choice.choose_backend(network_of(), FLOAT32, "auto")
    assert set(found.seconds_per_megapixel) == {"torch", "openvino"}
    assert all(0 < s < math.inf for s in found.seconds_per_megapixel.values())
    (file,) = folder.iterdir()
    assert json.loads(file.read_text())["seconds_per_megapixel"] == found.seconds_per_megapixel


def test_bfloat16_is_never_tried_where_it_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_unetpp.core.run.device import choose_device

    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    runner = Runner(model_of(network_of()), choose_device("cpu"), "openvino")
    assert runner._rungs == (("openvino", "float32"), ("torch", "float32"))
