"""Names and cards of models, read where there is no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model import cards, modelfile
from napari_unetpp.core.model.cards import bundled_models, read_card, resolve

# What the viewer's process and the client of the engine may import.
TORCH_FREE = (
    "napari_unetpp.core.axes",
    "napari_unetpp.core.config",
    "napari_unetpp.core.data.geometry",
    "napari_unetpp.core.data.image",
    "napari_unetpp.core.data.lazy",
    "napari_unetpp.core.data.preprocess",
    "napari_unetpp.core.errors",
    "napari_unetpp.core.events",
    "napari_unetpp.core.model.cardcheck",
    "napari_unetpp.core.model.cards",
    "napari_unetpp.core.model.modelheader",
    "napari_unetpp.core.run.instances",
    "napari_unetpp.core.run.results",
    "napari_unetpp.core.run.tiling",
)

READ = """
import importlib, json, sys
for name in {names!r}:
    importlib.import_module(name)
from napari_unetpp.core.model.cards import bundled_models, read_card
cards = [read_card(name).name for name in bundled_models()]
print(json.dumps([cards, "torch" in sys.modules]))
"""


def test_cards_are_read_without_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ.format(names=TORCH_FREE)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    names, torch_loaded = json.loads(done.stdout)
    assert "nuclei" in names
    assert names == list(bundled_models())
    assert not torch_loaded


def test_a_name_is_resolved_to_its_file_and_a_path_stays() -> None:
    nuclei = bundled_models()["nuclei"]
    assert resolve("nuclei") == nuclei
    assert nuclei.suffix == cards.SUFFIX
    assert resolve(nuclei) == nuclei
    assert resolve("not/there.safetensors") == Path("not/there.safetensors")
    with pytest.raises(InputError, match=r"no model named 'nuclie'.* did you mean nuclei\?"):
        resolve("nuclie")


def test_modelfile_gives_the_same_functions() -> None:
    assert modelfile.bundled_models is bundled_models
    assert modelfile.read_card is read_card
    assert modelfile.resolve is resolve
    assert modelfile.SUFFIX == cards.SUFFIX
