"""An image through a model where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inference_helpers import FLOAT32, codes, model_of, pass_through, run, runner_of
from numpy.typing import NDArray

from napari_unetpp.core.config import Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.lazy import release
from napari_unetpp.core.errors import OutOfMemory
from napari_unetpp.core.events import TileDone, drain
from napari_unetpp.core.run import memory
from napari_unetpp.core.run.inference import (
    predict,
    predict_levels,
)
from napari_unetpp.core.run.runtime import Device, Runner


@pytest.fixture
def noise(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.random((50, 70), dtype=np.float32)


class Starved(Runner):
    """A runner whose device holds only so many pixels."""

    limit = 10**9
    error: Callable[[], Exception] = staticmethod(lambda: torch.OutOfMemoryError("full"))

    def probabilities(self, x: Any, *rest: Any, **more: Any) -> NDArray[np.float32]:
        if x[:, 0].size > self.limit and self.device.kind == type(self).starved_kind:
            raise self.error()
        return super().probabilities(x, *rest, **more)

    starved_kind = "cpu"


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("full"),
        lambda: MemoryError(),
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_tiles_are_halved_until_they_fit(
    error: Callable[[], Exception], noise: NDArray[np.float32]
) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit, runner.error = 40 * 40, error
    found, done, events = run(noise, "YX", runner)
    assert np.array_equal(found, noise > 0.5)
    assert codes(done) == ["smaller-tiles"]
    assert "halved to 26x36" in done.notes[0].message  # 50x70 did not fit, 34x44 does
    tiles = [e for e in events if isinstance(e, TileDone)]
    assert [t.done for t in tiles] == [1, 2, 3, 4]
    assert {t.total for t in tiles} == {4}


def test_batches_are_cut_before_tiles() -> None:
    array = np.random.default_rng(0).random((20, 32, 32), dtype=np.float32)
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit = 6 * 32 * 32
    found, done, _ = run(array, "TYX", runner)
    assert np.array_equal(found, array > 0.5)
    assert codes(done) == ["smaller-batches"] * 2  # 20, 10, 5
    assert done.n_tiles == 20


def test_nothing_fits(noise: NDArray[np.float32]) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit = 0
    with pytest.raises(OutOfMemory, match=r"smallest tile .10x10.* take a lower level"):
        run(noise, "YX", runner)


def test_the_cpu_comes_after_the_gpu(
    noise: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.device = Device("cuda", "pretended", "float32", "a test")
    runner.limit, type(runner).starved_kind = 0, "cuda"
    monkeypatch.setattr(memory, "budget_bytes", lambda kind: 1e9)
    monkeypatch.setattr(memory, "free_memory", lambda kind: None)
    monkeypatch.setattr("napari_unetpp.core.run.runtime.choose_device", lambda *_: FLOAT32)
    try:
        found, done, _ = run(noise, "YX", runner, tile=8)
    finally:
        Starved.starved_kind = "cpu"
    assert np.array_equal(found, noise > 0.5)
    assert done.device == "cpu"
    assert codes(done)[-1] == "fallback-cpu"
    assert set(codes(done)[:-1]) <= {"smaller-batches", "smaller-tiles"}


def test_other_errors_are_not_taken_for_memory(noise: NDArray[np.float32]) -> None:
    runner = Starved(model_of(pass_through()), FLOAT32)
    runner.limit, runner.error = 0, lambda: RuntimeError("sizes do not match")
    with pytest.raises(RuntimeError, match="sizes do not match"):
        run(noise, "YX", runner)


def test_levels_that_do_not_fit_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of()

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(runner.reference.network, "run_stages", full)
    with pytest.raises(OutOfMemory, match="a region of 8x8 does not fit"):
        next(predict_levels(np.zeros((8, 8)), runner))


@pytest.mark.slow
def test_memory_of_a_20000_pixel_wide_file_at_l1(tmp_path: Path) -> None:
    """400 megapixels, as a mapped file in and out, within 1.5 GB over the baseline."""
    size = 20_000
    shape = (size, size)
    image = np.memmap(tmp_path / "in.dat", np.uint16, "w+", shape=shape)
    for row in range(0, size, 1000):
        image[row : row + 1000] = (np.arange(size) % 1000)[None]
        image.flush()
    release(image)
    sink = np.memmap(tmp_path / "out.dat", np.uint8, "w+", shape=shape)
    runner = runner_of(pass_through(), normalisation=Normalisation("window", 0.0, 1000.0))
    with memory.PeakMemory() as peak:
        drain(predict(Image(image, "YX"), runner, sink, level=1))
    assert np.array_equal(sink[::4999], np.broadcast_to(np.arange(size) % 1000 > 500, (5, size)))
    assert peak.megabytes < 1500
