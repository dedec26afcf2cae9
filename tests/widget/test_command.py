"""The command to copy: parsed by the real parser, and one run for real."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_unetpp.cli import segment
from napari_unetpp.cli.common import Parser
from napari_unetpp.cli.main import main
from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.data import phantoms
from napari_unetpp.core.data.io import read_image
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.model.cards import bundled_models, read_card
from napari_unetpp.widget.command import quoted, segment_command

NUCLEI = read_card("nuclei")
CT = read_card("ct-head-neck")


def parse(command: str) -> argparse.Namespace:
    """Take a command apart as a shell and the command line do."""
    words = shlex.split(command)
    assert words[:2] == ["napari-unetpp", "segment"]
    parser = Parser(prog="napari-unetpp")
    segment.add_parser(parser.add_subparsers(dest="command"))
    return parser.parse_args(words[1:])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return a TIFF with a name that needs quotes: YX, 0.5 µm."""
    path = tmp_path / "größe & 'Maß' $1" / "my cells.tif"
    path.parent.mkdir()
    image = phantoms.nuclei_2d((64, 80), count=8).image
    tifffile.imwrite(path, image, imagej=True, resolution=(2, 2),
                     metadata={"axes": "YX", "unit": "um"})  # fmt: skip
    return path


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((6, 32, 40), np.int16), imagej=True, resolution=(1, 1),
                     metadata={"axes": "ZYX", "spacing": 3.0, "unit": "mm"})  # fmt: skip
    return path


def test_what_is_the_default_is_not_said(picture: Path) -> None:
    text = segment_command(picture, "nuclei", NUCLEI, windows=False)
    out = str(picture.with_name("my cells_labels.tif"))
    assert shlex.split(text) == ["napari-unetpp", "segment", str(picture), "--out", out]
    again = segment_command(
        str(picture), "nuclei", NUCLEI, level=4, kind="labels", axes="YX", threshold=0.5,
        min_size=3, spacing=(0.5, 0.5), device="auto", precision="auto", windows=False,
    )  # fmt: skip
    assert again == text


def test_everything_else_is_said_and_parsed_back(picture: Path, tmp_path: Path) -> None:
    model = tmp_path / "my model.safetensors"
    shutil.copy(bundled_models()["nuclei"], model)
    text = segment_command(
        picture, str(model), NUCLEI, level="ensemble", kind="instances",
        out=tmp_path / "out dir" / "a.tif", axes="ZX"[::-1], channel=2, threshold=0.1 + 0.2,
        spacing=(3.0, 1.0), device="cuda", precision="bfloat16", windows=False,
    )  # fmt: skip
    found = parse(text)
    assert found.images == [str(picture)]
    assert (found.model, found.level, found.kind) == (str(model), "ensemble", "instances")
    assert found.out == str(tmp_path / "out dir" / "a.tif")
    assert (found.axes, found.channel, found.threshold) == ("XZ", 2, 0.3)
    assert found.spacing is None  # this model does not go by it
    assert (found.device, found.precision, found.tile) == ("cuda", "bfloat16", None)


@pytest.mark.parametrize("level", [1, 2, 3, 4, "ensemble", None])
def test_levels(picture: Path, level: int | str | None) -> None:
    found = parse(segment_command(picture, "nuclei", NUCLEI, level=level, windows=False))
    assert found.level == (None if level == 4 else level)


def test_the_deepest_level_of_a_shallow_model_is_its_default(picture: Path) -> None:
    card = NUCLEI.replace(levels_trained=(1, 2))
    assert parse(segment_command(picture, "m", card, level=2, windows=False)).level is None
    assert parse(segment_command(picture, "m", card, level=1, windows=False)).level == 1


def test_probabilities_need_no_threshold(picture: Path) -> None:
    text = segment_command(
        picture, "nuclei", NUCLEI, kind="probabilities", threshold=0.2, windows=False
    )
    found = parse(text)
    assert (found.kind, found.threshold) == ("probabilities", None)
    assert found.out.endswith("my cells_probabilities.tif")


@pytest.mark.parametrize(
    ("spacing", "unit", "said"),
    [
        (None, None, None),
        ((3.0, 1.0, 1.0), None, None),
        ((3000.0, 1000.0, 1000.0), "µm", None),
        ((2.5, 1.0, 1.0), None, (2.5, 1.0, 1.0)),
        ((2500.0, 500.0, 500.0), "micrometer", (2.5, 0.5, 0.5)),
        ((2.5, 1.0, 1.0), "pixel", (2.5, 1.0, 1.0)),
    ],
)
def test_spacing_is_said_in_the_unit_of_the_file(
    stack: Path, spacing: tuple[float, ...] | None, unit: str | None, said: Any
) -> None:
    text = segment_command(stack, "ct-head-neck", CT, spacing=spacing, unit=unit, windows=False)
    found = parse(text)
    assert found.model == "ct-head-neck"
    assert found.spacing == said


def test_other_axes_are_said_and_dropped_ones_are_not(stack: Path, tmp_path: Path) -> None:
    assert parse(segment_command(stack, "nuclei", NUCLEI, axes="TYX", windows=False)).axes == "TYX"
    single = tmp_path / "single.tif"
    tifffile.imwrite(single, np.zeros((1, 32, 40), np.uint8), metadata={"axes": "ZYX"})
    assert read_image(single).axes == "ZYX"
    assert parse(segment_command(single, "nuclei", NUCLEI, axes="YX", windows=False)).axes is None


def test_a_layer_that_is_a_part_of_its_file_is_refused(stack: Path) -> None:
    with pytest.raises(InputError, match=r"axes YX and its file .* has ZYX.*save it with"):
        segment_command(stack, "nuclei", NUCLEI, axes="YX")


@pytest.mark.parametrize(
    ("path", "match"),
    [
        (None, "this layer came from none; save it with File > Save Selected Layers"),
        ("", "came from none"),
        ("https://example.org/a.tif", "needs a local file, got https"),
        ("/no/such/file.tif", "is not there any more; save it"),
    ],
)
def test_a_layer_without_a_file_says_what_to_do(path: str | None, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        segment_command(path, "nuclei", NUCLEI)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no image", encoding="utf-8")
    with pytest.raises((FileError, InputError)):
        segment_command(path, "nuclei", NUCLEI)


def test_relative_paths_become_absolute(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dashed = picture.with_name("-x.tif")
    picture.rename(dashed)
    monkeypatch.chdir(dashed.parent)
    found = parse(segment_command("-x.tif", "nuclei", NUCLEI, out="-y.tif", windows=False))
    assert found.images == [str(dashed)]
    assert found.out == str(dashed.with_name("-y.tif"))


def test_least_size_of_objects(picture: Path) -> None:
    def command(size: int, card: ModelCard = NUCLEI) -> str:
        return segment_command(
            picture, "nuclei", card, kind="instances", min_size=size, windows=False
        )

    assert parse(command(7)).min_size == 7
    assert parse(command(20)).min_size is None
    assert parse(command(0)).min_size == 0
    no_rule = NUCLEI.replace(instances=None)
    assert parse(command(0, no_rule)).min_size is None


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (r"C:\data\a.tif", r"C:\data\a.tif"),
        (r"C:\my data\a.tif", '"C:\\my data\\a.tif"'),
        ("C:\\a & b\\", '"C:\\a & b\\\\"'),
        ("2.5,1,1", '"2.5,1,1"'),  # PowerShell makes a list of it otherwise
        ("", '""'),
    ],
)
def test_words_for_windows(word: str, line: str) -> None:
    assert quoted([word], windows=True) == line


def test_posix_words_come_back_from_a_shell(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import sys; print(ascii(sys.argv[1:]))", "a b", "$HOME",
             "it's", "é&|;<>*", "--axes", ""]  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", quoted(words, windows=False)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == ascii(words[3:])


def test_the_command_runs_and_writes_what_it_says(
    picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = segment_command(
        picture, "nuclei", NUCLEI, level=1, kind="instances", axes="YX", threshold=0.4,
        spacing=(0.5, 0.5), device="cpu", precision="float32", windows=False,
    )  # fmt: skip
    assert main(shlex.split(text)[1:]) == 0
    out = picture.with_name("my cells_instances.tif")
    assert str(out) in capsys.readouterr().out
    labels = tifffile.imread(out)
    assert labels.shape == (64, 80)
    assert 3 <= labels.max() <= 12
