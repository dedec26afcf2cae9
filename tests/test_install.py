"""The plug-in is found after a wheel install and after an editable install, and is whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

# Run by the Python of a fresh environment, in an empty folder.
LOOK = """
import importlib, json
from pathlib import Path
import napari_unetpp
from npe2 import PluginManager

manager = PluginManager.instance()
manager.discover()
manifest = manager.get_manifest("napari-unetpp")
parts = manifest.contributions
missing = []
for command in parts.commands:
    module, name = command.python_name.split(":")
    try:
        if not callable(getattr(importlib.import_module(module), name)):
            missing.append(command.python_name)
    except (ImportError, AttributeError) as error:
        missing.append(f"{command.python_name}: {error}")
(image, about, kind), (labels, _, _) = parts.sample_data[0].open()
print(json.dumps({
    "package": str(Path(napari_unetpp.__file__).parent),
    "version": manifest.package_version,
    "commands": [c.id for c in parts.commands],
    "missing": missing,
    "widgets": [(w.command, w.display_name) for w in parts.widgets],
    "menus": {key: [m.command for m in items] for key, items in parts.menus.items()},
    "samples": [s.key for s in parts.sample_data],
    "settings": {key: sorted(c.properties) for key, c in parts.configurations.items()},
    "sample": [kind, list(image.shape), list(labels.shape)],
}))
"""

WIDGET = [["napari-unetpp.dock", "UNet++"]]
SETTINGS = {"computing": ["device", "precision", "threads"], "live": ["megabytes", "on_start"]}
SAMPLES = {
    "nuclei_2d", "nuclei_3d", "stained_tissue", "immunohistochemistry", "nuclei_timelapse",
    "ct_phantom", "painted_strokes",
}  # fmt: skip


def fresh_environment(folder: Path) -> Path:
    """Make an environment that sees our libraries but not our own editable install."""
    venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(folder)
    variables = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", variables))
    # Paths in a .pth file come last and their own .pth files are not read.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    name = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return folder / name


def install(python: Path, *what: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    command += ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", *what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def look(python: Path, folder: Path) -> dict[str, Any]:
    """Return what npe2 finds from `python`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", LOOK],
        cwd=folder,
        env={**environment, "QT_QPA_PLATFORM": "offscreen"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, Any]) -> None:
    from napari_unetpp import __version__

    assert found["version"] == __version__
    assert found["missing"] == []
    assert found["widgets"] == WIDGET
    assert found["menus"] == {"napari/layers/segment": ["napari-unetpp.dock"]}
    assert set(found["samples"]) == SAMPLES
    assert found["settings"] == SETTINGS
    assert found["sample"] == ["image", [384, 512], [384, 512]]
    actions = {"dock", "run", "cancel", "level_up", "level_down", "toggle"}
    assert {f"napari-unetpp.{name}" for name in actions | SAMPLES} == set(found["commands"])


def test_found_after_a_wheel_install(repository_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=repository_root, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    python = fresh_environment(tmp_path / "env")
    install(python, str(wheel))
    empty = tmp_path / "empty"
    empty.mkdir()
    found = look(python, empty)
    assert Path(found["package"]).is_relative_to(tmp_path / "env")
    check(found)
    version = subprocess.run(
        [str(python.parent / "napari-unetpp"), "--version"], capture_output=True, text=True,
        check=True, cwd=empty, timeout=60,
    )  # fmt: skip
    assert version.stdout.strip() == found["version"]


def test_found_after_an_editable_install(repository_root: Path, tmp_path: Path) -> None:
    python = fresh_environment(tmp_path / "env")
    install(python, "--editable", str(repository_root))
    empty = tmp_path / "empty"
    empty.mkdir()
    found = look(python, empty)
    assert Path(found["package"]) == repository_root / "napari_unetpp"
    check(found)


def test_without_an_install_it_is_not_found(tmp_path: Path) -> None:
    # Else the two tests above would see the install that runs them. (The name itself may be
    # there: an editable install puts the manifest into an otherwise empty folder.)
    python = fresh_environment(tmp_path / "env")
    code = "import importlib.util as u; print(u.find_spec('napari_unetpp.samples'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True,
                          cwd=tmp_path, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "None"
