"""``models``, ``variants``, ``doctor``, and what holds for every command."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

import napari_unetpp
from napari_unetpp.cli import doctor
from napari_unetpp.cli.common import table
from napari_unetpp.cli.main import COMMANDS, main
from napari_unetpp.core.model import cards, modelfile
from napari_unetpp.core.nn.variants import VARIANTS
from napari_unetpp.core.run.backends.choice import Choice


@pytest.fixture
def bundled(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Bundle two of the small models."""
    two = {"nuclei": models["nuclei"], "ct-head-neck": models["ct"]}
    monkeypatch.setattr(modelfile, "bundled_models", lambda: two)
    monkeypatch.setattr(cards, "bundled_models", lambda: two)
    return two


def test_models_lists_what_is_bundled(command, bundled: dict[str, Path]) -> None:
    lines = command("models").out.splitlines()
    size = bundled["nuclei"].stat().st_size / 1e6
    assert lines[0] == f"tiny-nuclei: 2D, nucleus ({size:.1f} MB, CC0)"
    assert lines[1].strip() == "Random weights for tests."
    assert lines[2].split() == ["level", "IoU", "AP50", "s/megapixel", "MiB"]
    assert lines[3].split() == ["L1", "–", "–", "–", "–"]
    assert lines[6].split() == ["L4", "0.875", "0.800", "0.250", "321"]
    assert any(line.startswith("tiny-ct: 3D, brainstem, spinal cord") for line in lines)


def test_models_json(command, bundled: dict[str, Path]) -> None:
    found = command("models", "--json").json
    assert [model["name"] for model in found] == ["tiny-nuclei", "tiny-ct"]
    assert found[0]["bytes"] == bundled["nuclei"].stat().st_size
    assert found[0]["path"] == str(bundled["nuclei"])
    assert found[0]["scores"]["4"] == {"iou_per_image": 0.875, "ap50": 0.8}
    assert found[0]["licence"] == "CC0"


def test_models_shows_one_card(command, bundled: dict[str, Path]) -> None:
    out = command("models", "nuclei").out
    assert "objects: separated" in out
    assert "split: held out: none" in out
    one = command("models", bundled["ct-head-neck"], "--json").json
    assert one["orientation"] == "SPL"
    assert one["spacing"] == [3.0, 2.5, 2.5]


def test_no_bundled_models(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelfile, "bundled_models", dict)
    monkeypatch.setattr(cards, "bundled_models", dict)
    assert command("models").out == "no models are bundled; train one with napari-unetpp train.\n"
    assert command("models", "--json").json == []


def test_variants_json_has_the_published_counts(command) -> None:
    found = {entry["key"]: entry for entry in command("variants", "--json").json}
    assert list(found) == list(VARIANTS)
    assert found["unet++-ds"]["parameters"] == 9_041_700
    assert found["unet++"]["parameters"] == 9_041_601
    assert found["vnet++"]["parameters"] == 26_198_273
    levels = found["unet++-ds"]["levels"]
    rounded = {k: round(v["multiply_accumulates"] / 1e9, 3) for k, v in levels.items()}
    assert rounded == {"1": 13.908, "2": 35.517, "3": 69.743, "4": 119.001}
    assert found["unet-l4"]["levels"]["4"]["parameters"] == 7_759_521


def test_variants_table(command) -> None:
    rows = {line.split()[0]: line for line in command("variants").out.splitlines() if line}
    assert rows["unet++-ds"].split()[-5:] == ["9,041,700", "13.91", "35.52", "69.74", "119.00"]
    assert rows["vnet"].split()[-2:] == ["22,575,329", "59.45"]


def test_doctor_json(command) -> None:
    found = command("doctor", "--json").json
    assert found["version"] == napari_unetpp.__version__
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["device"]["kind"] in {"cpu", "cuda", "mps"}
    assert found["device"]["reason"].endswith(".")
    assert found["device"]["threads"] == torch.get_num_threads()
    assert 0 < found["memory"]["free_gb"] <= found["memory"]["total_gb"]
    assert found["extras"]["zarr"]["install"] == 'pip install "napari-unetpp[zarr]"'


def test_doctor_shows_the_backend_and_how_fast_it_is(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("doctor", "--json").json["backend"]["reason"] == "PyTorch was asked for."
    choice = Choice("openvino", "OpenVINO computes.", {"torch": 0.4, "openvino": 0.2})
    monkeypatch.setattr("napari_unetpp.core.run.runtime.choose_backend", lambda *_: choice)
    out = command("doctor").out
    assert "backend:    openvino: OpenVINO computes.\n" in out
    assert "a megapixel of nuclei, deepest level: torch 0.4 s, openvino 0.2 s\n" in out


def test_doctor_says_how_to_get_what_is_missing(command, monkeypatch: pytest.MonkeyPatch) -> None:
    have = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda n: None if n == "openvino" else have(n))
    out = command("doctor").out
    assert 'missing openvino: pip install "napari-unetpp[cpu]"' in out


def test_doctor_survives_a_broken_torch(command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("libtorch_cpu.so: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "_device", broken)
    outcome = command("doctor")
    assert outcome.code == 0
    assert (
        "what to do: PyTorch cannot be loaded (libtorch_cpu.so: cannot open shared object file); "
        "install it again" in outcome.out
    )


def test_doctor_advises_a_gpu_build(command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "device": {"kind": "cpu", "precision": "float32"},
        "memory": {"free_gb": 1.0, "total_gb": 8.0},
        "models": {},
    }
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    advice = doctor._advice(found)
    assert [line.split(":")[0] for line in advice] == [
        "this machine seems to have an NVIDIA GPU",
        "level 4 takes its time on this processor",
        "only 1.0 GB of memory are free",
        "no model is bundled",
    ]


def test_help_names_every_command(command) -> None:
    outcome = command("--help")
    assert outcome.code == 0
    for name, summary in COMMANDS.items():
        assert f"    {name}" in outcome.out
        assert summary in outcome.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, command) -> None:
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert outcome.out.startswith(f"usage: napari-unetpp {name}")
    assert outcome.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{napari_unetpp.__version__}\n"


def test_table_aligns() -> None:
    text = table(["a", "bb"], [["long", "1"], ["x", "100"]])
    assert text == "a      bb\nlong    1\nx     100"
