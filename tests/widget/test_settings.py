"""Preferences through napari's settings for plug-ins, and the list of models used lately."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import napari.settings
import pytest
from npe2 import PluginManifest

from napari_unetpp.core.teach.places import config_folder
from napari_unetpp.widget import settings
from napari_unetpp.widget.settings import (
    Preferences,
    read_preferences,
    read_recent,
    watch_preferences,
    write_recent,
)


@pytest.fixture
def napari_settings(plugin_settings: None, npe2pm: Any, repository_root: Path) -> Any:
    """Return napari's settings of the plug-in; their file lies in a temporary folder."""
    npe2pm.register(PluginManifest.from_file(repository_root / "napari.yaml"))
    return napari.settings.get_plugin_settings("napari-unetpp")


def test_defaults_are_those_of_the_manifest(napari_settings: Any) -> None:
    assert read_preferences() == Preferences("auto", "auto", 0, True, 2048)


def test_what_the_user_sets_is_read(napari_settings: Any) -> None:
    napari_settings.computing.device = "cpu"
    napari_settings.computing.precision = "float32"
    napari_settings.computing.threads = 3
    napari_settings.live.on_start = False
    napari_settings.live.megabytes = 512
    assert read_preferences() == Preferences("cpu", "float32", 3, False, 512)


def test_napari_refuses_what_is_out_of_range(napari_settings: Any) -> None:
    for section, key, value in (
        ("computing", "device", "abacus"), ("computing", "threads", -1),
        ("computing", "threads", 257), ("live", "megabytes", 1),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=key):
            setattr(getattr(napari_settings, section), key, value)
    assert read_preferences() == Preferences()


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ("computing: {threads: 7}\n", 7),
        ("computing: {threads: -5}\n", 0),
        ("computing: [1, 2\n", 0),
        ("", 0),
    ],
)
def test_settings_are_kept_and_a_damaged_file_gives_the_defaults(
    napari_settings: Any, text: str, threads: int
) -> None:
    napari_settings.computing.threads = 3
    file = Path(napari_settings.config_path)
    assert "threads: 3" in file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    napari.settings._clear_plugin_settings_cache()
    assert read_preferences() == Preferences(threads=threads)


def test_a_plug_in_that_is_switched_off_gives_the_defaults(plugin_settings: None) -> None:
    assert read_preferences() == Preferences()


def test_a_value_that_does_not_fit_falls_back_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Section:
        device, precision, threads = "abacus", "float32", 2.5
        on_start, megabytes = "yes", float("nan")

    class Settings:
        computing = live = Section

    monkeypatch.setattr(settings, "_settings", lambda: Settings)
    assert read_preferences() == Preferences(precision="float32")


def test_older_napari_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(napari.settings, "get_plugin_settings")
    assert read_preferences() == Preferences()
    watch_preferences(lambda preferences: None)()


def test_changes_are_told_until_one_stops_listening(napari_settings: Any) -> None:
    heard: list[Preferences] = []
    end = watch_preferences(heard.append)
    napari_settings.computing.threads = 5
    napari_settings.live.on_start = False
    assert heard[-1] == Preferences(threads=5, live=False)
    count = len(heard)
    end()
    end()
    napari_settings.computing.threads = 6
    assert len(heard) == count


def test_recent_models_come_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "new" / "Überordner"))
    assert read_recent() == []
    names = [f"/models/größe {k}.safetensors" for k in range(10)]
    write_recent(names)
    assert read_recent() == names[:8]
    assert caplog.text == ""
    folder = config_folder()
    assert [p.name for p in folder.iterdir()] == ["recent.json"]
    for text in ("", "[]", "null", '{"models": 3}', '{"models": [1, "", null]}', "{"):
        (folder / "recent.json").write_text(text, encoding="utf-8")
        assert read_recent() == []


def test_a_folder_that_cannot_be_made_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "file"))
    write_recent(["/a.safetensors"])
    assert "not kept" in caplog.text
    assert read_recent() == []
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


def test_the_viewer_process_gets_no_torch() -> None:
    names = ("settings", "models", "command")
    code = "import sys; " + "; ".join(f"import napari_unetpp.widget.{n}" for n in names)
    code += "; import json; print(json.dumps([m in sys.modules for m in ('torch', 'napari')]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ},
    )  # fmt: skip
    assert json.loads(done.stdout) == [False, False]
