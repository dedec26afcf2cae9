"""The benchmark of training: its parts train alike, and it says what it compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tifffile

from napari_unetpp.core.data.phantoms import nuclei_2d

MODULES = ("measure", "script", "plain_loop", "training")


@pytest.fixture
def quick(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the scripts with a case that takes no time."""
    case = bench.training.CASES["nuclei"]
    network = replace(case.card.network, filters=(4, 6, 8))
    small = replace(
        case,
        card=case.card.replace(network=network, levels_trained=(1, 2)),
        config=replace(case.config, batch=2, patch=(32, 32)),
    )
    monkeypatch.setitem(bench.training.CASES, "nuclei", small)
    return bench


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of four small images with their objects."""
    for part in ("images", "masks"):
        (tmp_path / "nuclei" / part).mkdir(parents=True)
    for seed, name in enumerate("abcd"):
        phantom = nuclei_2d((64, 64), count=6, seed=seed)
        tifffile.imwrite(tmp_path / "nuclei" / "images" / f"{name}.tif", phantom.image)
        tifffile.imwrite(tmp_path / "nuclei" / "masks" / f"{name}.tif", phantom.labels)
    return tmp_path


def test_every_loop_is_timed_beside_the_plain_one(
    quick: SimpleNamespace, data: Path, run_json: Callable[..., Any]
) -> None:
    argv = ["--data", str(data), "--quick", "--threads", "1", "--pause", "0", "--device", "cpu"]
    code, document = run_json(quick.training, argv)
    assert code == 0
    loops = document["speed"]["nuclei"]["loops"]
    assert next(iter(loops)) == "plain"
    assert {"next batch in a thread", "channels last", "fused AdamW", "ours"} <= set(loops)
    assert loops["plain"]["faster"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    for row in loops.values():
        assert row["faster"]["low"] > 0
        assert row["less_processor_time"]["low"] > 0
    text = quick.training.report(document)
    assert "**nuclei**, batches of 2 patches of 32x32" in text
    assert "| plain | " in text
    assert document["scores"] is None


def test_parts_change_the_speed_and_not_the_training(quick: SimpleNamespace, data: Path) -> None:
    args = SimpleNamespace(data=data, images=4, held_out=0.3)
    case = quick.training.CASES["nuclei"]
    found = quick.training.prepared(args, case, data / "cache")
    config = replace(case.config, steps=100)
    weights = {}
    for label, parts in quick.training.parts_of(native=False, compiled=False).items():
        loop = quick.plain_loop.Loop(quick.training.sampler_of(found, case, config), config, parts)
        loop.run(3)
        loop.close()
        weights[label] = loop.network.state_dict()["nodes.x0_0.0.weight"].contiguous()
    start = quick.plain_loop.Loop(
        quick.training.sampler_of(found, case, config), config, quick.plain_loop.Parts()
    )
    start.close()
    plain = weights.pop("plain")
    moved = (plain - start.network.state_dict()["nodes.x0_0.0.weight"]).abs().max()
    assert moved > 1e-4
    for label, other in weights.items():
        # AdamW's first steps are as long for the least gradient as for the greatest, so
        # rounding shows; a wrong batch or rate would show a hundred times more.
        assert (other - plain).abs().mean() < 0.05 * moved, label


def test_scores_are_of_both_ways(
    quick: SimpleNamespace, data: Path, run_json: Callable[..., Any]
) -> None:
    argv = ["--data", str(data), "--networks", "", "--seeds", "2", "--score-steps", "2"]
    code, document = run_json(quick.training, [*argv, "--device", "cpu"])
    assert code == 0
    found = document["scores"]
    assert set(found["iou"]) == {"plain", "ours"}
    for by_level in found["iou"].values():
        assert set(by_level) == {"1", "2", "3", "4"}
        assert all(0 <= row["mean"] <= 1 and row["deviation"] >= 0 for row in by_level.values())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data", "/nowhere"], "see sample_data/README.md, or give their folder"),
        (["--networks", "liver"], "a network is one of nuclei, ct-head-neck, got 'liver'"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert bench.training.main(argv) == 2
    assert message in capsys.readouterr().err
