"""The benchmarks of cost, overlap and tiles run with tiny settings; no clock is asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_unetpp.core.errors import InputError

MODULES = ("measure", "script", "huge_image", "cost", "overlap", "tiles")


FAST = ["--precision", "float32"]


def test_the_slope_by_hand(bench: SimpleNamespace) -> None:
    assert bench.cost.slope_of([1, 4, 16], [3, 12, 48]) == pytest.approx(1.0)
    assert bench.cost.slope_of([1, 4, 16], [3, 6, 12]) == pytest.approx(0.5)
    assert bench.cost.slope_of([1, 10, 100], [2, 2, 2]) == pytest.approx(0.0, abs=1e-12)


def test_runs_double(bench: SimpleNamespace) -> None:
    assert bench.cost.parse_runs("1:512-4096,4:64") == {1: [512, 1024, 2048, 4096], 4: [64]}
    for text in ("1", "a:2", "1:0-4", ""):
        with pytest.raises(InputError, match="runs look like"):
            bench.cost.parse_runs(text)


def test_cost_from_file_to_file(
    bench: SimpleNamespace, run_json: Callable[..., Any], tmp_path: Path
) -> None:
    figure = tmp_path / "cost.png"
    argv = ["--runs", "1:64-128", "--repeats", "1", "--backend", "torch", "--figure", str(figure)]
    code, found = run_json(bench.cost, [*argv, *FAST])
    assert code == 0
    rows = found["levels"]["1"]["rows"]
    assert [(row["side"], row["tiles"]) for row in rows] == [(64, 1), (128, 1)]
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 for row in rows)
    assert figure.read_bytes()[:4] == b"\x89PNG"
    rows[1]["seconds"], rows[0]["seconds"] = 6.0, 1.0  # four times the pixels
    assert "| 128 | 0.02 | 1 | 1.50 |" in bench.cost.report(found)


def test_every_way_gives_the_same(
    bench: SimpleNamespace, run_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_UNETPP_BACKEND", "torch")
    argv = ["--size", "128", "--repeats", "1", "--late", "0.001"]
    code, found = run_json(bench.overlap, [*argv, *FAST])
    assert code == 0
    assert len(found["cases"]) == 4
    for ways in found["cases"].values():
        assert list(ways) == list(bench.overlap.WAYS)
        assert ways["neither"]["median"] == 1.0


def test_what_tiles_compute_is_counted(
    bench: SimpleNamespace, run_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench.tiles.QUICK_WINDOWS, 2, (32, 48))
    monkeypatch.setitem(bench.tiles.IMAGES, 2, (512,))
    argv = ["--quick", "--repeats", "1", "--backend", "torch"]
    code, found = run_json(bench.tiles, [*argv, *FAST])
    assert code == 0
    assert found["plans"]["1"] == [
        {"image": [512, 512], "core": [512, 512], "tiles": 1, "computed": 1.0, "largest": 2**18}
    ]
    assert [row["side"] for row in found["windows"]["4"]] == [32, 48]
    assert "| L1 | 512x512 | 512x512 | 1 | 1.00× | 0.26 |" in bench.tiles.report(found)
