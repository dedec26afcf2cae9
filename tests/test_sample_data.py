"""The files in sample_data, against what the generator makes today; napari's sample functions."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import nibabel
import numpy as np
import pytest
import skimage
import tifffile

from napari_unetpp import samples
from napari_unetpp.core.data import phantoms

NAMES = {
    "nuclei_2d.tif", "nuclei_2d_labels.tif", "nuclei_2d_strokes.tif", "nuclei_3d.tif",
    "nuclei_3d_labels.tif", "nuclei_timelapse.tif", "nuclei_timelapse_labels.tif",
    "ct_head_neck.nii.gz", "ct_head_neck_labels.nii.gz",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(repository_root: Path) -> Path:
    return repository_root / "sample_data"


@pytest.fixture(scope="module")
def regenerated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("generate", folder / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target = tmp_path_factory.mktemp("sample_data")
    module.generate(target)
    return target


def data_files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if p.name.endswith((".tif", ".nii.gz"))}


def test_files_are_the_documented_ones_and_small(folder: Path, regenerated: Path) -> None:
    assert data_files(folder) == data_files(regenerated) == NAMES
    assert sum((folder / n).stat().st_size for n in NAMES) < 5_000_000
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert [n for n in sorted(NAMES) if f"`{n}`" not in readme] == []


@pytest.mark.parametrize("name", sorted(n for n in NAMES if n.endswith(".tif")))
def test_tiff_is_what_the_generator_makes(folder: Path, regenerated: Path, name: str) -> None:
    with tifffile.TiffFile(folder / name) as kept, tifffile.TiffFile(regenerated / name) as new:
        assert kept.series[0].axes == new.series[0].axes
        assert kept.pages[0].tags["XResolution"].value == new.pages[0].tags["XResolution"].value
        left, right = kept.asarray(), new.asarray()
    assert left.dtype == right.dtype
    np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", sorted(n for n in NAMES if n.endswith(".nii.gz")))
def test_nifti_is_what_the_generator_makes(folder: Path, regenerated: Path, name: str) -> None:
    kept, new = nibabel.load(folder / name), nibabel.load(regenerated / name)
    np.testing.assert_array_equal(kept.affine, new.affine)
    assert kept.get_data_dtype() == new.get_data_dtype()
    np.testing.assert_array_equal(np.asarray(kept.dataobj), np.asarray(new.dataobj))


def test_tiff_metadata_says_axes_and_spacing(folder: Path) -> None:
    with tifffile.TiffFile(folder / "nuclei_3d.tif") as tif:
        assert tif.series[0].axes == "ZYX"
        assert tif.imagej_metadata is not None
        assert tif.imagej_metadata["spacing"] == 2.0
        assert tif.imagej_metadata["unit"] == "um"
        pixels, micrometres = tif.pages[0].tags["YResolution"].value
        assert pixels / micrometres == 2.0
    with tifffile.TiffFile(folder / "nuclei_timelapse.tif") as tif:
        assert (tif.series[0].axes, tif.series[0].shape) == ("TYX", (10, 160, 160))


def test_ct_has_the_orientation_and_the_affine_of_the_phantom(folder: Path) -> None:
    image = nibabel.load(folder / "ct_head_neck.nii.gz")
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.header.get_zooms() == (2.5, 2.5, 3.0)
    affine = phantoms.ct_phantom().affine
    assert affine is not None
    corner = (7, 11, 13)  # z, y, x
    np.testing.assert_allclose(image.affine @ (*corner[::-1], 1), affine @ (*corner, 1))


def test_sample_layers_lie_on_each_other() -> None:
    for make, scale in (
        (samples.nuclei_2d, (0.35, 0.35)),
        (samples.nuclei_3d, (2.0, 0.5, 0.5)),
        (samples.stained_tissue, (0.5, 0.5)),
        (samples.nuclei_timelapse, (1.0, 0.5, 0.5)),
        (samples.ct_phantom, (3.0, 2.5, 2.5)),
        (samples.painted_strokes, (0.35, 0.35)),
    ):
        (image, about_image, kind), (labels, about_labels, other) = make()
        assert (kind, other) == ("image", "labels")
        rgb = about_image.get("rgb", False)
        assert image.shape == (*labels.shape, *(3,) * rgb)
        assert about_image["scale"] == about_labels["scale"] == scale
        assert about_image["units"] == about_labels["units"]
        assert about_image["axis_labels"] == about_labels["axis_labels"]
        assert len(about_image["axis_labels"]) == len(about_image["units"]) == labels.ndim
        if not rgb:
            low, high = about_image["contrast_limits"]
            assert image.min() <= low < high <= image.max()
        assert about_image["name"] != about_labels["name"]
        assert np.issubdtype(labels.dtype, np.integer)


def test_the_real_section_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a sample must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    ((image, about, kind),) = samples.immunohistochemistry()
    assert (image.shape, image.dtype, kind) == ((512, 512, 3), np.uint8, "image")
    assert about["rgb"] is True
    # It lies in the wheel of scikit-image.
    assert (Path(skimage.__file__).parent / "data" / "ihc.png").is_file()
