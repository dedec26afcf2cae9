"""What the distribution promises: manifest, version, dependencies, scripts, contents."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from npe2 import PluginManifest
from packaging.requirements import Requirement

import napari_unetpp
from napari_unetpp.cli import options
from napari_unetpp.widget import settings


@pytest.fixture(scope="module")
def pyproject(repository_root: Path) -> dict[str, Any]:
    return tomllib.loads((repository_root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=repository_root, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_manifest_and_its_twin_are_equal(repository_root: Path) -> None:
    top = (repository_root / "napari.yaml").read_bytes()
    assert (repository_root / "napari_unetpp" / "napari.yaml").read_bytes() == top
    assert top.startswith(b"name: napari-unetpp\n")


@pytest.fixture(scope="module")
def manifest(repository_root: Path) -> PluginManifest:
    return PluginManifest.from_file(repository_root / "napari.yaml")


def test_manifest_names_functions_that_exist(manifest: PluginManifest) -> None:
    commands = manifest.contributions.commands or []
    assert len(commands) == len({c.id for c in commands}) >= 13
    for command in commands:
        module, name = str(command.python_name).split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_command_has_its_place(manifest: PluginManifest) -> None:
    parts = manifest.contributions
    assert [(w.command, w.display_name) for w in parts.widgets or []] == [
        ("napari-unetpp.dock", "UNet++")
    ]
    assert [i.command for i in parts.menus["napari/layers/segment"]] == ["napari-unetpp.dock"]
    samples = {s.command for s in parts.sample_data or []}
    assert len(samples) == 7
    # What is left is for the command palette.
    left = {c.id for c in parts.commands or []} - samples - {"napari-unetpp.dock"}
    names = ("run", "cancel", "level_up", "level_down", "toggle")
    assert left == {f"napari-unetpp.{name}" for name in names}


def test_preferences_of_the_manifest_are_those_that_are_read(manifest: PluginManifest) -> None:
    found = {
        (section, key): (about.default, about.enum)
        for section, contribution in (manifest.contributions.configurations or {}).items()
        for key, about in contribution.properties.items()
    }
    default = settings.Preferences()
    assert found == {
        ("computing", "device"): (default.device, list(settings.DEVICES)),
        ("computing", "precision"): (default.precision, list(settings.PRECISIONS)),
        ("computing", "threads"): (default.threads, None),
        ("live", "on_start"): (default.live, None),
        ("live", "megabytes"): (default.live_megabytes, None),
    }
    assert settings.DEVICES == options.DEVICES
    assert settings.PRECISIONS == options.PRECISIONS


def test_display_names_do_not_end_in_plus_signs(manifest: PluginManifest) -> None:
    # npe2 refuses such a name for the plug-in and for samples; a widget's may end so.
    names = [manifest.display_name]
    names += [s.display_name for s in manifest.contributions.sample_data or []]
    assert [n for n in names if n and not n[-1].isalnum() and n[-1] != ")"] == []


def test_installed_entry_points() -> None:
    points = importlib.metadata.distribution("napari-unetpp").entry_points
    found = {(p.group, p.name): p.value for p in points}
    assert found[("napari.manifest", "napari-unetpp")] == "napari_unetpp:napari.yaml"
    assert found[("console_scripts", "napari-unetpp")] == "napari_unetpp.cli.main:main"


def test_version_has_one_source(pyproject: dict[str, Any]) -> None:
    assert "version" not in pyproject["project"]
    assert importlib.metadata.version("napari-unetpp") == napari_unetpp.__version__


def test_base_install_has_no_viewer(pyproject: dict[str, Any]) -> None:
    base = {Requirement(r).name.lower() for r in pyproject["project"]["dependencies"]}
    assert {"torch", "numpy", "scipy", "scikit-image", "safetensors"} <= base
    banned = {"napari", "magicgui", "superqt", "qtpy", "pyqt5", "pyqt6", "pyside6", "vtk"}
    assert base & banned == set()


def test_simpleitk_is_nowhere(pyproject: dict[str, Any]) -> None:
    project = pyproject["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    assert [r for part in lists for r in part if "simpleitk" in r.lower()] == []


def test_all_means_every_extra(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all"}


def test_constraints_pin_every_direct_dependency(
    pyproject: dict[str, Any], repository_root: Path
) -> None:
    text = (repository_root / "scripts" / "constraints.txt").read_text(encoding="utf-8")
    pins = [Requirement(line) for line in text.splitlines() if line and line[0] != "#"]
    exact = {p.name.lower().replace("_", "-"): str(p.specifier) for p in pins}
    assert exact["torch"] == "==2.13.0"
    project = pyproject["project"]
    wanted = [*project["dependencies"], *pyproject["dependency-groups"]["test"]]
    wanted += [r for k, v in project["optional-dependencies"].items() if k != "all" for r in v]
    loose = {n for n in (Requirement(r).name.lower() for r in wanted) if n not in exact}
    assert loose == set()
    assert [n for n, s in exact.items() if not s.startswith("==")] == []


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/test", "scripts/demo", ".ci/run"])
def test_scripts_are_executable_and_parse(repository_root: Path, script: str) -> None:
    path = repository_root / script
    assert os.access(path, os.X_OK)
    assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_setup_refuses_without_a_fitting_python(repository_root: Path, tmp_path: Path) -> None:
    # A copy of the files that it reads, and a PATH whose only Python is an old one.
    (tmp_path / "scripts").mkdir()
    (tmp_path / "napari_unetpp").mkdir()
    read = ("pyproject.toml", "scripts/constraints.txt", "napari_unetpp/__init__.py")
    for name in (*read, "scripts/setup"):
        (tmp_path / name).write_bytes((repository_root / name).read_bytes())
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for tool in ("cat", "cksum", "cut", "dirname", "id", "rm"):
        found = shutil.which(tool)
        assert found is not None
        (bin_folder / tool).symlink_to(found)
    old = bin_folder / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.1\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", str(tmp_path / "scripts" / "setup")],
        env={"PATH": str(bin_folder), "DISPLAY": ":0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Python 3.11 to 3.14 is needed, found Python 3.8.1" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_wheel_contents(wheel: zipfile.ZipFile, repository_root: Path) -> None:
    names = wheel.namelist()
    assert len(names) == len(set(names))
    manifest = (repository_root / "napari.yaml").read_bytes()
    assert wheel.read("napari_unetpp/napari.yaml") == manifest
    assert "napari_unetpp/py.typed" in names
    shipped = {Path(n).name for n in names if n.startswith("napari_unetpp/models/")}
    there = {p.name for p in (repository_root / "napari_unetpp/models").glob("*.safetensors")}
    assert there <= shipped
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"napari_unetpp"}
    (licences,) = ({Path(n).name for n in names if "/licenses/" in n},)
    assert licences == {"LICENSE", "NOTICE"}
