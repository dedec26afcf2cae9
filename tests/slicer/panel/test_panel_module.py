"""The shipped ``UNetPP.py``: what Slicer loads, set-up, and parameters of a scene."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import slicer
from panel_helpers import pump
from pythonqt import ScriptedLoadableModuleWidget
from UNetPPLib import Setup
from UNetPPLib.Parameters import Parameters
from UNetPPLib.Widget import UNetPPWidget


def test_the_module_is_what_slicer_looks_for() -> None:
    import importlib

    module = importlib.import_module("UNetPP")

    class Parent:
        pass

    entry = module.UNetPP(Parent())
    assert entry.parent.title == "UNet++ Segmentation"
    assert issubclass(module.UNetPPWidget, ScriptedLoadableModuleWidget)
    assert module.UNetPPLogic.__name__ == "UNetPPLogic"
    assert hasattr(module.UNetPPTest, "runTest")


def test_loading_the_module_loads_neither_torch_nor_numpy() -> None:
    """Slicer's start-up time is everybody's; slicer-core itself loads NumPy nowhere."""
    code = """
import json, sys
sys.path[:0] = {path!r}
import types
import pythonqt
import slicer, slicer.util
before = set(sys.modules)
pythonqt.install()
import UNetPP
print(json.dumps(sorted({{m.partition(".")[0] for m in set(sys.modules) - before}})))
"""
    root = Path(__file__).resolve().parents[3]
    path = [str(root / "slicer_module"), str(root / "tests" / "slicer" / "standin")]
    done = subprocess.run(
        [sys.executable, "-c", code.format(path=path)],
        capture_output=True, encoding="utf-8", check=True, timeout=60,
    )  # fmt: skip
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "UNetPPLib" in loaded
    assert (
        loaded & {"torch", "numpy", "scipy", "napari_unetpp", "appose", "napari", "qtpy"} == set()
    )


def test_an_empty_scene_says_what_to_do(widget: Any) -> None:
    widget.ui.applyButton.click()
    assert widget.ui.statusLabel.text == "There is no volume: load a CT, or choose one."
    assert widget.ui.applyButton.toolTip == "There is no volume: load a CT, or choose one."
    widget.ui.finetuneButton.click()
    assert "load a CT" in widget.ui.statusLabel.text


def test_the_first_apply_asks_before_it_installs(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    installed: list[Any] = []
    there = False
    monkeypatch.setattr(Setup, "missing", lambda: [] if there else ["PyTorch", "appose"])
    monkeypatch.setattr(Setup, "install", lambda names, _: installed.append(names))
    answer = False

    def ask(text: str, **_: Any) -> bool:
        asked.append(text)
        return answer

    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask, raising=False)
    made = UNetPPWidget()
    made.setup()
    assert "will be installed with the first Apply" in made.ui.statusLabel.text
    assert asked == []
    made.ui.applyButton.click()
    assert "PyTorch, appose" in asked[0]
    assert installed == []
    assert made.ui.statusLabel.text == "Nothing was installed, so nothing can be segmented."
    answer = True
    monkeypatch.setattr(Setup, "install", lambda names, _: (installed.append(names), yes()))

    def yes() -> None:
        nonlocal there
        there = True

    made.ui.applyButton.click()
    assert installed == [["PyTorch", "appose"]]
    assert made.segment is not None  # the panel is alive now
    monkeypatch.setattr(made.logic, "close", lambda: None)
    made.cleanup()


def test_torch_is_tried_elsewhere_and_told(widget: Any) -> None:
    pump(widget, lambda: widget.torch is not None)
    assert widget.torch.works
    assert widget.ui.deviceLabel.text.startswith("PyTorch 2.")
    assert "torch" not in sys.modules
    widget.torch = Setup.TorchState(False, "PyTorch does not load.", "Repair it.")
    widget.ui.applyButton.click()
    assert widget.ui.statusLabel.text == "PyTorch does not load. Repair it."


def test_parameters_that_a_file_got_wrong_are_the_defaults(scene: Any) -> None:
    parameters = Parameters.of(scene)
    node = parameters.node
    for name, text in (("level", "9"), ("region", "moon"), ("slab", "nan"), ("classes", "[1]"),
                       ("protect", "perhaps")):  # fmt: skip
        node.SetParameter(name, text)
    assert (parameters.level, parameters.region, parameters.slab) == (4, "whole", 10.0)
    assert (parameters.classes, parameters.protect) == ({}, True)
    with pytest.raises(ValueError, match="7"):
        parameters.level = 7
    with pytest.raises(ValueError, match="vtkMRMLVolumeNode"):
        parameters.input_volume = node
    assert Parameters.of(scene).node is node
