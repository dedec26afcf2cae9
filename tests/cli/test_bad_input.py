"""Bad input: one line that says what was expected, what came and what to do; nothing touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bad_input_cases import CASES
from bad_input_helpers import (
    SENTINEL,
    World,
)
from PIL import Image as Pillow


@pytest.fixture
def world(
    tmp_path: Path,
    image_file: Path,
    models: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    folder = tmp_path / "inputs"
    folder.mkdir()
    target = tmp_path / "result.tif"
    target.write_bytes(SENTINEL)
    monkeypatch.chdir(tmp_path)
    return World(folder, image_file, target, models, monkeypatch)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("as_json", [False, True], ids=["people", "json"])
@pytest.mark.parametrize("name", CASES)
def test_one_line_exit_2_and_nothing_touched(
    name: str, as_json: bool, world: World, tmp_path: Path, command
) -> None:
    words = CASES[name].words(world)
    if as_json:
        words = [*words, "--json"] if words else ["--json"]
    before = contents(tmp_path)
    outcome = command(*words)
    said = () if as_json and name == "no command" else CASES[name].said
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("napari-unetpp: error: ")
    assert outcome.err.count("\n") == 1
    for part in said:
        assert part in outcome.err
    after = contents(tmp_path)
    assert after == before
    assert after["result.tif"] == SENTINEL


def test_there_are_enough_kinds() -> None:
    assert len(CASES) >= 30


def test_a_picture_named_like_a_model_is_not_loaded(world: World, command) -> None:
    picture = world.folder / "picture.safetensors"
    Pillow.fromarray(np.zeros((4, 4), np.uint8)).save(picture, format="PNG")
    outcome = command("models", picture)
    assert outcome.code == 2
    assert "is not a model file" in outcome.err
