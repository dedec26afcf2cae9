"""What every format has in common: values, axes and geometry come back; targets are atomic."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, output_path, read_image, read_labels
from napari_unetpp.core.errors import FileError, InputError

AFFINE = np.array(
    [[0, 0, -0.9765625, 12.5], [0, -0.9765625, 0, 7.25], [3.27, 0, 0, -100.125], [0, 0, 0, 1]]
)
VOLUMES = (".tif", ".ome.tif", ".nii", ".nii.gz", ".nrrd", ".ome.zarr", ".zarr")


def volume_image(**changes: object) -> Image:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    return Image.from_array(
        array, "ZYX", (3.27, 0.9765625, 0.9765625), unit="mm", affine=AFFINE, name="scan"
    ).replace(**changes)


def write(path: Path, values: np.ndarray, axes: str, kind: str, like: Image, names=()) -> Path:
    sink = open_sink(
        path, like=like, axes=axes, dtype=values.dtype, shape=values.shape, kind=kind,
        channel_names=names,
    )  # fmt: skip
    with sink:
        # In two blocks, as tiles come.
        half = values.shape[-1] // 2
        sink[..., :half] = values[..., :half]
        sink[..., half:] = values[..., half:]
        np.testing.assert_array_equal(sink[..., 1:3], values[..., 1:3])
        assert not path.exists()
        assert sink.commit() == path
    return path


@pytest.mark.parametrize("extension", VOLUMES)
def test_labels_of_a_volume_come_back_with_their_spacing(tmp_path: Path, extension: str) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 2:4, 1:5] = 7
    path = write(tmp_path / f"out{extension}", labels, "ZYX", "labels", volume_image())
    back = read_labels(path)
    np.testing.assert_array_equal(np.asarray(back.data), labels)
    assert back.dtype == np.uint8
    assert back.axes == "ZYX"
    assert back.unit == "mm"
    np.testing.assert_allclose(back.spacing, (3.27, 0.9765625, 0.9765625), rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", [".nii", ".nii.gz", ".nrrd"])
def test_the_affine_comes_back(tmp_path: Path, extension: str) -> None:
    labels = np.ones((4, 5, 6), np.uint8)
    path = write(tmp_path / f"out{extension}", labels, "ZYX", "labels", volume_image())
    np.testing.assert_allclose(read_image(path).affine, AFFINE, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("extension", VOLUMES)
def test_probabilities_with_channels_come_back(
    tmp_path: Path, extension: str, rng: np.random.Generator
) -> None:
    values = rng.random((3, 4, 5, 6), dtype=np.float32)
    path = write(
        tmp_path / f"out{extension}",
        values,
        "CZYX",
        "probabilities",
        volume_image(),
        ("a", "b", "c"),
    )
    back = read_image(path)
    order = [back.axes.index(a) for a in "CZYX"]
    np.testing.assert_array_equal(np.asarray(back.data[...]).transpose(order), values)
    if extension in (".ome.tif", ".ome.zarr", ".zarr"):
        assert back.channel_names == ("a", "b", "c")


@pytest.mark.parametrize("extension", [*VOLUMES, ".png"])
@pytest.mark.parametrize(("highest", "expected"), [(200, np.uint16), (65535, np.uint16)])
def test_instances_become_the_smallest_type(
    tmp_path: Path, extension: str, highest: int, expected: type
) -> None:
    labels = np.zeros((8, 9), np.int32)
    labels[2, 3] = highest
    like = Image.from_array(np.zeros((8, 9), np.uint8))
    path = write(tmp_path / f"out{extension}", labels, "YX", "instances", like)
    back = read_labels(path)
    np.testing.assert_array_equal(np.asarray(back.data), labels)
    if "zarr" not in extension:
        assert back.dtype == expected


@pytest.mark.parametrize("extension", [".tif", ".nii.gz", ".nrrd", ".ome.zarr"])
def test_more_objects_than_16_bits(tmp_path: Path, extension: str) -> None:
    labels = np.array([[0, 65536], [70000, 1]], np.int32)
    like = Image.from_array(np.zeros((2, 2), np.uint8), spacing=(0.5, 0.5), unit="µm")
    path = write(tmp_path / f"out{extension}", labels, "YX", "instances", like)
    np.testing.assert_array_equal(np.asarray(read_labels(path).data), labels)


@pytest.mark.parametrize(
    ("extension", "axes", "shape"),
    [
        (".tif", "PTCZYX", (2, 3, 2, 2, 5, 6)),
        (".tif", "CTZYX", (2, 3, 4, 5, 6)),
        (".ome.tif", "ZTCYX", (4, 3, 2, 5, 6)),
        (".nii", "TZYX", (3, 4, 5, 6)),
        (".nii.gz", "CTZYX", (2, 3, 4, 5, 6)),
        (".nrrd", "CTZYX", (2, 3, 4, 5, 6)),
        (".nrrd", "CYX", (2, 5, 6)),
        (".ome.zarr", "CTZYX", (2, 3, 4, 5, 6)),
        (".zarr", "PTZYX", (2, 3, 4, 5, 6)),
    ],
)
def test_any_order_of_axes(
    tmp_path: Path, extension: str, axes: str, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    values = rng.random(shape, dtype=np.float32)
    like = Image.from_array(np.zeros((4, 5, 6), np.uint8), "ZYX")
    path = write(tmp_path / f"out{extension}", values, axes, "probabilities", like)
    back = read_image(path)
    assert sorted(back.axes) == sorted(axes)
    order = [back.axes.index(a) for a in axes]
    np.testing.assert_array_equal(np.asarray(back.data[...]).transpose(order), values)


@pytest.mark.parametrize("extension", [*VOLUMES, ".png"])
@pytest.mark.parametrize("how", ["abort", "exception", "interrupt", "forgotten"])
def test_a_result_that_is_not_committed_leaves_nothing(
    tmp_path: Path, extension: str, how: str
) -> None:
    target = tmp_path / f"out{extension}"
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    old = np.full((4, 5), 3, np.uint8)
    write(target, old, "YX", "labels", like)
    options = {"like": like, "axes": "YX", "dtype": np.uint8, "shape": (4, 5), "kind": "labels"}
    if how == "abort":
        sink = open_sink(target, **options)
        sink[:] = 1
        sink.abort()
        sink.abort()
    else:
        error = {"exception": ValueError, "interrupt": KeyboardInterrupt}.get(how)
        try:
            with open_sink(target, **options) as sink:
                sink[0] = 1
                if error is not None:
                    raise error("stop")
        except (ValueError, KeyboardInterrupt):
            assert how != "forgotten"
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    np.testing.assert_array_equal(np.asarray(read_labels(target).data), old)
    with pytest.raises(InputError, match="aborted; open a new one"):
        sink[:] = 1


@pytest.mark.parametrize("extension", [*VOLUMES, ".png"])
def test_a_commit_replaces_the_old_result(tmp_path: Path, extension: str) -> None:
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    target = tmp_path / f"out{extension}"
    write(target, np.full((4, 5), 3, np.uint8), "YX", "labels", like)
    write_over = open_sink(
        target, like=like, axes="YX", dtype=np.uint8, shape=(4, 6), kind="labels"
    )
    with write_over as sink:
        sink[:] = 5
        assert (np.asarray(read_labels(target).data) == 3).all()
        sink.commit()
    back = np.asarray(read_labels(target).data)
    assert back.shape == (4, 6)
    assert (back == 5).all()
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("extension", VOLUMES)
def test_a_failing_commit_leaves_nothing(
    tmp_path: Path, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = Image.from_array(np.zeros((4, 5), np.uint8))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_unetpp.core.data.io.atomic.os.replace", full)
    with (
        pytest.raises(FileError, match=r"cannot be written \(No space left on device\)"),
        open_sink(
            tmp_path / f"out{extension}", like=like, axes="YX", dtype=np.uint8, shape=(4, 5),
            kind="labels",
        ) as sink,
    ):  # fmt: skip
        sink.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_anything_is_computed(tmp_path: Path) -> None:
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    with pytest.raises(FileError, match=r"needs [\d.]+ GB, but only [\d.]+ GB are free"):
        open_sink(
            tmp_path / "out.nrrd", like=like, axes="TYX", dtype=np.float32,
            shape=(10**7, 10**4, 10**3), kind="probabilities",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["sub", "sub/"])
@pytest.mark.parametrize(
    ("source", "kind", "expected"),
    [
        ("a.tif", "labels", "a_labels.tif"),
        ("a.b.ome.tif", "instances", "a.b_instances.ome.tif"),
        ("a.jpg", "labels", "a_labels.png"),
        ("a.png", "probabilities", "a_probabilities.tif"),
        ("head.nii.gz", "labels", "head_labels.nii.gz"),
        ("head.nhdr", "labels", "head_labels.nrrd"),
        ("a.ome.zarr", "probabilities", "a_probabilities.ome.zarr"),
        ("a.lsm", "labels", "a_labels.tif"),
    ],
)
def test_names_of_results_in_a_folder(out: str, source: str, kind: str, expected: str) -> None:
    stem = expected.rsplit(f"_{kind}", 1)[0]
    image = Image.from_array(np.zeros((2, 2)), name=stem).replace(path=Path("in") / source)
    assert output_path(out, image, kind) == Path("sub") / expected


def test_a_file_name_for_a_result_is_kept(tmp_path: Path) -> None:
    image = Image.from_array(np.zeros((2, 2)))
    assert output_path(tmp_path / "x.tif", image, "labels") == tmp_path / "x.tif"
    assert output_path(tmp_path, image, "labels") == tmp_path / "image_labels.tif"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", ["commit", "abort"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_nothing_is_mapped_when_a_file_takes_its_name(
    tmp_path: Path, end: str, dtype: type
) -> None:
    """Where the system does not replace a mapped file, it could not be written at all."""
    values = np.ones((64, 64), dtype)
    sink = open_sink(
        tmp_path / "a.tif", like=Image.from_array(values, "YX"), axes="YX", dtype=values.dtype,
        shape=values.shape, kind="labels",
    )  # fmt: skip
    sink[...] = values
    assert str(tmp_path) in Path("/proc/self/maps").read_text()
    getattr(sink, end)()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
