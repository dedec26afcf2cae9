"""Files that cannot be read or written: one sentence that says what to do."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image, read_labels
from napari_unetpp.core.errors import FileError, InputError, MissingPackageError

NOISE = np.random.default_rng(3).integers(0, 60000, (3, 64, 64)).astype(np.uint16)


def missing(folder: Path) -> Path:
    return folder / "none.tif"


def empty(folder: Path) -> Path:
    (folder / "empty.tif").touch()
    return folder / "empty.tif"


def text(folder: Path) -> Path:
    (folder / "notes.tif").write_text("these are no pixels\n" * 40)
    return folder / "notes.tif"


def binary(folder: Path) -> Path:
    (folder / "odd.nii.gz").write_bytes(bytes(range(1, 256)) * 2)
    return folder / "odd.nii.gz"


def foreign(folder: Path) -> Path:
    (folder / "cells.czi").write_bytes(b"ZISRAWFILE" + bytes(500))
    return folder / "cells.czi"


def nameless(folder: Path) -> Path:
    (folder / "cells").write_bytes(b"\x01" * 500)
    return folder / "cells"


def plain_folder(folder: Path) -> Path:
    (folder / "stack").mkdir()
    (folder / "stack" / "a.txt").write_text("a")
    return folder / "stack"


def cut(path: Path, part: float) -> Path:
    os.truncate(path, int(path.stat().st_size * part))
    return path


def cut_plain_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", NOISE, photometric="minisblack")
    return cut(folder / "a.tif", 0.6)


def cut_imagej_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", NOISE, photometric="minisblack", imagej=True)
    return cut(folder / "a.tif", 0.6)


def cut_deflated_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", NOISE, photometric="minisblack", compression="zlib")
    return cut(folder / "a.tif", 0.6)


def cut_head_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", NOISE, photometric="minisblack")
    os.truncate(folder / "a.tif", 20)
    return folder / "a.tif"


def tiff_without_pages(folder: Path) -> Path:
    (folder / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 0))
    return folder / "a.tif"


def spoiled_tiff(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", NOISE, photometric="minisblack", compression="zlib")
    raw = bytearray((folder / "a.tif").read_bytes())
    raw[3000:3400] = bytes(400)
    (folder / "a.tif").write_bytes(raw)
    return folder / "a.tif"


def cut_png(folder: Path) -> Path:
    Pillow.fromarray(NOISE[0]).save(folder / "a.png")
    return cut(folder / "a.png", 0.5)


def cut_nifti(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(NOISE, np.eye(4)), folder / "a.nii")
    return cut(folder / "a.nii", 0.5)


def cut_nifti_gz(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(NOISE, np.eye(4)), folder / "a.nii.gz")
    return cut(folder / "a.nii.gz", 0.5)


def cut_nrrd(folder: Path) -> Path:
    import nrrd

    nrrd.write(str(folder / "a.nrrd"), NOISE)
    return cut(folder / "a.nrrd", 0.5)


def odd_zarr(folder: Path) -> Path:
    import zarr

    zarr.open_group(str(folder / "a.zarr"), mode="w").attrs["title"] = "no image"
    return folder / "a.zarr"


def zarr_without_array(folder: Path) -> Path:
    import zarr

    group = zarr.open_group(str(folder / "a.ome.zarr"), mode="w")
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
                "datasets": [{"path": "0", "coordinateTransformations": []}],
            }
        ],
    }
    return folder / "a.ome.zarr"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, r"there is none; check the path"),
        (empty, r"is empty \(0 bytes\)"),
        (text, r"starts with text; it is damaged or has the wrong name"),
        (binary, r"expected to be NIfTI as its name says, but it starts with bytes 01 02"),
        (foreign, r"format that cannot be read \(\.czi\); convert it to TIFF"),
        (nameless, r"format that cannot be read \(no extension\)"),
        (plain_folder, r"neither an OME-Zarr nor a DICOM series"),
        (cut_plain_tiff, r"damaged or cut off \(its pixels end at byte"),
        (
            cut_imagej_tiff,
            r"damaged or cut off \(ImageJ series metadata invalid or corrupted file\)",
        ),
        (cut_deflated_tiff, r"complete TIFF, but it is damaged or cut off"),
        (cut_head_tiff, r"complete TIFF, but it is damaged or cut off"),
        (tiff_without_pages, r"complete TIFF, but it is damaged or cut off"),
        (spoiled_tiff, r"complete TIFF, but it is damaged or cut off"),
        (cut_png, r"complete picture, but it is damaged or cut off"),
        (cut_nifti, r"complete NIfTI file, but it is damaged or cut off"),
        (cut_nifti_gz, r"complete NIfTI file, but it is damaged or cut off"),
        (cut_nrrd, r"complete NRRD file, but it is damaged or cut off"),
        (odd_zarr, r"zarr group without a multiscale image"),
        (zarr_without_array, r"expected to be an OME-Zarr, but it is damaged"),
    ],
)
def test_a_file_that_cannot_be_read(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(FileError, match=words) as caught:
        read_image(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, NOISE, photometric="minisblack")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(FileError, match=r"cannot be opened \(Permission denied\)"):
        read_image(path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4), np.complex64), "must hold real numbers, got complex64"),
        (np.zeros((4, 4), object), "must hold numbers, got an array of type object"),
        (np.array([["a", "b"]]), "must hold numbers"),
        (np.zeros((0, 4), np.uint8), "must hold at least one pixel, got 0x4"),
        (np.zeros(4, np.uint8), r"2 to 6 axes, got an array of 4 \(1 axes\)"),
        (np.zeros((1,) * 7, np.uint8), "2 to 6 axes"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Image.from_array(array)


def test_a_complex_tiff_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((4, 4), np.complex64))
    with pytest.raises(InputError, match="c must hold real numbers, got complex64"):
        read_image(tmp_path / "c.tif")


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ("YX", r"the array has 3 axes \(3x64x64\) but 2 are named \('YX'\)"),
        ("ZYQ", "axes must be letters of PTCZYXS, got 'ZYQ' with Q"),
        ("YYX", "each axis letter may come once"),
        ("ZTX", "axes must contain Y and X"),
        ("SYX", "must be the last axis"),
        ("YXS", "must have 3 or 4 entries, got 64"),
    ],
)
def test_wrong_axes(tmp_path: Path, axes: str, words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="minisblack")
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "a.tif", axes=axes)


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((1, 1), r"needs 3 numbers \(Z, Y, X\) for axes ZYX, got 2"),
        ((1, 0, 1), "must be positive numbers"),
        ((1, float("nan"), 1), "must be positive numbers"),
    ],
)
def test_wrong_spacing(tmp_path: Path, spacing: tuple[float, ...], words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="minisblack")
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "a.tif", axes="ZYX", spacing=spacing)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("x.jpg", {}, InputError, r"cannot be written as \.jpg"),
        ("x", {}, InputError, "a file without extension"),
        ("x.tif", {"kind": "masks"}, InputError, "labels, instances, probabilities, got 'masks'"),
        ("x.png", {"kind": "probabilities", "dtype": np.float32}, InputError, "labels only"),
        ("x.png", {"axes": "ZYX", "shape": (2, 4, 5)}, InputError, "one plane, got ZYX of 2x4x5"),
        ("x.nii", {"axes": "PYX", "shape": (2, 4, 5)}, InputError, "no place for positions"),
        ("x.zarr", {"axes": "PCYX", "shape": (2, 2, 4, 5)}, InputError, "positions or channels"),
        ("x.nhdr", {}, InputError, r"cannot be written as \.nhdr"),
        ("none/x.tif", {}, FileError, "which does not exist"),
        ("none/x.zarr", {}, FileError, "which does not exist"),
        ("folder.tif", {}, FileError, "is a folder, expected the name of a file"),
        ("folder.zarr", {}, FileError, "a folder that is no OME-Zarr, so it is not replaced"),
        ("in.tif", {}, InputError, "would replace its own input"),
    ],
)
def test_results_that_cannot_be_written(
    tmp_path: Path, name: str, options: dict, error: type[Exception], words: str
) -> None:
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "folder.zarr").mkdir()
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 5), np.uint8))
    like = read_image(tmp_path / "in.tif")
    before = sorted(tmp_path.rglob("*"))
    given = {"axes": "YX", "dtype": np.uint8, "shape": (4, 5), "kind": "labels", **options}
    with pytest.raises(error, match=words):
        open_sink(tmp_path / name, like=like, **given)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_png_of_too_many_objects_leaves_the_old_one(tmp_path: Path) -> None:
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    sink = open_sink(target, like=like, axes="YX", dtype=np.int32, shape=(4, 5), kind="instances")
    sink[1, 1] = 65536
    with pytest.raises(InputError, match=r"labels from 0 to 65535, got 0 to 65536; choose a TIFF"):
        sink.commit()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0, 1.5]], np.float32), "with fractions, NaN or infinities"),
        (np.array([[0, np.nan]], np.float32), "with fractions, NaN or infinities"),
        (np.array([[0, -1]], np.int16), "must lie in 0 to 2147483647, got -1 to 0"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, values: np.ndarray, words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(InputError, match=words):
        read_labels(tmp_path / "a.tif")


def test_labels_in_colour_are_refused_and_grey_ones_taken(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[1, 2] = (7, 7, 7)
    Pillow.fromarray(colour).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        np.asarray(read_labels(tmp_path / "grey.png").data), colour[..., 0]
    )
    colour[3, 3, 0] = 1
    Pillow.fromarray(colour).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match="got a colour picture"):
        read_labels(tmp_path / "colour.png")


def test_whole_floats_are_labels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, 3, 70000.0]], np.float32))
    labels = read_labels(tmp_path / "a.tif")
    assert labels.dtype == np.int32
    assert np.asarray(labels.data).tolist() == [[0, 3, 70000]]


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [
        ("nibabel", "a.nii.gz", "medical"),
        ("nrrd", "a.nrrd", "medical"),
        ("zarr", "a.ome.zarr", "zarr"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str
) -> None:
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    options = {"like": like, "axes": "YX", "dtype": np.uint8, "shape": (4, 5), "kind": "labels"}
    with open_sink(tmp_path / name, **options) as sink:
        sink.commit()
    monkeypatch.setitem(__import__("sys").modules, package, None)
    words = (
        rf'package {package}, which is not installed; run pip install "napari-unetpp\[{extra}\]"'
    )
    with pytest.raises(MissingPackageError, match=words):
        read_image(tmp_path / name)
    with pytest.raises(MissingPackageError, match=words):
        open_sink(tmp_path / name, **options)
