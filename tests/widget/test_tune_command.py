"""A fine-tuning as a command line: what the shell makes of it is what was chosen."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_unetpp.cli import finetune
from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.widget.tune_command import (
    TuneChoices,
    file_words,
    finetune_command,
    project_words,
)

CARD = ModelCard("nuclei", NetworkConfig(out_channels=1), (ClassInfo("nucleus"),))
SOLID = ModelCard(
    "ct", NetworkConfig(ndim=3, out_channels=1), (ClassInfo("bone"),), axes="ZYX",
    spacing=(3.0, 2.5, 2.5), spacing_unit="mm",
)  # fmt: skip
CHOICES = TuneChoices("nuclei", CARD, False, ("nucleus",), 30.0)


def parsed(text: str) -> Any:
    """Return the arguments that the command line understands."""
    words = shlex.split(text)
    assert words[0] == "napari-unetpp"
    parser = argparse.ArgumentParser()
    finetune.add_parser(parser.add_subparsers())
    return parser.parse_args(words[1:])


def test_what_is_chosen_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "my set é"
    folder.mkdir()
    args = parsed(finetune_command(project_words(folder), folder, CHOICES, windows=False))
    assert (args.project, args.image, args.base) == (str(folder), None, "nuclei")
    assert args.out == str(folder / "nuclei-tuned.safetensors")
    assert (args.max_seconds, args.classes, args.name) == (30.0, "", "")
    assert (args.axes, args.device, args.precision) == ("YX", "auto", "auto")

    (folder / "nuclei-tuned.safetensors").write_bytes(b"")  # of the last time: it stays
    more = replace(
        CHOICES, model="/m/my model.safetensors", classes=("nucleus", "dark debris"),
        seconds=120.0, device="cpu", precision="float32",
    )  # fmt: skip
    args = parsed(finetune_command(["--image", "a b", "--painted", "c"], folder, more,
                                   windows=False))  # fmt: skip
    assert (args.image, args.painted) == (["a b"], ["c"])
    assert args.base == "/m/my model.safetensors"
    assert args.out == str(folder / "nuclei-tuned-2.safetensors")
    assert (args.name, args.classes) == ("nuclei-tuned", "nucleus,dark debris")
    assert (args.max_seconds, args.device, args.precision) == (120.0, "cpu", "float32")


def test_from_scratch_classes_and_axes_are_said(tmp_path: Path) -> None:
    scratch = replace(CHOICES, model="ct", card=SOLID, scratch=True, classes=("bone",))
    args = parsed(finetune_command([], tmp_path, scratch, windows=False))
    assert (args.base, args.axes, args.classes) == ("scratch", "ZYX", "bone")
    assert Path(args.out).name == "scratch-tuned.safetensors"


@pytest.mark.parametrize(
    ("name", "file"),
    [("my/model", "my-model-tuned"), ("../up", "-up-tuned"), ('a:"b"', "a-b--tuned")],
)
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str, file: str) -> None:
    choices = replace(CHOICES, card=CHOICES.card.replace(name=name), classes=("-debris", "b"))
    args = parsed(finetune_command([], tmp_path, choices, windows=False))
    assert Path(args.out).parent == tmp_path
    assert Path(args.out).stem == file
    assert (args.name, args.classes) == (f"{name}-tuned", "-debris,b")


def test_a_class_with_a_comma_cannot_be_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a, b' has one: rename it"):
        finetune_command([], tmp_path, replace(CHOICES, classes=("nucleus", "a, b")))


@pytest.fixture
def files(tmp_path: Path, blobs: NDArray[np.uint8]) -> tuple[Image, Image]:
    """Return an image and paint as layers have them, which are in files."""
    painted = np.zeros(blobs.shape, np.int32)
    painted[5, 5:20] = 1
    painted[30, 35:45] = 2
    places = (tmp_path / "cells.tif", tmp_path / "paint.tif")
    tifffile.imwrite(places[0], blobs)
    tifffile.imwrite(places[1], painted.astype(np.uint8))
    return (
        Image.from_array(blobs, "YX", name="cells").replace(path=places[0]),
        Image.from_array(painted, "YX", name="paint: cells").replace(path=places[1]),
    )


def test_files_that_are_what_the_layers_are(files: tuple[Image, Image]) -> None:
    image, painted = files
    words = file_words(image, painted, CARD, None)
    assert words == ["--image", str(image.path), "--painted", str(painted.path)]
    assert file_words(image, painted, CARD, 1)[-2:] == ["--channel", "1"]
    # An axis of length 1, which a file keeps and a viewer drops, is no difference.
    flat = image.replace(data=np.asarray(image.data)[None], axes="ZYX")
    assert file_words(flat, painted, CARD, None) == words


def test_what_is_not_in_a_file_is_said(files: tuple[Image, Image]) -> None:
    image, painted = files
    with pytest.raises(InputError, match=r"cells is in no file .* press Save as… below"):
        file_words(image.replace(path=None), painted, CARD, None)
    with pytest.raises(InputError, match="paint: cells is in no file"):
        file_words(image, painted.replace(path=None), CARD, None)
    more = np.array(painted.data)
    more[50, 50] = 2
    with pytest.raises(InputError, match="paint: cells is not what is in its file: save it, or"):
        file_words(image, painted.replace(data=more), CARD, None)
    with pytest.raises(InputError, match="paint: cells is not what is in its file"):
        file_words(image, painted.replace(data=more[:50]), CARD, None)
    with pytest.raises(InputError, match="cells has the axes TZYX here and YX in its file"):
        file_words(image.replace(data=np.zeros((2, 2, 9, 9)), axes="TZYX"), painted, CARD, None)


def test_a_model_that_goes_by_the_size_wants_that_of_the_file(tmp_path: Path) -> None:
    volume, labels = np.zeros((4, 8, 8), np.uint8), np.ones((4, 8, 8), np.uint8)
    place = tmp_path / "ct.tif"
    tifffile.imwrite(
        place, volume, imagej=True, resolution=(1.0, 1.0),
        metadata={"axes": "ZYX", "spacing": 2.0, "unit": "mm"},
    )  # fmt: skip
    tifffile.imwrite(tmp_path / "p.tif", labels, imagej=True, metadata={"axes": "ZYX"})
    painted = Image.from_array(labels, "ZYX", name="p").replace(path=tmp_path / "p.tif")

    def image(spacing: tuple[float, ...], unit: str) -> Image:
        return Image.from_array(volume, "ZYX", spacing, unit=unit, name="ct").replace(path=place)

    assert file_words(image((2.0, 1.0, 1.0), "mm"), painted, SOLID, None)
    assert file_words(image((2000.0, 1000.0, 1000.0), "µm"), painted, SOLID, None)
    with pytest.raises(InputError, match="another pixel size than its file"):
        file_words(image((3.0, 1.0, 1.0), "mm"), painted, SOLID, None)
    # A network that does not go by the size does not mind.
    assert file_words(image((3.0, 1.0, 1.0), "mm"), painted, None, None)
