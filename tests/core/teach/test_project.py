"""Projects: pairs come back, wherever the folder went, and nothing is half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import read_image, read_labels
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.teach.lock import Lock
from napari_unetpp.core.teach.project import Project
from napari_unetpp.core.teach.projectfile import file_stem, tell_place
from napari_unetpp.core.tune.strokes import Split

CLASSES = (ClassInfo("nucleus", "#3fb27f"), ClassInfo("rand ü", "#aa0000"))


def painted_like(shape: tuple[int, ...], top: int = 3) -> NDArray[Any]:
    labels = np.zeros(shape, np.int32)
    labels[..., 2:5, 3:8] = 1
    labels[..., 6:9, 3:8] = top
    return labels


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scans" / "Zellen 1 ü.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, np.arange(400, dtype=np.uint16).reshape(20, 20))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.create(tmp_path / "my project é", base="nuclei", classes=CLASSES)


def test_a_pair_comes_back(project: Project, scan: Path) -> None:
    made = project.add(scan, painted_like((20, 20)), channel=None)
    assert made.name == "Zellen 1 ü"
    for opened in (Project.open(project.folder), Project.open(project.folder / "project.json")):
        assert opened.base == "nuclei"
        assert opened.classes == CLASSES
        (pair,) = opened.pairs()
        assert np.array_equal(np.asarray(pair.image().data), tifffile.imread(scan))
        assert np.array_equal(np.asarray(pair.painted().data), painted_like((20, 20)))
        assert pair.image_path == scan
        assert pair.painted_path == project.folder / "painted" / "Zellen 1 ü.tif"
        assert pair.split_path.name == "Zellen 1 ü.tif.strokes.json"
    values = json.loads((project.folder / "project.json").read_text(encoding="utf-8"))
    assert values["format"] == "napari-unetpp project"
    assert values["classes"][1] == {"value": 3, "name": "rand ü", "color": "#aa0000"}
    assert values["pairs"][0]["image"] == "../scans/Zellen 1 ü.tif"
    # Any program reads the labels.
    assert tifffile.imread(project.folder / values["pairs"][0]["painted"]).dtype == np.uint8


@pytest.mark.parametrize(
    ("shape", "axes", "spacing"),
    [
        ((24, 30), "YX", (0.5, 0.25)),
        ((1, 24, 30), "ZYX", (2.0, 0.5, 0.25)),
        ((5, 24, 30), "TYX", None),
        ((5, 2, 24, 30), "TCYX", (0.5, 0.25)),
        ((2, 5, 24, 30), "CZYX", (2.0, 0.5, 0.25)),
        ((3, 1, 4, 2, 24, 30), "PTZCYX", None),
        ((24, 30, 3), "YXS", None),
        ((24, 2, 30), "YCX", None),
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32", "int32", "bool"])
def test_an_image_without_a_file_is_written_into_the_folder(
    project: Project, rng: np.random.Generator, shape: tuple[int, ...], axes: str,
    spacing: tuple[float, ...] | None, dtype: str,
) -> None:  # fmt: skip
    if axes.endswith("S"):
        dtype = "uint8"
    pixels = rng.integers(-1000 if dtype == "int32" else 0, 200, shape).astype(dtype)
    image = Image.from_array(pixels, axes, spacing, unit="µm" if spacing else None, name="a/b: c?")
    plain = tuple(n for a, n in zip(axes, shape, strict=True) if a not in "CS")
    letters = "".join(a for a in axes if a not in "CS")
    project.add(image, painted_like(plain), channel=0)
    (pair,) = Project.open(project.folder).pairs()
    assert pair.name == "a/b: c?"
    assert pair.image_path.name == "a_b_ c_.ome.tif"
    back = pair.image()
    assert set(back.axes) == set(axes)
    order = [back.axes.index(a) for a in axes]
    assert np.array_equal(np.asarray(back.data[...]).transpose(order), image.data)
    assert back.spacing == pytest.approx(spacing) if spacing else back.spacing is None
    painted = pair.painted()
    order = [painted.axes.index(a) for a in letters]
    assert np.array_equal(np.asarray(painted.data[...]).transpose(order), painted_like(plain))
    assert pair.channel == 0


def test_the_orientation_of_an_image_without_a_file_stays(project: Project) -> None:
    affine = np.array([[0.0, 0, 2, 5], [0, 1, 0, 6], [-3, 0, 0, 7], [0, 0, 0, 1]])
    image = Image.from_array(np.zeros((4, 10, 10), np.int16), "ZYX", (3, 1, 2), affine=affine)
    project.add(image, painted_like((4, 10, 10)))
    (pair,) = Project.open(project.folder).pairs()
    found = pair.image().affine
    assert found is not None
    assert np.array_equal(found, affine)


def test_a_file_that_holds_something_else_is_not_taken_for_the_image(
    project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "both.tif"
    both = np.arange(2 * 20 * 20, dtype=np.uint16).reshape(2, 20, 20)
    tifffile.imwrite(path, both)
    one = Image.from_array(both[1], "YX", name="channel 1").replace(path=path)
    pair = project.add(one, painted_like((20, 20)))
    assert pair.image_path.parent == project.folder / "images"
    assert np.array_equal(np.asarray(pair.image().data), both[1])


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((20, 20), "YX"), ((3, 20, 20), "ZYX"), ((2, 3, 20, 20), "TZYX"), ((20, 20, 3), "YXS")],
)
def test_a_file_of_other_pixels_is_not_taken_for_the_image(
    project: Project, tmp_path: Path, shape: tuple[int, ...], axes: str
) -> None:
    path = tmp_path / "raw.tif"
    raw = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape).astype(np.uint8)
    rgb = axes.endswith("S")
    tifffile.imwrite(path, raw, photometric="rgb" if rgb else "minisblack")
    plain = shape[:-1] if rgb else shape
    same = Image.from_array(raw, axes, name="same").replace(path=path)
    assert project.add(same, painted_like(plain)).image_path == path
    changed = raw.copy()
    changed[(10, 10, 0) if rgb else (..., 10, 10)] += 1  # as when a layer's pixels are filtered
    other = Image.from_array(changed, axes, name="other").replace(path=path)
    pair = project.add(other, painted_like(plain))
    assert pair.image_path.parent == project.folder / "images"
    assert np.array_equal(np.asarray(pair.image().data[...]), changed)
    assert np.array_equal(tifffile.imread(path), raw)


def test_a_file_with_gaps_is_the_image(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "gaps.tif"
    pixels = np.full((20, 20), np.nan, np.float32)
    tifffile.imwrite(path, pixels)
    image = Image.from_array(pixels, "YX", name="gaps").replace(path=path)
    assert project.add(image, painted_like((20, 20))).image_path == path


def test_names_are_never_the_same_twice(project: Project, scan: Path) -> None:
    again = scan.with_name("ZELLEN 1 Ü.tif")
    shutil.copy(scan, again)
    names = [project.add(path, painted_like((20, 20), k)).name for k, path in
             enumerate([scan, scan, again], start=2)]  # fmt: skip
    assert names == ["Zellen 1 ü", "Zellen 1 ü (2)", "ZELLEN 1 Ü (3)"]
    pairs = Project.open(project.folder).pairs()
    assert [int(np.asarray(p.painted().data).max()) for p in pairs] == [2, 3, 4]
    project.remove("Zellen 1 ü")
    assert [p.name for p in project.pairs()] == names[1:]
    assert project.add(scan, painted_like((20, 20))).name == "Zellen 1 ü"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("", "image_"), ("..", "image_"), ("a/b\\c", "a_b_c"), ("NUL", "NUL_"), ("x. ", "x"),
        ("細胞", "細胞"), ("u\u0308", "ü"), ("é" * 200, "é" * 50), ("a", "a (2)"),
    ],
)  # fmt: skip
def test_file_names(name: str, stem: str) -> None:
    assert file_stem(name, ["A"]) == stem


def test_the_folder_may_move_with_its_images_or_without(
    project: Project, scan: Path, tmp_path: Path
) -> None:
    project.add(scan, painted_like((20, 20)))
    away = tmp_path / "elsewhere" / "deep"
    away.mkdir(parents=True)
    alone = shutil.copytree(project.folder, away / "p")
    (pair,) = Project.open(alone).pairs()
    assert pair.image_path == scan
    assert pair.image().shape == (20, 20)
    both = tmp_path / "both"
    shutil.copytree(project.folder, both / "p")
    shutil.copytree(scan.parent, both / "scans")
    (pair,) = Project.open(both / "p").pairs()
    assert pair.image_path == both / "scans" / scan.name


def test_a_missing_image_is_one_sentence_and_can_be_found_again(
    project: Project, scan: Path, tmp_path: Path
) -> None:
    name = project.add(scan, painted_like((20, 20))).name
    moved = tmp_path / "other.tif"
    scan.rename(moved)
    pair = Project.open(project.folder).pair(name)
    with pytest.raises(FileError, match=r"is not at .* any more; move it back") as error:
        pair.image()
    assert str(scan) in str(error.value)
    assert np.asarray(pair.painted().data).any()  # what was painted is there all the same
    tifffile.imwrite(tmp_path / "small.tif", np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError, match="20 x 20"):
        project.relink(name, tmp_path / "small.tif")
    project.relink(name, moved)
    assert Project.open(project.folder).pair(name).image().shape == (20, 20)
    os.remove(pair.painted_path)
    with pytest.raises(FileError, match=r"painted labels .* any more"):
        pair.painted()


def test_painting_on_keeps_the_split(project: Project, scan: Path) -> None:
    labels = painted_like((20, 20))
    name = project.add(scan, labels).name
    split = Split(3)
    split.update({f"{name}#0": labels, "foreign#0": labels, "copy#0": labels})
    project.save_split(split)
    labels[15, 15] = 300
    project.update(name, labels)
    back = Project.open(project.folder)
    assert int(np.asarray(back.pair(name).painted().data)[15, 15]) == 300
    assert back.split().seed == 3
    assert list(back.split().shapes) == [f"{name}#0"]
    for side, pixels in split.sides[f"{name}#0"].items():
        assert np.array_equal(back.split().sides[f"{name}#0"][side], pixels)
    with pytest.raises(InputError, match="Y=20 x X=20"):
        project.update(name, labels[:5])
    copy = project.add(scan, labels, name="copy", split=split)
    assert list(Project.open(project.folder).split().shapes) == [f"{name}#0", "copy#0"]
    numbered = project.add(scan, labels, name="copy", split=split)
    assert numbered.name == "copy (2)"
    assert list(project.split().shapes) == [f"{name}#0", "copy#0", "copy (2)#0"]
    project.remove(numbered.name)
    project.remove(name)
    assert [p.name for p in project.pairs()] == [copy.name]
    assert list(Project.open(project.folder).split().shapes) == ["copy#0"]
    assert scan.exists()


def test_the_files_of_a_pair_that_is_taken_out_stay(project: Project) -> None:
    image = Image.from_array(np.zeros((20, 20), np.uint8), "YX", name="a")
    labels = painted_like((20, 20))
    split = Split()
    split.update({"a#0": labels})
    old = project.add(image, labels, split=split)
    kept = {p: p.read_bytes() for p in project.folder.rglob("a*") if p.is_file()}
    assert set(kept) == {old.painted_path, old.split_path, old.image_path}
    project.remove("a")
    assert project.pairs() == ()
    # The next of that name has files of its own.
    new = project.add(image, painted_like((20, 20), 2))
    assert new.name == "a"
    assert new.painted_path.name == "a (2).tif"
    assert new.image_path.name == "a (2).ome.tif"
    assert {p: p.read_bytes() for p in kept} == kept
    assert project.split().shapes == {}
    project.remove("a")
    with pytest.raises(InputError, match="no pair named 'a'; there are: none"):
        project.remove("a")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros((20, 19), np.uint8), "Y=20 x X=20, got Y=20 x X=19"),
        (np.zeros((20, 20), np.float32), "whole numbers"),
        (np.full((20, 20), -1), "0 to 65535, got -1"),
        (np.full((20, 20), 70000), "got 0 to 70000"),
    ],
)
def test_what_is_no_paint_is_refused(
    project: Project, scan: Path, labels: NDArray[Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        project.add(scan, labels)
    assert project.pairs() == ()
    assert Project.open(project.folder).pairs() == ()


def test_two_programs_change_one_project(project: Project, scan: Path) -> None:
    other = Project.open(project.folder)
    project.add(scan, painted_like((20, 20)), name="one")
    other.add(scan, painted_like((20, 20)), name="two")
    project.set_classes(CLASSES[:1])
    other.set_base("scratch")
    found = Project.open(project.folder)
    assert [p.name for p in found.pairs()] == ["one", "two"]
    assert (found.classes, found.base) == (CLASSES[:1], "scratch")


def test_a_project_that_is_being_changed_is_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_unetpp.core.teach.project._PATIENCE", 0.1)
    held = Lock(project.folder / ".project.lock")
    with pytest.raises(FileError, match="changed by another program"):
        project.set_base("scratch")
    held.release()
    project.set_base("scratch")
    assert Project.open(project.folder).base == "scratch"


def test_the_base_may_be_a_file(project: Project, tmp_path: Path) -> None:
    model = tmp_path / "models" / "mine.safetensors"
    project.set_base(model)
    assert Project.open(project.folder).base == str(model)
    text = (project.folder / "project.json").read_text(encoding="utf-8")
    assert json.loads(text)["base"] == "../models/mine.safetensors"


def test_there_is_one_project_in_a_folder(project: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a project already; open it"):
        Project.create(project.folder)
    with pytest.raises(FileError, match="is no project"):
        Project.open(tmp_path)


def test_a_write_that_fails_changes_nothing(
    project: Project, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (project.folder / "project.json").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_unetpp.core.teach.projectfile.os.fsync", full)
    with pytest.raises(FileError, match="No space left"):
        project.add(scan, painted_like((20, 20)))
    monkeypatch.undo()
    assert (project.folder / "project.json").read_bytes() == before
    assert [p.name for p in project.folder.iterdir() if p.name.startswith(".")] == []
    assert Project.open(project.folder).pairs() == ()
    assert list((project.folder / "painted").iterdir()) == []
    project.add(scan, painted_like((20, 20)))
    assert len(Project.open(project.folder).pairs()) == 1


def _edit(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for step in way:
            values = values[int(step)] if step.isdigit() else values[step]  # type: ignore[index]
        values[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_edit("format", "else"), "not understood"),
        (_edit("version", 2), "version 2, this program knows 1; update"),
        (_edit("pairs", [{}]), "not understood"),
        (_edit("pairs", None), "not understood"),
        (_edit("classes", [{"name": "a", "color": "blue"}]), "not understood"),
        (_edit("pairs.0.painted", "../../outside.tif"), "outside of the folder"),
        (_edit("pairs.0.painted", "/etc/passwd"), "outside of the folder"),
        (_edit("pairs.0.shape", ["a"]), "not understood"),
    ],
)
def test_a_file_that_is_not_understood_is_refused(
    project: Project, scan: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    project.add(scan, painted_like((20, 20)))
    path = project.folder / "project.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(FileError, match=words):
        Project.open(project.folder)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be read"):
        Project.open(project.folder)


def test_places_are_told_relative_where_that_helps(tmp_path: Path) -> None:
    inside = tmp_path / "p" / "images" / "a.tif"
    assert tell_place(inside, tmp_path / "p") == ("images/a.tif", "")
    beside = tmp_path / "q" / "a.tif"
    assert tell_place(beside, tmp_path / "p") == ("../q/a.tif", str(beside))


def test_the_files_are_those_that_the_command_line_reads(project: Project, scan: Path) -> None:
    pair = project.add(scan, painted_like((20, 20)))
    image, labels = read_image(pair.image_path), read_labels(pair.painted_path)
    assert image.sizes == labels.sizes == {"Y": 20, "X": 20}
