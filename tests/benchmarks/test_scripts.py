"""The benchmarks run with tiny settings; what holds whatever the clock says is asserted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.modelfile import save_model
from napari_unetpp.core.nn.network import NestedUNet

MODULES = ("measure", "script", "levels", "huge_image", "scores")
CPU = ["--device", "cpu"]


def tiny_card(split: str = "") -> ModelCard:
    return ModelCard(
        name="tiny",
        network=NetworkConfig(filters=(8, 8, 8, 8, 8)),
        classes=(ClassInfo("nucleus"),),
        split=split,
    )


# measure ---------------------------------------------------------------------------------


def test_ratios_compare_within_a_round_and_rounds_turn_around(bench: SimpleNamespace) -> None:
    order: list[str] = []
    jobs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    assert {k: len(v) for k, v in bench.measure.interleaved(jobs, 3).items()} == {"a": 3, "b": 3}
    assert order == ["a", "b", "b", "a", "a", "b"]
    found = bench.measure.ratios({"a": [1.0, 10.0, 4.0], "b": [2.0, 5.0, 4.0]}, "b")
    # Medians of 0.5, 2, 1: a machine that was ten times slower in one round changes nothing.
    assert (found["a"].median, found["a"].low, found["a"].high) == (1.0, 0.5, 2.0)
    assert str(found["a"]) == "1.000 (0.500–2.000)"
    assert str(found["b"]) == "1.000"


def test_rounds_end_at_the_deadline_but_for_the_first(bench: SimpleNamespace) -> None:
    jobs = {"a": lambda: None}
    assert [len(bench.measure.interleaved(jobs, 4, deadline=end)["a"]) for end in (0.0, 1e12)] == [
        1, 4
    ]  # fmt: skip


def test_peak_memory_is_that_of_the_job_and_its_result_comes_back(bench: SimpleNamespace) -> None:
    peak, result = bench.measure.peak_mib(lambda: np.ones(2**25, np.uint8).sum(dtype=np.int64))
    assert result == 2**25
    assert 32 <= peak < 64


def test_sizes_are_parsed_or_refused(bench: SimpleNamespace) -> None:
    assert bench.measure.parse_sizes("512x256, 8x8x16") == [(512, 256), (8, 8, 16)]
    for text in ("512", "512x0", "axb", "1x2x3x4", ""):
        with pytest.raises(InputError, match="a size looks like 512x512"):
            bench.measure.parse_sizes(text)


def test_images_lie_on_the_models_grid(bench: SimpleNamespace) -> None:
    measure = bench.measure
    plane = measure.image_for(measure.CARDS["nuclei"], (520, 510)).data
    assert plane.shape == (520, 510)
    np.testing.assert_array_equal(plane[500:], plane[:20])
    volume = measure.image_for(measure.CARDS["ct-head-neck"], (16, 16, 32))
    assert volume.shape == (16, 16, 32)
    assert volume.spacing == (3.0, 4.0, 4.0)
    assert volume.data.min() < -900 < 0 < volume.data.max()


def test_an_unknown_network_is_refused(bench: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"one of ct-head-neck, nuclei, paper, got 'unet'"):
        bench.measure.model_for("unet")


# levels ----------------------------------------------------------------------------------


def test_levels_of_the_papers_network(bench: SimpleNamespace, run_json: Callable[..., Any]) -> None:
    argv = ["--networks", "paper", "--sizes", "32x48,16x16x16", "--repeats", "1", "--threads", "1"]
    code, found = run_json(bench.levels, [*argv, *CPU])
    assert code == 0
    assert found["machine"]["threads"] == 1
    (case,) = found["cases"]  # a 2D network is not run on the volume
    assert (case["network"], case["weights"], case["shape"]) == ("paper", "fresh", [32, 48])
    assert not case["eager_tiled"]
    rows = case["levels"]
    work = {level: row["multiply_accumulates"] for level, row in rows.items()}
    assert work == pytest.approx(
        {"1": 0.1169, "2": 0.2985, "3": 0.5861, "4": 1.0, "ensemble": 1.0}, abs=5e-5
    )
    assert rows["4"]["eager"]["time"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    for row in rows.values():
        assert row["eager"]["time"]["low"] > 0
        assert row["float32"]["time"]["low"] > 0
        assert row["float32"]["difference"] <= 1e-5
        assert row["float32"]["turned"] == 0
    assert rows["4"]["eager"]["peak_mib"] > 0
    assert rows["4"]["float32"]["peak_mib"] > 0
    assert case["eager_deepest_seconds"]["median"] > 0
    deeper = case["going_deeper"]
    assert deeper["largest_difference"] == 0
    assert deeper["deepest"]["time"]["median"] == 1.0
    assert deeper["kept nodes"]["work"] == pytest.approx(1.0002, abs=5e-5)
    assert deeper["one by one"]["work"] == pytest.approx(2.0014, abs=5e-5)
    assert deeper["one by one"]["time"]["low"] > 0
    text = bench.levels.report(found)
    assert "**paper** (fresh weights), 32x48; 1 = eager float32 at the deepest level" in text
    assert "| L1 | 0.117 |" in text
    assert text.count("\n| ") == 1 + 5 + 1 + 1 + 3 + 1  # two tables with header and rule


def test_levels_of_a_3d_network(
    bench: SimpleNamespace, run_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = NetworkConfig(ndim=3, filters=(4, 8, 8, 8, 8), out_channels=2, norm="batch")
    classes = (ClassInfo("a"), ClassInfo("b"))
    card = ModelCard("tiny", network, classes, "ZYX", spacing=(3.0, 4.0, 4.0), orientation="SPL")
    monkeypatch.setitem(bench.measure.CARDS, "tiny", card)
    argv = ["--networks", "tiny", "--sizes", "16x16x32,32x32", "--repeats", "2"]
    code, found = run_json(bench.levels, [*argv, *CPU])
    assert code == 0
    (case,) = found["cases"]
    assert case["shape"] == [16, 16, 32]
    rows = case["levels"]
    works = [rows[level]["multiply_accumulates"] for level in "1234"]
    assert works == sorted(works)
    assert works[3] == 1.0
    for row in rows.values():
        assert row["float32"]["difference"] <= 1e-5
        assert row["float32"]["time"]["low"] <= row["float32"]["time"]["high"]
    assert case["going_deeper"]["largest_difference"] == 0


@pytest.mark.parametrize("level", [1, 2, 3, 4, "ensemble"])
def test_a_tiled_baseline_is_the_same_baseline(bench: SimpleNamespace, level: int | str) -> None:
    torch.manual_seed(0)
    card = tiny_card()
    network = NestedUNet(card.network).eval()
    x = torch.rand(1, 1, 272, 48)
    whole = bench.levels.Plain(network, card, x, None)(level)
    tiled = bench.levels.Plain(network, card, x, 32)(level)
    assert whole.std() > 0
    np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_a_precision_that_was_not_used_is_told(bench: SimpleNamespace) -> None:
    one = {"time": {"median": 1.0, "low": 1.0, "high": 1.0}, "peak_mib": 1.0,
           "difference": 0.01, "turned": 0.002}  # fmt: skip
    row = {"multiply_accumulates": 1.0, "eager": one, "bfloat16": {**one, "ran_in": "float32"}}
    case = {"network": "n", "weights": "bundled", "shape": [16, 16], "eager_tiled": True,
            "levels": {"ensemble": row}}  # fmt: skip
    text = "\n".join(bench.levels._case_lines(case))
    assert "bfloat16 did not agree with float32 here and was not used." in text
    assert "| ensemble | 1.000 | 1.000 | 1 | 1.000 | 1 | 0.01 | 0.200 % |" in text
    assert "tiled, since the whole does not fit" in text
    row["bfloat16"]["ran_in"] = "bfloat16"
    assert "did not agree" not in "\n".join(bench.levels._case_lines(case))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sizes", "40x40", "--networks", "paper"], "sizes must be multiples of 16"),
        (["--networks", "vnet"], "a network to measure is one of"),
        (["--sizes", "40"], "a size looks like 512x512"),
        (["--threads", "0"], "threads must be at least 1"),
    ],
)
def test_levels_refuses_what_it_cannot_measure(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    assert bench.levels.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


# huge_image ------------------------------------------------------------------------------


@pytest.fixture
def tiny_nuclei(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the benchmark of the huge image run a network that takes no time."""
    monkeypatch.setitem(bench.measure.CARDS, "tiny", tiny_card())


HUGE = ["--model", "tiny", "--size", "601", "--windows", "2", "--precision", "float32"]


@pytest.mark.usefixtures("tiny_nuclei")
def test_huge_image_is_bounded_and_exact(
    bench: SimpleNamespace, run_json: Callable[..., Any], tmp_path: Path
) -> None:
    large = [*HUGE, "--size", "1201", "--folder", str(tmp_path)]
    code, found = run_json(bench.huge_image, [*large, *CPU])
    assert code == 0
    assert found["tiles"] > 1
    assert found["megapixels"] == pytest.approx(1.442401)
    assert found["pixels_different"] == 0
    assert found["pixels_checked"] >= 4 * 512 * 512
    assert 0 < found["foreground_share"] < 1  # else equal labels would say nothing
    assert 0 < found["peak_mib"] < found["aim_mib"]
    assert list(tmp_path.iterdir()) == []
    text = bench.huge_image.report(found)
    assert "| labels that differ | 0 |" in text
    assert "1201x1201 uint16, 3 MiB" in text


@pytest.mark.usefixtures("tiny_nuclei")
def test_huge_image_notices_a_wrong_label(
    bench: SimpleNamespace, run_json: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = bench.huge_image.segment

    def one_pixel_wrong(path: Path, out: Path, runner: object, level: int) -> object:
        result = honest(path, out, runner, level)
        labels = tifffile.memmap(out, mode="r+")
        labels[600, 600] = 1 - labels[600, 600]
        labels.flush()
        return result

    monkeypatch.setattr(bench.huge_image, "segment", one_pixel_wrong)
    code, found = run_json(bench.huge_image, [*HUGE, "--windows", "0", *CPU])
    assert code == 1
    assert found["pixels_different"] == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_huge_image_has_no_two_neighbouring_blocks_alike(
    bench: SimpleNamespace, tmp_path: Path, dtype: str
) -> None:
    bench.huge_image.write_image(tmp_path / "a.tif", 1100, dtype)
    image = tifffile.imread(tmp_path / "a.tif")
    assert image.shape == (1100, 1100)
    assert image.dtype == dtype
    tops = [[int(image[y : y + 500, x : x + 500].max()) for x in (0, 500)] for y in (0, 500)]
    full = 255 if dtype == "uint8" else 4095
    assert tops == [
        [round(0.6 * full), round(0.7 * full)],
        [round(0.8 * full), round(0.9 * full)],
    ]


# scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("470 images; held out: a1, b2, c3.", ("a1", "b2", "c3")),
        ("Split by name. held out: pt_2. The rest was trained on.", ("pt_2",)),
    ],
)
def test_held_out_names_come_from_the_card(
    bench: SimpleNamespace, split: str, names: tuple[str, ...]
) -> None:
    assert bench.scores.held_out(tiny_card(split)) == names


def test_a_card_without_held_out_names_is_refused(bench: SimpleNamespace) -> None:
    with pytest.raises(InputError, match=r"expected to say 'held out: a, b, c\.', got 'none'"):
        bench.scores.held_out(tiny_card("none"))


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder of three images in two modalities and a model that held out two."""
    folder = tmp_path / "nuclei"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for seed, name in enumerate("abc"):
        phantom = nuclei_2d((48, 48), count=4, seed=seed)
        tifffile.imwrite(folder / "images" / f"{name}.tif", phantom.image)
        tifffile.imwrite(folder / "masks" / f"{name}.tif", phantom.labels)
    (folder / "metadata.csv").write_text("name,modality\na,stained\nb,dark\nc,dark\n")
    torch.manual_seed(0)
    card = tiny_card("two of three; held out: a, c.")
    return tmp_path, save_model(tmp_path / "m.safetensors", NestedUNet(card.network), card)


def test_scores_by_modality(
    bench: SimpleNamespace, run_json: Callable[..., Any], scored: tuple[Path, Path]
) -> None:
    data, model = scored
    argv = ["--models", "nuclei", "--model-file", str(model), "--data", str(data)]
    code, (found,) = run_json(bench.scores, [*argv, *CPU])
    assert code == 0
    groups = found["groups"]
    assert {name: one["n_images"] for name, one in groups.items()} == {
        "all": 2, "dark": 1, "stained": 1
    }  # fmt: skip
    for level in ("1", "2", "3", "4", "ensemble"):
        parts = [groups[g]["levels"][level]["iou_per_image"] for g in ("dark", "stained")]
        assert groups["all"]["levels"][level]["iou_per_image"] == pytest.approx(sum(parts) / 2)
    text = bench.scores.report(found)
    iou = groups["dark"]["levels"]["1"]["iou_per_image"]
    assert f"| dark (1) | L1 | {iou:.3f} |" in text
    assert text.count("| ensemble |") == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--models", "liver"], "a model is one of nuclei, ct-head-neck, got 'liver'"),
        (["--models", "nuclei", "--data", "/nowhere"], "/nowhere"),
    ],
)
def test_scores_refuses_what_it_cannot_score(
    bench: SimpleNamespace,
    capsys: pytest.CaptureFixture[str],
    scored: tuple[Path, Path],
    argv: list[str],
    message: str,
) -> None:
    assert bench.scores.main(["--model-file", str(scored[1]), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_held_out_image_that_is_missing_is_named(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str], scored: tuple[Path, Path]
) -> None:
    data, model = scored
    for part in ("images", "masks"):
        (data / "nuclei" / part / "c.tif").unlink()
    argv = ["--models", "nuclei", "--model-file", str(model), "--data", str(data)]
    assert bench.scores.main(argv) == 2
    assert "1 held-out image(s) are not in" in capsys.readouterr().err
