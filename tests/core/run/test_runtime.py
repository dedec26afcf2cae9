"""Devices, precisions, memory and the runner."""

from __future__ import annotations

import mmap
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.lazy import release
from napari_unetpp.core.errors import DeviceError, InputError
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run import device as device_module
from napari_unetpp.core.run import memory, precision
from napari_unetpp.core.run.precision import Agreement, choose_precision, compare, probe_region
from napari_unetpp.core.run.runtime import Device, Runner, choose_device, seed_everything

FLOAT32 = Device("cpu", "test", "float32", "a test")
BFLOAT16 = Device("cpu", "test", "bfloat16", "a test")


def make_model(ndim: int = 2, norm: str = "none", trained: tuple[int, ...] = (1, 2, 3, 4)) -> Model:
    """Random weights whose probabilities differ from pixel to pixel."""
    torch.manual_seed(0)
    config = NetworkConfig(ndim=ndim, filters=(4, 6, 8, 10, 12), norm=norm)
    network = NestedUNet(config).eval()
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_()
    spread_heads(network)
    axes = "YX" if ndim == 2 else "ZYX"
    card = ModelCard("test", config, (ClassInfo("thing"),), axes=axes, levels_trained=trained)
    return Model(card, network, Path("test.safetensors"), "")


def spread_heads(network: NestedUNet) -> None:
    """Scale the heads to logits of mean 0 and deviation 1 on random input."""
    with torch.no_grad():
        x = torch.rand((1, network.config.in_channels, *(32,) * network.config.ndim))
        for level, logits in network.forward_heads(x).items():
            head = network.heads[str(level)]
            head.weight.div_(logits.std())
            head.bias.sub_(logits.mean()).div_(logits.std())


def windows(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


# Devices


def test_the_cpu_that_was_asked_for() -> None:
    device = choose_device("cpu", "float32")
    assert (device.kind, device.precision) == ("cpu", "float32")
    assert device.reason == "the CPU was asked for."
    assert device.name


def test_a_cpu_build_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(device_module.platform, "system", lambda: "Linux")
    device = choose_device("auto", "float32")
    assert device.kind == "cpu"
    assert "is a CPU build" in device.reason
    with pytest.raises(DeviceError, match=r"is a CPU build .* Choose --device auto or cpu"):
        choose_device("cuda")


def test_no_gpu_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device_module.platform, "system", lambda: "Linux")
    assert "finds no NVIDIA GPU" in choose_device("auto", "float32").reason


def test_an_old_driver_is_the_reason_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> bool:
        import warnings

        warnings.warn("The NVIDIA driver on your system is too old.", stacklevel=2)
        return False

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(device_module.platform, "system", lambda: "Linux")
    assert "driver on your system is too old" in choose_device("auto", "float32").reason


def test_mps_is_refused_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module.platform, "system", lambda: "Linux")
    with pytest.raises(DeviceError, match="exist on macOS only"):
        choose_device("mps")


def test_a_gpu_is_taken_and_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_cuda_problem", lambda: "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    device = choose_device()
    assert device == Device(
        "cuda", "Test GPU", "bfloat16", "an NVIDIA GPU is the fastest device.", ""
    )


def test_unknown_words() -> None:
    with pytest.raises(DeviceError, match="auto, cpu, cuda or mps, got 'tpu'"):
        choose_device("tpu")
    with pytest.raises(DeviceError, match="float32, bfloat16 or float16, got 'int8'"):
        choose_device("cpu", "int8")


# Precision


def test_bfloat16_on_a_cpu_only_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: True)
    assert choose_precision("cpu") == ("bfloat16", "")
    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    chosen, why = choose_precision("cpu")
    assert chosen == "float32"
    assert "no bfloat16 arithmetic" in why
    with pytest.raises(DeviceError, match="many times slower than float32"):
        choose_precision("cpu", "bfloat16")


def test_native_bfloat16_is_read_without_private_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    for flags, expected in (("avx2 amx_bf16", True), ("avx2 avx512f", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, f=flags, **_: f"flags : {f}\n")
        assert precision.native_bfloat16() is expected


def test_float16_on_a_cpu_is_refused() -> None:
    with pytest.raises(DeviceError, match="float16 is emulated on processors"):
        choose_precision("cpu", "float16")


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")],
)
def test_precision_by_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose_precision("cuda")[0] == expected
    if capability < (8, 0):
        with pytest.raises(DeviceError, match="has no bfloat16 arithmetic"):
            choose_precision("cuda", "bfloat16")


def test_compare_by_hand() -> None:
    reference = np.array([0.4, 0.52, 0.9, 0.1], np.float32).reshape(1, 1, 2, 2)
    other = np.array([0.4, 0.48, 0.8, 0.1], np.float32).reshape(1, 1, 2, 2)
    found = compare(reference, other, 0.5)
    assert found.difference == pytest.approx(0.1, abs=1e-6)
    assert found.turned == 0.25
    assert not found.good
    assert compare(reference, reference, 0.5) == Agreement(0.0, 0.0)
    two = np.concatenate([reference, 1 - reference], axis=1)
    assert compare(two, two[:, ::-1], None).turned == 1.0
    assert not compare(reference, np.full_like(reference, np.nan), 0.5).good


def test_probe_is_the_busiest_piece() -> None:
    x = np.zeros((2, 1, 512, 512), np.float32)
    x[1, 0, 300, 20] = 1.0
    assert probe_region(x, 4) == (
        slice(1, 2),
        slice(None),
        slice(256, 512),
        slice(0, 256),
    )


# Memory


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."), True),
        (RuntimeError("[enforce fail a"), True),
        (RuntimeError("[enforce fail at inline_container.cc:1] file not found"), False),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to ..."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: ...)"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_running_out_of_memory_looks_like(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


def test_peak_memory_sees_what_was_given_back() -> None:
    # Pages of its own, and many: the heap may hold freed memory that a small block would take
    # again, and may give some back while this is measured.
    with memory.PeakMemory() as peak, mmap.mmap(-1, 400 * 2**20) as block:
        for page in range(0, len(block), 4096):
            block[page] = 1
        latest = time.monotonic() + 10
        while peak.host_bytes < 2**28 and time.monotonic() < latest:
            time.sleep(0.01)  # on a busy machine the watching thread may come late
    assert 200 < peak.megabytes < 800


def test_estimate_of_the_papers_network() -> None:
    # 512² in float32 took 247 and 679 MiB at L1 and L4.
    config = NetworkConfig()
    for level, measured in ((1, 247), (4, 679)):
        estimate = memory.bytes_per_pixel(config, level, 4) * 512**2 / 2**20
        assert 0.67 < estimate / measured < 1.5


def test_pages_of_a_mapped_file_are_let_go(tmp_path: Path) -> None:
    data = np.memmap(tmp_path / "a.dat", np.uint8, "w+", shape=(32 * 2**20,))
    data[:] = 7
    data.flush()
    process = memory.psutil.Process()
    view = data[: 2**25]
    assert int(view[:: 2**12].sum()) == 7 * 2**13
    before = process.memory_info().rss
    release(view)
    assert before - process.memory_info().rss > 20 * 2**20
    assert int(data[:: 2**12].sum()) == 7 * 2**13  # still there, in the file


def test_private_changes_are_not_let_go(tmp_path: Path) -> None:
    path = tmp_path / "a.dat"
    path.write_bytes(bytes(2**16))
    data = np.memmap(path, np.uint8, "c")
    data[:] = 9
    release(data)
    release(np.zeros(3))
    assert int(data.min()) == 9


# The runner


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_runner_equals_the_plain_network(ndim: int, norm: str) -> None:
    model = make_model(ndim, norm)
    runner = Runner(model, FLOAT32)
    x = windows(2, 1, *(16,) * ndim)
    heads = []
    for level in (1, 2, 3, 4):
        with torch.no_grad():
            expected = torch.sigmoid(model.network(torch.from_numpy(x), level)).numpy()
        found = runner.probabilities(x, level)
        assert found.dtype == np.float32
        assert expected.std() > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-5)
        heads.append(found)
    np.testing.assert_allclose(runner.probabilities(x, "ensemble"), np.mean(heads, 0), atol=1e-6)
    assert runner.notes == []


def test_crop_is_a_part_of_the_window() -> None:
    runner = Runner(make_model(), FLOAT32)
    x = windows(1, 1, 16, 32)
    crop = (slice(2, 5), slice(20, 32))
    expected = runner.probabilities(x, 2)[:, :, 2:5, 20:32]
    assert np.array_equal(runner.probabilities(x, 2, crop), expected)


def test_levels_equal_single_runs_and_compute_each_node_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = Runner(make_model(), FLOAT32)
    x = windows(1, 1, 32, 32)
    expected = {k: runner.probabilities(x, k) for k in (1, 2, 3, 4)}
    ran = []
    plain = NestedUNet.node

    def counted(self: NestedUNet, node: tuple[int, int], *rest: object) -> torch.Tensor:
        ran.append(node)
        return plain(self, node, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(NestedUNet, "node", counted)
    counts = []
    for level, found in runner.levels(x):
        assert np.array_equal(found, expected[level])
        counts.append(len(ran))
    assert counts == [3, 6, 10, 15]
    assert len(set(ran)) == 15


def test_ensemble_and_levels_are_of_the_trained_heads() -> None:
    runner = Runner(make_model(trained=(1, 3)), FLOAT32)
    x = windows(1, 1, 16, 16)
    mean = (runner.probabilities(x, 1) + runner.probabilities(x, 3)) / 2
    np.testing.assert_allclose(runner.probabilities(x, "ensemble"), mean, atol=1e-6)
    assert [level for level, _ in runner.levels(x)] == [1, 3]
    assert (runner.stage_of("ensemble"), runner.stage_of(1)) == (3, 1)


@pytest.mark.parametrize("level", [2, 5, 0, True, "1", 1.0])
def test_an_untrained_level_names_the_trained_ones(level: object) -> None:
    runner = Runner(make_model(trained=(1, 3)), FLOAT32)
    with pytest.raises(InputError, match=r"was trained at level 1, 3, got .* or ensemble"):
        runner.probabilities(windows(1, 1, 16, 16), level)  # type: ignore[arg-type]


def test_the_model_is_not_changed() -> None:
    model = make_model(norm="batch")
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model.network.train()
    runner = Runner(model, BFLOAT16)
    runner.probabilities(windows(1, 1, 16, 16), 1)
    assert model.network.training
    after = model.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_bfloat16_is_checked_once_a_level_and_kept_when_it_agrees() -> None:
    runner = Runner(make_model(), BFLOAT16)
    x = windows(1, 1, 32, 32)
    exact = Runner(make_model(), FLOAT32).probabilities(x, 1)
    runner.agreements[1] = Agreement(0.0, 0.0)
    found = runner.probabilities(x, 1)
    assert 0 < np.abs(found - exact).max() < 0.1
    assert (runner.device.precision, runner.notes) == ("bfloat16", [])


def test_bfloat16_that_disagrees_falls_back_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", 1e-9)
    runner = Runner(make_model(), BFLOAT16)
    x = windows(1, 1, 32, 32)
    found = runner.probabilities(x, 2)
    assert np.array_equal(found, Runner(make_model(), FLOAT32).probabilities(x, 2))
    assert runner.precision_of(2) == "float32"
    assert [n.code for n in runner.notes] == ["precision-fallback"]
    assert runner.notes[0].message.endswith("of the pixels at L2, so float32 is used there.")
    assert 0 < runner.agreements[2].difference < 0.1


def test_a_level_that_disagrees_falls_back_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x = windows(1, 1, 32, 32)
    reduced, exact = Runner(make_model(), BFLOAT16), Runner(make_model(), FLOAT32)
    reduced.agreements |= {1: Agreement(0.0, 0.0), 3: Agreement(0.0, 0.0)}
    before = {k: reduced.probabilities(x, k) for k in (1, 3)}
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", 1e-9)
    assert np.array_equal(reduced.probabilities(x, 2), exact.probabilities(x, 2))
    for level in (1, 3):
        again = reduced.probabilities(x, level)
        assert np.array_equal(again, before[level])
        assert not np.array_equal(again, exact.probabilities(x, level))
    names = [reduced.precision_of(k) for k in (1, 2, 3)]
    assert names == ["bfloat16", "float32", "bfloat16"]
    assert len(reduced.notes) == 1


def test_levels_survive_a_fallback_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(make_model(), BFLOAT16)
    runner.agreements[1] = Agreement(0.0, 0.0)
    monkeypatch.setattr(precision, "MAX_DIFFERENCE", 1e-9)
    x = windows(1, 1, 32, 32)
    found = dict(runner.levels(x))
    exact = Runner(make_model(), FLOAT32)
    assert not np.array_equal(found[1], exact.probabilities(x, 1))
    for level in (2, 3, 4):
        np.testing.assert_allclose(found[level], exact.probabilities(x, level), atol=1e-6)


def test_to_cpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    runner = Runner(make_model(), BFLOAT16)
    runner.to_cpu("the GPU is full")
    assert (runner.device.kind, runner.device.precision) == ("cpu", "float32")
    assert [n.message for n in runner.notes] == ["the GPU is full; going on with the CPU."]


def test_seed_everything_repeats() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything(5)
        return random.random(), float(np.random.random()), float(torch.rand(1))

    assert draw() == draw()


@pytest.mark.gpu
def test_float32_on_a_gpu_is_float32() -> None:
    device = choose_device("cuda", "float32")
    x = windows(1, 1, 64, 64)
    expected = Runner(make_model(), FLOAT32).probabilities(x, 4)
    found = Runner(make_model(), device).probabilities(x, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_budget_of_a_gpu_counts_what_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        mem_get_info=lambda: (600, 1000),
        memory_reserved=lambda: 300,
        memory_allocated=lambda: 100,
    )
    monkeypatch.setattr(memory.torch, "cuda", cuda)
    assert memory.budget_bytes("cuda") == pytest.approx(0.8 * 800)
