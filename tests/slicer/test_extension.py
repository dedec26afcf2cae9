"""The extension as Slicer builds and loads it: lists of files, names, catalogue, set-up."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import time
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

from UNetPPLib import Setup

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "slicer_module"
LIBRARY = sorted((MODULE / "UNetPPLib").glob("*.py"))


def listed(name: str) -> set[str]:
    """Return a list of files of the module's CMakeLists.txt."""
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(rf"set\({name}\n(.*?)\n\)", text, re.DOTALL)
    assert found is not None
    return {line.strip().replace("${MODULE_NAME}", "UNetPP") for line in found[1].splitlines()}


def on_disk(*patterns: str) -> set[str]:
    return {
        path.relative_to(MODULE).as_posix()
        for pattern in patterns
        for path in MODULE.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_file_is_in_the_extension() -> None:
    assert listed("MODULE_PYTHON_SCRIPTS") == on_disk("*.py", "UNetPPLib/**/*.py")
    assert listed("MODULE_PYTHON_RESOURCES") == on_disk("Resources/**/*")


def test_the_extension_is_named_and_linked_as_the_index_wants_it() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    name = re.search(r"project\((\w+)", text)
    assert name is not None
    assert name[1] == "UNetPP"  # must not begin with "Slicer"
    values = dict(re.findall(r'set\((EXTENSION_\w+) "([^"]*)"\)', text))
    assert values["EXTENSION_DEPENDS"] == "PyTorch"
    assert "add_subdirectory(slicer_module)" in text
    for key in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS", "EXTENSION_HOMEPAGE"):
        for url in values[key].split():
            inside = re.split(r"/main/", url, maxsplit=1)[1]
            assert (ROOT / inside).is_file(), inside
    for key in ("EXTENSION_LICENSE_FILE", "EXTENSION_README_FILE"):
        assert (ROOT / values[key].removeprefix("${CMAKE_CURRENT_SOURCE_DIR}/")).is_file()

    entry = json.loads((MODULE / "UNetPP.json").read_text(encoding="utf-8"))
    allowed = {"$schema", "build_dependencies", "build_subdirectory", "category", "enabled",
               "scm_revision", "scm_type", "scm_url", "tier"}  # fmt: skip
    assert set(entry) <= allowed
    assert entry["category"] == values["EXTENSION_CATEGORY"]
    assert entry["build_dependencies"] == values["EXTENSION_DEPENDS"].split()
    assert entry["scm_url"].endswith(".git")


def top_imports(path: Path) -> set[str]:
    """Return what a module imports when it is loaded, the first part of each name."""
    found: set[str] = set()

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            if isinstance(node, ast.Import):
                found.update(a.name.partition(".")[0] for a in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
            elif isinstance(node, (ast.If, ast.Try)):
                guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
                if not guarded:
                    visit(node.body)

    visit(ast.parse(path.read_text(encoding="utf-8")).body)
    return found


@pytest.mark.parametrize("path", [MODULE / "UNetPP.py", *LIBRARY], ids=lambda p: p.stem)
def test_no_module_loads_numpy_torch_or_the_package_at_its_top(path: Path) -> None:
    heavy = {"numpy", "torch", "scipy", "napari_unetpp", "appose", "SimpleITK", "napari", "qtpy"}
    assert top_imports(path) & heavy == set()
    with_windows = {"UNetPP", "Widget", "TeachPanel"}
    if path.stem not in with_windows:
        assert top_imports(path) & {"qt", "ctk", "PythonQt"} == set()


def test_every_widget_that_the_code_names_is_in_the_ui_and_the_other_way_round() -> None:
    tree = ElementTree.parse(MODULE / "Resources" / "UI" / "UNetPP.ui")
    widgets = {w.get("name"): w.get("class") for w in tree.iter("widget")}
    code = "".join(path.read_text(encoding="utf-8") for path in LIBRARY)
    named = set(re.findall(r"\bui\.(\w+)", code))
    assert named <= set(widgets)
    acting = {n for n, kind in widgets.items() if kind not in ("QLabel", "qMRMLWidget",
                                                               "ctkCollapsibleButton")}  # fmt: skip
    assert acting <= named
    selectors = {n for n, kind in widgets.items() if kind == "qMRMLNodeComboBox"}
    wired = {c.findtext("receiver") for c in tree.iter("connection")}
    assert wired == selectors
    for widget in tree.iter("widget"):
        if widget.get("class") in ("QLabel", "qMRMLWidget", "ctkCollapsibleButton"):
            continue
        tips = [p for p in widget.findall("property") if p.get("name") == "toolTip"]
        assert tips or widget.get("class") == "QProgressBar", widget.get("name")


def test_the_icon_has_the_size_that_the_index_asks_for() -> None:
    data = (MODULE / "Resources" / "Icons" / "UNetPP.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert tuple(int.from_bytes(data[k : k + 4], "big") for k in (16, 20)) == (128, 128)


@pytest.mark.parametrize("name", ["figures", "figures_table", "models", "drafts"])
def test_what_napari_and_slicer_share_needs_no_qt(name: str) -> None:
    code = (
        f"import sys, napari_unetpp.widget.{name}\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & "
        "{'torch', 'qtpy', 'napari', 'PyQt6', 'PySide6'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


# Set-up


def torch_says(**values: Any) -> str:
    found = {"version": "2.9.1", "cuda": False, "built": "", "device": "", "mps": False}
    return "noise of a library\n" + json.dumps({**found, **values})


@pytest.mark.parametrize(
    ("text", "gpu", "works", "words"),
    [
        (torch_says(), False, True, "PyTorch 2.9.1 on the CPU."),
        (torch_says(cuda=True, device="RTX 4090"), True, True, "PyTorch 2.9.1 on RTX 4090."),
        (torch_says(), True, True, "there is a GPU, but this PyTorch is a build for CPUs"),
        (torch_says(built="12.8"), True, True, "wants CUDA 12.8, which the driver does not offer"),
        (torch_says(mps=True), False, True, "on the GPU of this Mac"),
        (torch_says(version="2.3.1+cu121"), False, False, "2.3.1+cu121 is too old; 2.4 or newer"),
        (json.dumps({"error": "ImportError: c10.dll", "missing": False}), False, False, "c10.dll"),
        (json.dumps({"error": "…", "missing": True}), False, False, "PyTorch is not installed."),
        ("", False, False, "ended its process (exit code -11)"),
    ],
)  # fmt: skip
def test_what_trying_torch_says(text: str, gpu: bool, works: bool, words: str) -> None:
    state = Setup.torch_state(text, -11 if not text else 0, lambda: gpu)
    assert state.works is works
    assert words in state.text
    assert bool(state.repair) is (not works or "but" in state.text)


def probe_until_done(probe: Setup.TorchProbe) -> Setup.TorchState:
    end = time.monotonic() + 120
    while (state := probe.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return state


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    state = probe_until_done(Setup.TorchProbe(str(tmp_path / "no python")))
    assert not state.works
    assert "could not be tried" in state.text


@pytest.mark.skipif(os.name != "posix", reason="a script as interpreter")
def test_a_torch_that_crashes_does_not_take_slicer_along(tmp_path: Path) -> None:
    python = tmp_path / "Python crashes é"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    state = probe_until_done(Setup.TorchProbe(str(python)))
    assert not state.works
    assert "exit code -11" in state.text
    assert "PyTorch Utils" in state.repair


class Pip:
    """Stands for slicer.util or slicer.packaging; keeps what was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], str]] = []

    def pip_install(self, words: list[str], constraints: str = "") -> None:
        if words[0] == "--constraint":
            constraints, words = words[1], words[2:]
        self.calls.append((list(words), Path(constraints).read_text(encoding="utf-8")))


@pytest.mark.parametrize("modern", [True, False], ids=["slicer.packaging", "slicer.util"])
def test_pip_gets_our_needs_and_keeps_slicers_packages(
    modern: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip()
    if modern:
        packaging = types.ModuleType("slicer.packaging")
        packaging.pip_install = pip.pip_install  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    else:
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(Setup, "missing", lambda: [])
    versions = {"SimpleITK": "2.5.0rc2.dev1", "numpy": "2.0.2", "torch": "2.9.1+cu128"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(Setup.importlib.metadata, "version", version)
    Setup.install(["napari-unetpp", "appose"], types.SimpleNamespace(util=pip))
    ((words, constraints),) = pip.calls
    assert constraints.split() == [
        "SimpleITK==2.5.0rc2.dev1", "numpy==2.0.2", "torch==2.9.1+cu128",
    ]  # fmt: skip
    names = {re.split(r"[<>=\[;]", word)[0].lower() for word in words}
    assert "appose" in names
    assert names & {"napari", "qtpy", "pyqt6", "pyside6", "simpleitk", "torch", "superqt"} == set()


def test_outside_of_a_checkout_the_package_itself_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Setup, "checkout", lambda: None)
    assert Setup.requirement() == ["napari-unetpp>=0.1"]


def test_torch_comes_through_the_pytorch_extension_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    class Utils:
        def installTorch(self, **options: Any) -> Any:
            asked.append(options)
            return None if len(asked) > 1 else object()

    module = types.ModuleType("PyTorchUtils")
    module.PyTorchUtilsLogic = Utils  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    pip = Pip()
    Setup.install_torch(types.SimpleNamespace(util=pip))
    assert asked == [{"askConfirmation": False, "torchVersionRequirement": ">=2.4"}]
    assert pip.calls == []
    with pytest.raises(OSError, match="open its module PyTorch Utils"):
        Setup.install_torch(types.SimpleNamespace(util=pip))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    Setup.install_torch(types.SimpleNamespace(util=pip))
    assert pip.calls[0][0] == ["torch>=2.4"]


def test_what_could_not_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setup, "pip", lambda *_: None)
    monkeypatch.setattr(Setup, "missing", lambda: ["appose"])
    with pytest.raises(OSError, match="appose could not be installed"):
        Setup.install(["napari-unetpp", "appose"], None)


def test_the_question_says_what_and_how_much() -> None:
    text = Setup.question(["PyTorch", "appose"])
    assert "PyTorch, appose" in text
    assert "gigabytes" in text
    assert "stay as they are" in text
    assert "gigabytes" not in Setup.question(["appose"])
    assert Setup.missing() == []


def test_the_self_test_compiles_and_uses_what_there_is() -> None:
    path = MODULE / "Testing" / "Python" / "UNetPPSelfTest.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert {"run", "made_ct"} <= names
    lists = (MODULE / "Testing" / "Python" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert path.name in lists
