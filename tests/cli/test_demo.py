"""The demo: its images, its figure, and what it writes, with small models and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from napari_unetpp.cli import demo, demo_images
from napari_unetpp.cli.demo_images import Case, kept_aside
from napari_unetpp.cli.figure import Row, draw, overlay, to_rgb
from napari_unetpp.cli.views import ct_views
from napari_unetpp.core.data.geometry import Grid
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.phantoms import ct_phantom
from napari_unetpp.core.model.modelfile import read_card

FAST = ("--device", "cpu", "--precision", "float32", "--headless")


@pytest.fixture
def small_images(blobs: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put two small images in place of the microscopy, and a small phantom for the CT."""
    truth = (blobs > 400).astype(np.uint16)
    truth[:, 40:] *= 2
    gray = Case("gray", "discs", "a test", Image.from_array(blobs), Image.from_array(truth))
    colour = np.repeat((blobs // 5).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    stained = Case("stained", "stained", "a test", Image.from_array(colour, "YXS"))
    monkeypatch.setattr(demo, "nuclei_cases", lambda: ([gray, stained], []))
    monkeypatch.setattr(demo_images, "_held_out_ct", lambda *_: None)
    phantom = ct_phantom((24, 28, 28), spacing=(9.0, 9.0, 9.0))
    monkeypatch.setattr("napari_unetpp.core.data.phantoms.ct_phantom", lambda: phantom)


def run_demo(command, models, out: Path, *more: object):
    return command(
        "demo", "--out", out, "--nuclei-model", models["nuclei"], "--ct-model", models["ct"],
        *FAST, *more,
    )  # fmt: skip


@pytest.mark.usefixtures("small_images")
def test_demo_writes_labels_and_a_figure(command, models, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    outcome = run_demo(command, models, out, "--json")
    found = outcome.json
    assert outcome.code == 0
    assert [note["code"] for note in found["notes"]] == ["phantom-ct"]
    assert "our own phantom is shown" in found["notes"][0]["message"]
    assert outcome.err == ""
    assert [image["name"] for image in found["images"]] == [
        "gray", "stained", "ct_head_neck_phantom",
    ]  # fmt: skip
    gray, stained, ct = found["images"]
    assert [list(image["levels"]) for image in found["images"]] == [["1", "2", "3", "4"]] * 3
    for level in gray["levels"].values():
        assert set(level) == {"seconds", "iou", "ap50", "objects", "labels"}
        assert tifffile.imread(level["labels"]).max() == level["objects"]
    assert (gray["truth"], stained["truth"], ct["truth"]) == (True, False, True)
    assert set(stained["levels"]["4"]) == {"seconds", "objects", "labels"}
    assert set(ct["levels"]["4"]) == {"seconds", "dice", "labels"}
    written = {Path(level["labels"]) for i in found["images"] for level in i["levels"].values()}
    assert written | {out / "demo.png"} == set(out.iterdir())
    with Pillow.open(found["figure"]) as figure:
        assert min(figure.size) > 800


@pytest.mark.usefixtures("small_images")
def test_demo_prints_a_table_for_each_image(command, models, tmp_path: Path) -> None:
    outcome = run_demo(command, models, tmp_path / "demo")
    assert outcome.err.splitlines()[0].startswith("no CT is here, so our own phantom is shown")
    lines = outcome.out.splitlines()
    heads = [k for k, line in enumerate(lines) if line.startswith("level")]
    assert [lines[k].split() for k in heads] == [
        ["level", "s", "s/megapixel", "objects", "IoU", "AP50"],
        ["level", "s", "s/megapixel", "objects"],
        ["level", "s", "s/megavoxel", "Dice"],
    ]
    assert [lines[heads[0] + k].split()[0] for k in (1, 2, 3, 4)] == ["L1", "L2", "L3", "L4"]
    assert lines[heads[0] - 1] == "discs (a test), 64×80, model tiny-nuclei"
    assert lines[-1] == str(tmp_path / "demo" / "demo.png")


@pytest.mark.usefixtures("small_images")
def test_the_figure_is_opened_on_a_desktop_only(
    command, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(demo.webbrowser, "open", opened.append)
    words = ("demo", "--nuclei-model", models["nuclei"], "--ct-model", models["ct"], *FAST[:-1])
    monkeypatch.setattr(demo, "_has_display", lambda: False)
    command(*words, "--out", tmp_path / "a")
    assert opened == []
    monkeypatch.setattr(demo, "_has_display", lambda: True)
    command(*words, "--out", tmp_path / "a")
    assert opened == [(tmp_path / "a" / "demo.png").resolve().as_uri()]


def test_microscopy_comes_from_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    # The setup of the tests installs both packages that bring labelled nuclei.
    cases, notes = demo_images.nuclei_cases()
    assert [case.name for case in cases] == ["fluorescence", "confocal", "immunohistochemistry"]
    assert [case.image.axes for case in cases] == ["YX", "YX", "YXS"]
    assert [case.image.shape for case in cases] == [(512, 512), (256, 256), (512, 512, 3)]
    assert notes == []
    objects = [len(np.unique(np.asarray(case.truth.data))) - 1 for case in cases[:2]]
    assert objects == [125, 20]
    monkeypatch.setattr(demo_images.importlib.util, "find_spec", lambda name: None)
    cases, notes = demo_images.nuclei_cases()
    assert [note.code for note in notes] == ["phantom-nuclei"]
    assert [case.name for case in cases][1:] == ["immunohistochemistry", "cell"]
    assert int(np.asarray(cases[0].truth.data).max()) > 50


def test_the_ct_is_one_that_was_kept_aside(
    tmp_path: Path, models, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("pt_1", "pt_2", "pt_3", "pt_4"):
        (images / f"{name}.nii.gz").touch()
    table = "name,organs\npt_1,a b c d\npt_2,a b\npt_3,a b c\npt_4,a b c d e\n"
    (tmp_path / "metadata.csv").write_text(table, encoding="utf-8")
    card = read_card(models["ct"]).replace(split="2 for training, 2 held out: pt_2, pt_3.")
    found = demo_images._held_out_ct(tmp_path, card)
    assert found == (images / "pt_3.nii.gz", tmp_path / "masks" / "pt_3.nii.gz")
    assert demo_images._held_out_ct(tmp_path / "nothing", card) is None


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("4 held out: pt_1, pt_10.", ["pt_1", "pt_10"]),
        ("trained on pt_1; kept aside: pt_2", ["pt_2"]),
        ("5 images for training, none held out.", ["pt_3"]),
        ("", ["pt_3"]),
    ],
)
def test_names_that_were_kept_aside(split: str, expected: list[str]) -> None:
    assert kept_aside(split, ["pt_1", "pt_10", "pt_2", "pt_3"]) == expected


# The figure


def test_grey_values_are_windowed() -> None:
    plane = np.array([[-100, 0], [50, 300]], np.int16)
    rgb = to_rgb(plane, (0.0, 100.0))
    np.testing.assert_allclose(rgb[..., 0], [[0, 0], [0.5, 1]])
    np.testing.assert_array_equal(rgb[..., 0], rgb[..., 2])


def test_colours_of_bytes_are_kept() -> None:
    plane = np.array([[[255, 0, 51]]], np.uint8)
    np.testing.assert_allclose(to_rgb(plane)[0, 0], [1, 0, 0.2], atol=1e-6)


def test_outlines_have_the_colour_of_the_class() -> None:
    labels = np.zeros((640, 640), np.uint8)
    labels[100:200, 100:200] = 2
    gray = np.full((640, 640, 3), 0.5, np.float32)
    result = overlay(gray, labels, {1: "#000000", 2: "#ff0000"}, fill=0.5)
    np.testing.assert_allclose(result[100, 150], [1, 0, 0])
    np.testing.assert_allclose(result[150, 150], [0.75, 0.25, 0.25])
    np.testing.assert_allclose(result[99, 150], [0.5, 0.5, 0.5])


def test_neighbouring_objects_differ_in_colour() -> None:
    labels = np.repeat(np.arange(1, 9, dtype=np.int32), 80)[None].repeat(640, axis=0)
    result = overlay(np.zeros((640, 640, 3), np.float32), labels, {}, fill=1.0)
    middles = result[320, 40::80]
    gaps = np.abs(np.diff(middles, axis=0)).max(axis=1)
    assert gaps.min() > 0.3


def test_small_pictures_are_enlarged_and_drawn(tmp_path: Path) -> None:
    labels = np.zeros((32, 40), np.uint8)
    labels[8:20, 8:20] = 1
    assert overlay(to_rgb(labels), labels, {}).shape == (512, 640, 3)
    row = Row("small", labels, {"L1": labels, "L4": labels}, labels, {1: "#ff0000"}, {1: "thing"})
    path = draw([row], tmp_path / "figure.png", title="a title")
    with Pillow.open(path) as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
    third = pixels.shape[1] // 3
    assert all(red[:, k * third : (k + 1) * third].any() for k in range(3))
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


# Views of a volume


@pytest.mark.parametrize("orientation", ["SPL", "IAR", "LPS", "PLI"])
def test_views_stand_upright_whatever_the_orientation(orientation: str) -> None:
    shape = (6, 7, 8)
    labels = np.zeros(shape, np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    grid = Grid.from_spacing(shape, (1.0, 2.0, 3.0), orientation)
    index = np.stack([*np.indices(shape), np.ones(shape)])  # (z y x 1, Z, Y, X)
    right, anterior, superior, _ = np.tensordot(grid.affine, index, axes=1)
    down, across = {}, {}
    for view in ct_views(grid, labels, count=3):
        planes = {"R": right, "A": anterior, "S": superior}
        steps = {name: view.whole(plane) for name, plane in planes.items()}
        down[view.name] = {k: v for k, p in steps.items() if (v := float(p[1, 0] - p[0, 0]))}
        across[view.name] = {k: v for k, p in steps.items() if (v := float(p[0, 1] - p[0, 0]))}
        (height,), (width,) = down[view.name].values(), across[view.name].values()
        assert view.aspect == abs(height / width)
    # Head and face up, the patient's left at the right; on a sagittal plane the back is there.
    assert {name: (*step, *(v < 0 for v in step.values())) for name, step in down.items()} == {
        "axial": ("A", True), "coronal": ("S", True), "sagittal": ("S", True),
    }  # fmt: skip
    assert {name: (*step, *(v < 0 for v in step.values())) for name, step in across.items()} == {
        "axial": ("R", True), "coronal": ("R", True), "sagittal": ("A", True),
    }  # fmt: skip


def test_views_are_cropped_around_the_labels() -> None:
    volume = np.zeros((40, 50, 60), np.uint8)
    volume[18:22, 20:30, 25:35] = 1
    grid = Grid.from_spacing(volume.shape, (2.0, 1.0, 1.0), "SPL")
    views = {view.name: view for view in ct_views(grid, volume, count=3)}
    axial, coronal = views["axial"], views["coronal"]
    assert axial(volume).shape == (18, 18)  # 10 and a margin of 4 on each side
    assert coronal.aspect == 2.0
    assert coronal(volume).shape == (8, 18)  # half as many rows: they are twice as high
    assert int(axial(volume).sum()) == 100
