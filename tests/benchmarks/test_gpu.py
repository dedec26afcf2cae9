"""Everything that a GPU is for, small: on a processor always, on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

MODULES = ("measure", "script", "painter", "gpu")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_part_is_there(
    bench: SimpleNamespace, run_json: Callable[..., Any], device: str
) -> None:
    code, found = run_json(bench.gpu, ["--quick", "--device", device])
    assert code == 0
    levels = [1, 2, 3, 4]
    rows = found["throughput"]["96"]
    assert [row["level"] for row in rows] == levels
    assert all(row["images_per_second"] > 0 and 1 <= row["batch"] <= 4 for row in rows)
    assert [row["level"] for row in found["papers"]["rows"]] == levels
    assert found["papers"]["rows"][-1]["of_deepest"] == 1.0
    assert [int(k) for k in found["live"]["levels"]] == levels
    assert found["tuning"]["steps"] >= 1
    assert 0.5 < found["tuning"]["base"] < 1
    text = bench.gpu.report(found)
    low = found["little_memory"]
    assert (low is None) is (device == "cpu")
    if low is not None:
        assert low["labels_different"] <= 1e-4 * low["pixels"]
        assert "A quarter of the memory" in text
    assert "**16 images of 96 x 96**" in text


def test_the_batch_grows_while_it_pays(bench: SimpleNamespace, monkeypatch: Any) -> None:
    tried: list[int] = []
    seconds = {1: 1.0, 2: 1.1, 4: 1.3, 8: 2.6, 16: 5.2}

    def timed(jobs: dict[str, Callable[[], Any]], *_: Any) -> dict[str, list[float]]:
        jobs[""]()
        return {"": [seconds[tried[-1]]]}

    monkeypatch.setattr(bench.gpu, "interleaved", timed)
    assert bench.gpu.fullest(tried.append, "cpu", 64) == (4, 4 / 1.3)
    assert max(tried) == 16  # twice in a row twice as large and no faster

    def full(count: int) -> None:
        if count > 2:
            raise MemoryError
        tried.append(count)

    assert bench.gpu.fullest(full, "cpu", 64)[0] == 2
