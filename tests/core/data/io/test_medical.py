"""NIfTI, NRRD and DICOM: the geometry that came in goes out, bit for bit."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import psutil
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from napari_unetpp.core.data.geometry import Grid
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import nifti as nifti_module
from napari_unetpp.core.data.io import open_sink, output_path, read_image, read_labels
from napari_unetpp.core.data.lazy import DiskArray, MappedArray, ScaledArray
from napari_unetpp.core.errors import FileError, InputError, MissingPackageError

GEOMETRY = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
    "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


def save(path: Path, like: Image, values: np.ndarray, axes: str, kind: str = "labels") -> Path:
    with open_sink(
        path, like=like, axes=axes, dtype=values.dtype, shape=values.shape, kind=kind
    ) as sink:
        sink[...] = values
        return sink.commit()


def oblique() -> np.ndarray:
    turn = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 0.8, 2.5)
    affine[:3, 3] = (-101.3, 57.9, 3.1)
    return affine


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("qcode", "scode"), [(1, 1), (0, 2), (3, 0)])
def test_a_nifti_header_is_kept(tmp_path: Path, suffix: str, qcode: int, scode: int) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    source = nibabel.Nifti1Image(values, oblique())
    source.set_qform(oblique(), code=qcode)
    source.set_sform(oblique(), code=scode)
    nibabel.save(source, tmp_path / f"in{suffix}")
    image = read_image(tmp_path / f"in{suffix}")
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(np.asarray(image.data), values.T)
    np.testing.assert_allclose(image.spacing, (2.5, 0.8, 0.7), rtol=1e-6)
    np.testing.assert_allclose(
        image.affine @ (3, 2, 1, 1), oblique() @ (1, 2, 3, 1), rtol=1e-6, atol=1e-6
    )
    out = save(tmp_path / f"out{suffix}", image, (values.T > 50).astype(np.uint8), "ZYX")
    before = nibabel.load(tmp_path / f"in{suffix}").header
    after = nibabel.load(out)
    for field in GEOMETRY:
        np.testing.assert_array_equal(after.header[field], before[field], err_msg=field)
    np.testing.assert_array_equal(after.header["pixdim"][:4], before["pixdim"][:4])
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), values > 50)


def test_an_uncompressed_nifti_stays_on_disk(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.nii")
    assert isinstance(read_image(tmp_path / "a.nii").data, np.memmap)


def test_scaled_values_are_applied_and_not_written_back(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.array([[[0, 100], [200, 300]]], np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nibabel.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.5, -1024], "<f4").tobytes()
    raw[352:360] = np.array([0, 100, 200, 300], "<i2").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    like = read_image(tmp_path / "a.nii")
    assert like.dtype == np.float32
    assert sorted(np.asarray(like.data).ravel().tolist()) == [-1024, -974, -924, -874]
    out = save(tmp_path / "o.nii", like, np.full((2, 2, 1), 3, np.uint8), "ZYX")
    assert (np.asarray(read_image(out).data) == 3).all()


def test_a_nifti_without_orientation_has_spacing_alone(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.int16), None)
    image.header.set_zooms((0.5, 0.6, 2000.0))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    assert read.affine is None
    np.testing.assert_allclose(read.spacing, (2.0, 0.0006, 0.0005), rtol=1e-6)
    assert read.unit == "mm"


def test_the_fourth_dimension_is_time_and_a_fifth_is_refused(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    image = read_image(tmp_path / "a.nii.gz")
    assert image.axes == "TZYX"
    np.testing.assert_array_equal(np.asarray(image.data), values.T)
    nibabel.save(nibabel.Nifti1Image(values[..., None], np.eye(4)), tmp_path / "b.nii")
    assert read_image(tmp_path / "b.nii").shape == values.T.shape
    nibabel.save(nibabel.Nifti1Image(np.stack([values] * 2, 4), np.eye(4)), tmp_path / "c.nii")
    with pytest.raises(InputError, match=r"2 to 4 dimensions.*got 2x3x4x5x2; split it"):
        read_image(tmp_path / "c.nii")


def test_colours_in_a_nifti_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(InputError, match="must hold real numbers, got a NIfTI of type"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "space", ["left-posterior-superior", "right-anterior-superior", "LPS", "left-anterior-superior"]
)
def test_an_nrrd_header_is_kept(tmp_path: Path, space: str) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    directions = oblique()[:3, :3].T
    header = {
        "space": space, "space directions": directions, "space origin": oblique()[:3, 3],
        "kinds": ["domain"] * 3, "encoding": "gzip",
    }  # fmt: skip
    nrrd.write(str(tmp_path / "in.nrrd"), values, header)
    image = read_image(tmp_path / "in.nrrd")
    np.testing.assert_array_equal(np.asarray(image.data), values.T)
    signs = {"l": (-1, -1, 1), "L": (-1, -1, 1), "r": (1, 1, 1)}[space[0]]
    if space == "left-anterior-superior":
        signs = (-1, 1, 1)
    world = (oblique() @ (1, 2, 3, 1))[:3] * signs
    np.testing.assert_allclose((image.affine @ (3, 2, 1, 1))[:3], world, rtol=1e-12)
    out = save(tmp_path / "out.nrrd", image, (values.T > 50).astype(np.uint8), "ZYX")
    after, said = nrrd.read(str(out))
    np.testing.assert_array_equal(after, values > 50)
    assert said["space"] == nrrd.read_header(str(tmp_path / "in.nrrd"))["space"]
    np.testing.assert_array_equal(said["space directions"], directions)
    np.testing.assert_array_equal(said["space origin"], oblique()[:3, 3])


def test_a_vector_nrrd_has_channels(tmp_path: Path) -> None:
    values = np.arange(3 * 4 * 5 * 6, dtype=np.uint8).reshape(3, 4, 5, 6)
    header = {
        "space": "left-posterior-superior", "kinds": ["vector", "domain", "domain", "domain"],
        "space directions": np.vstack([[np.nan] * 3, np.diag([1.0, 2.0, 3.0])]),
        "space origin": [0.0, 0.0, 0.0],
    }  # fmt: skip
    nrrd.write(str(tmp_path / "v.nrrd"), values, header)
    image = read_image(tmp_path / "v.nrrd")
    assert image.axes == "ZYXC"
    assert image.spacing == (3.0, 2.0, 1.0)
    np.testing.assert_array_equal(np.asarray(image.data), values.T)
    out = save(tmp_path / "o.nrrd", image, values[0].T, "ZYX")
    assert nrrd.read_header(str(out))["space directions"].tolist() == np.diag([1, 2, 3]).tolist()


def test_an_nrrd_without_space(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((4, 5, 6), np.uint8), {"spacings": [1.0, 2, 3]})
    image = read_image(tmp_path / "a.nrrd")
    assert image.spacing == (3.0, 2.0, 1.0)
    assert image.affine is None
    nrrd.write(str(tmp_path / "b.nrrd"), np.zeros((4, 5), np.uint8))
    assert read_image(tmp_path / "b.nrrd").axes == "YX"


def test_a_large_uncompressed_nifti_is_read_by_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti_module, "LAZY_FROM_BYTES", 0)
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    for order in "<>":
        stored = nibabel.Nifti1Image(values, oblique()).as_reoriented([[0, 1], [1, 1], [2, 1]])
        header = stored.header.as_byteswapped(order)
        nibabel.Nifti1Image(values, oblique(), header).to_filename(tmp_path / "a.nii")
        image = read_image(tmp_path / "a.nii")
        assert isinstance(image.data, DiskArray if order == "<" else MappedArray)
        assert image.dtype == np.int16
        assert image.dtype.isnative
        np.testing.assert_array_equal(image.data[2:4, 1], values.T[2:4, 1])
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.5, -1024], ">f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    image = read_image(tmp_path / "a.nii")
    assert isinstance(image.data, ScaledArray)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image.data[1:3, 2], values.T[1:3, 2] * 0.5 - 1024)


@pytest.mark.skipif(sys.platform != "linux", reason="counts the pages that Linux counts")
def test_pages_of_a_large_nifti_can_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nifti_module, "LAZY_FROM_BYTES", 0)
    values = np.zeros((256, 256, 128), np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    image = read_image(tmp_path / "a.nii")
    image.data._limit = 0
    resident = []
    for plane in range(128):
        image.data[plane].sum()
        resident.append(psutil.Process().memory_info().shared)
    # The file is 16 MB; without giving back they would all be held at the end.
    assert max(resident[8:]) - resident[0] < 8e6


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_nifti_is_known_by_its_bytes_and_not_by_its_name(tmp_path: Path, kind: type) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    kind(values, oblique()).to_filename(tmp_path / "a.nii")
    kind(values, oblique()).to_filename(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii").rename(tmp_path / "odd.dat")
    (tmp_path / "a.nii.gz").rename(tmp_path / "packed.nii")
    for name in ("odd.dat", "packed.nii"):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(image.data), values.T)
        np.testing.assert_allclose(image.spacing, (2.5, 0.8, 0.7), rtol=1e-6)


def test_a_nifti_in_two_files_is_read_by_its_header(tmp_path: Path) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.Nifti1Pair(values, oblique()).to_filename(tmp_path / "a.hdr")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.hdr").data), values.T)
    with pytest.raises(FileError, match=r"description is in another file; give a\.hdr\."):
        read_image(tmp_path / "a.img")


def test_an_nrrd_of_a_nameless_space_keeps_its_directions(tmp_path: Path) -> None:
    header = {
        "space dimension": 3, "space directions": oblique()[:3, :3].T,
        "space origin": oblique()[:3, 3], "kinds": ["domain"] * 3,
    }  # fmt: skip
    nrrd.write(str(tmp_path / "in.nrrd"), np.zeros((4, 5, 6), np.uint8), header)
    image = read_image(tmp_path / "in.nrrd")
    said = nrrd.read_header(
        str(save(tmp_path / "out.nrrd", image, np.zeros((6, 5, 4), np.uint8), "ZYX"))
    )
    assert said["space dimension"] == 3
    np.testing.assert_array_equal(said["space directions"], oblique()[:3, :3].T)
    np.testing.assert_array_equal(said["space origin"], oblique()[:3, 3])


def test_an_nrrd_of_spacings_keeps_what_it_says_of_each_axis(tmp_path: Path) -> None:
    header = {
        "spacings": [np.nan, 1.0, 2.0, 3.0], "axis mins": [np.nan, -5.0, 6.5, 7.0],
        "thicknesses": [np.nan, np.nan, np.nan, 2.5], "units": ["", "mm", "mm", "um"],
        "kinds": ["vector", "domain", "domain", "domain"],
    }  # fmt: skip
    nrrd.write(str(tmp_path / "in.nrrd"), np.zeros((2, 4, 5, 6), np.uint8), header)
    image = read_image(tmp_path / "in.nrrd")
    assert image.axes == "ZYXC"
    said = nrrd.read_header(
        str(save(tmp_path / "out.nrrd", image, np.zeros((6, 5, 4), np.uint8), "ZYX"))
    )
    assert said["spacings"].tolist() == [1.0, 2.0, 3.0]
    assert said["axis mins"].tolist() == [-5.0, 6.5, 7.0]
    np.testing.assert_array_equal(said["thicknesses"], [np.nan, np.nan, 2.5])
    assert said["units"] == ["mm", "mm", "um"]


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_axes_of_the_user_turn_the_geometry_too(tmp_path: Path, suffix: str) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nibabel.save(nibabel.Nifti1Image(values, oblique()), tmp_path / "in.nii")
    like = read_image(tmp_path / "in.nii")
    source = save(tmp_path / f"a{suffix}", like, values.T.astype(np.uint8), "ZYX")
    image = read_image(source, axes="XZY")
    np.testing.assert_allclose(image.spacing, (0.8, 0.7, 2.5), rtol=1e-6)
    # Voxel x=3, z=2, y=1 of the image as named is voxel z=3, y=2, x=1 of the file.
    where = oblique() @ (1, 2, 3, 1)
    np.testing.assert_allclose(image.affine @ (2, 1, 3, 1), where, rtol=1e-5)
    back = read_image(save(tmp_path / f"b{suffix}", image, np.asarray(image.data), "XZY"))
    assert back.axes == "ZYX"
    assert back.data[2, 1, 3] == values[1, 2, 3]
    np.testing.assert_allclose(back.affine @ (2, 1, 3, 1), where, rtol=1e-5)
    # An axis that is no longer spatial leaves no direction that could be trusted.
    named = read_image(source, axes="TYX")
    assert named.affine is None
    assert not {"nifti_header", "nrrd_directions"} & set(named.metadata)


def dicom_slice(folder: Path, k: int, z: float, series: str, **changes: object) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    one.SeriesInstanceUID = series
    one.Rows, one.Columns, one.SamplesPerPixel = 3, 4, 1
    one.PhotometricInterpretation = "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 0
    one.PixelSpacing = [0.5, 0.75]
    one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    one.ImagePositionPatient = [-10, -20, z]
    one.RescaleSlope, one.RescaleIntercept = 1, -1024
    one.PixelData = (np.arange(12, dtype="<u2") + 100 * k).tobytes()
    for name, value in changes.items():
        setattr(one, name, value)
    pydicom.dcmwrite(folder / f"{9 - k}.dcm", one, enforce_file_format=True)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = tmp_path / "CT thorax"
    folder.mkdir()
    uid = generate_uid()
    for k in range(4):
        dicom_slice(folder, k, 5.0 + 2.5 * k, uid)
    (folder / "README.txt").write_text("not a slice")
    return folder


def test_a_dicom_series_is_sorted_rescaled_and_placed(series: Path, tmp_path: Path) -> None:
    image = read_image(series)
    assert image.axes == "ZYX"
    assert image.dtype == np.int16
    assert np.asarray(image.data)[:, 0, 0].tolist() == [-1024, -924, -824, -724]
    assert np.asarray(image.data)[0, 2, 3] == 11 - 1024
    assert image.spacing == (2.5, 0.5, 0.75)
    assert (image.affine @ (0, 0, 0, 1)).tolist() == [10, 20, 5, 1]
    assert (image.affine @ (1, 2, 3, 1)).tolist() == [10 - 2.25, 20 - 1, 7.5, 1]
    assert Grid((4, 3, 4), image.affine).orientation == "SPL"
    out = output_path(tmp_path, image, "labels")
    assert out.name == "CT thorax_labels.nii.gz"
    save(out, image, np.ones((4, 3, 4), np.uint8), "ZYX")
    np.testing.assert_allclose(read_image(out).affine, image.affine, rtol=1e-6)


def test_a_single_dicom_file(series: Path) -> None:
    image = read_image(series / "9.dcm")
    assert image.shape == (1, 3, 4)


def test_a_series_with_a_gap_is_refused(series: Path) -> None:
    (series / "8.dcm").unlink()
    with pytest.raises(InputError, match=r"evenly spaced, got distances of 2.5 to 5 mm"):
        read_image(series)


def test_two_series_in_a_folder_are_refused(series: Path) -> None:
    dicom_slice(series, 5, 30.0, generate_uid())
    with pytest.raises(InputError, match=r"one DICOM series, got 2 \(of .* slices\)"):
        read_image(series)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "must be parallel"),
        ({"Rows": 2, "Columns": 6}, "must be of one size"),
        ({"NumberOfFrames": 3}, "multi-frame DICOM"),
        ({"ImagePositionPatient": None}, "do not state where they lie"),
    ],
)
def test_slices_that_do_not_fit(series: Path, changes: dict, words: str) -> None:
    uid = pydicom.dcmread(series / "9.dcm").SeriesInstanceUID
    dicom_slice(series, 4, 15.0, uid, **changes)
    with pytest.raises(InputError, match=words):
        read_image(series)


def test_a_cut_dicom(series: Path) -> None:
    raw = (series / "9.dcm").read_bytes()
    (series / "9.dcm").write_bytes(raw[:-10])
    with pytest.raises(FileError, match="complete DICOM slice"):
        read_image(series)


def test_no_pydicom(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(MissingPackageError, match=r"napari-unetpp\[medical\]"):
        read_image(series)


REAL = [
    "ct_head_neck/images/pt_101.nii.gz",
    "sarcoma/CT/images/STS_012.nii.gz",
    "small/totalseg_tests/images/ct_3mm.nii.gz",
    "small/tptbox_spine/images/ct.nii.gz",
]


@pytest.mark.parametrize("name", REAL)
def test_real_scans_keep_their_geometry(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / name
    image = read_image(path)
    labels = read_labels(Path(str(path).replace("/images/", "/masks/")))
    assert image.shape == labels.shape
    source = nibabel.load(path)
    assert image.shape == source.shape[::-1]
    corner = np.array([s - 1 for s in source.shape] + [1])
    np.testing.assert_allclose(
        image.affine @ np.array([*corner[2::-1], 1]), source.affine @ corner, rtol=1e-9
    )
    codes = nibabel.aff2axcodes(source.affine)
    assert Grid(image.shape, image.affine).orientation == "".join(codes[::-1])
    out = save(tmp_path / "o.nii.gz", image, np.asarray(labels.data), "ZYX")
    with gzip.open(path) as a, gzip.open(out) as b:
        before, after = a.read(352), b.read(352)
    assert before[252:328] == after[252:328]  # qform, sform, quaternion, offsets, rows
    assert before[76:108] == after[76:108]  # pixdim
    np.testing.assert_array_equal(np.asarray(read_labels(out).data), np.asarray(labels.data))
