"""Where things of the user's are: the system's own places, and nowhere else by accident."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest
from platformdirs.api import PlatformDirsABC
from platformdirs.macos import MacOS

from napari_unetpp.core.errors import FileError
from napari_unetpp.core.teach.places import config_folder, data_folder

Folder = Callable[[], Path]
CASES = [(data_folder, "NAPARI_UNETPP_DATA", "XDG_DATA_HOME", ".local/share"),
         (config_folder, "NAPARI_UNETPP_CONFIG", "XDG_CONFIG_HOME", ".config")]  # fmt: skip


@pytest.mark.parametrize(("folder", "own", "system", "usual"), CASES)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the folders of Linux")
def test_on_linux(
    folder: Folder, own: str, system: str, usual: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv(own, raising=False)
    monkeypatch.delenv(system, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / usual / "napari-unetpp"
    monkeypatch.setenv(system, str(tmp_path / "elsewhere"))
    assert folder() == tmp_path / "elsewhere" / "napari-unetpp"
    monkeypatch.setenv(own, str(tmp_path / "mine"))
    assert folder() == tmp_path / "mine"
    assert not list(tmp_path.iterdir())  # asking makes nothing


def test_on_macos_both_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(name: str) -> Callable[..., str]:
        def answer(app: str, **more: bool) -> str:
            dirs: PlatformDirsABC = MacOS(app, **more)
            return str(getattr(dirs, name))

        return answer

    for name in ("user_data_dir", "user_config_dir"):
        monkeypatch.setattr(platformdirs, name, asked(name))
    for folder, own, _, _ in CASES:
        monkeypatch.delenv(own, raising=False)
        wanted = Path.home() / "Library" / "Application Support" / "napari-unetpp"
        assert folder() == wanted


def test_on_windows_models_stay_and_lists_roam(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def answer(app: str, **more: object) -> str:
        asked.append({"app": app, **more})
        return "/place"

    for name in ("user_data_dir", "user_config_dir"):
        monkeypatch.setattr(platformdirs, name, answer)
    for folder, own, _, _ in CASES:
        monkeypatch.delenv(own, raising=False)
        assert folder() == Path("/place")
    # Models are large; %APPDATA% is copied to each computer that the person logs in to.
    assert asked == [
        {"app": "napari-unetpp", "appauthor": False},
        {"app": "napari-unetpp", "appauthor": False, "roaming": True},
    ]


@pytest.mark.parametrize(("folder", "own"), [case[:2] for case in CASES])
def test_without_a_home_folder_nothing_is_made_here(
    folder: Folder, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(own, raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("user_data_dir", "user_config_dir"):
        monkeypatch.setattr(platformdirs, name, lambda *_, **__: "~/.place")
    with pytest.raises(FileError, match=r"no home folder .*; set NAPARI_UNETPP_DATA"):
        folder()
    assert not list(tmp_path.iterdir())
