"""OME-Zarr of every version in, 0.4 and 0.5 out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image
from napari_unetpp.core.data.io import zarr as zarr_module
from napari_unetpp.core.data.lazy import StoredArray
from napari_unetpp.core.errors import FileError, InputError

VALUES = np.arange(2 * 3 * 4 * 8 * 10, dtype=np.uint16).reshape(2, 3, 4, 8, 10)
NAMES = [("t", "time", "second"), ("c", "channel", None), ("z", "space", "micrometer"),
         ("y", "space", "nanometer"), ("x", "space", "nanometer")]  # fmt: skip


def make(path: Path, version: str) -> Path:
    """Write an OME-Zarr by hand, as the specification of the version says."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    array = group.create_array("full", shape=VALUES.shape, chunks=(1, 1, 2, 8, 5), dtype="u2")
    array[...] = VALUES
    image: dict = {"datasets": [{"path": "full"}], "name": "cells"}
    if version == "0.3":
        image["axes"] = ["t", "c", "z", "y", "x"]
    elif version in ("0.4", "0.5"):
        image["axes"] = [{"name": n, "type": t, **({"unit": u} if u else {})} for n, t, u in NAMES]
        image["datasets"][0]["coordinateTransformations"] = [
            {"type": "scale", "scale": [2.0, 1.0, 1.0, 325.0, 325.0]},
            {"type": "translation", "translation": [0.0, 0.0, 7.0, 1000.0, 0.0]},
        ]
        image["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 0.5, 2, 2]}]
    omero = {"channels": [{"label": n} for n in ("DAPI", "GFP", "Cy5")]}
    if version == "0.5":
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image], "omero": omero}
    else:
        group.attrs["multiscales"] = [{**image, "version": version}]
        group.attrs["omero"] = omero
    return path


@pytest.mark.parametrize("version", ["0.1", "0.3", "0.4", "0.5"])
def test_versions_are_read(tmp_path: Path, version: str) -> None:
    image = read_image(make(tmp_path / "cells.ome.zarr", version))
    assert isinstance(image.data, StoredArray)
    assert image.axes == "TCZYX"
    assert image.name == "cells"
    assert image.channel_names == ("DAPI", "GFP", "Cy5")
    np.testing.assert_array_equal(np.asarray(image.data[1, 2, :, 3]), VALUES[1, 2, :, 3])
    if version in ("0.4", "0.5"):
        assert image.unit == "nm"  # the unit of X
        assert image.spacing == (500.0, 650.0, 650.0)
    else:
        assert image.spacing is None


def save(path: Path, like: Image, values: np.ndarray, axes: str, kind: str, names=()) -> Path:
    with open_sink(
        path, like=like, axes=axes, dtype=values.dtype, shape=values.shape, kind=kind,
        channel_names=names,
    ) as sink:  # fmt: skip
        sink[..., :4, :] = values[..., :4, :]
        sink[..., 4:, :] = values[..., 4:, :]
        return sink.commit()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_are_written_in_the_input_s_version(tmp_path: Path, version: str) -> None:
    like = read_image(make(tmp_path / "cells.ome.zarr", version))
    out = save(tmp_path / "labels.ome.zarr", like, VALUES[:, 0], "TZYX", "instances")
    group = zarr.open_group(str(out), mode="r")
    attributes = dict(group.attrs)
    assert group.metadata.zarr_format == (3 if version == "0.5" else 2)
    said = attributes["ome"] if version == "0.5" else attributes
    assert "image-label" in said
    image = said["multiscales"][0]
    assert (said if version == "0.5" else image)["version"] == version
    assert image["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        *({"name": n, "type": "space", "unit": "nanometer"} for n in "zyx"),
    ]
    assert image["datasets"] == [
        {
            "path": "0",
            "coordinateTransformations": [
                {"type": "scale", "scale": [2.0, 500.0, 650.0, 650.0]},
                {"type": "translation", "translation": [0.0, 3500.0, 2000.0, 0.0]},
            ],
        }
    ]
    back = read_image(out)
    assert (back.spacing, back.unit, back.axes) == (like.spacing, "nm", "TZYX")
    np.testing.assert_array_equal(np.asarray(back.data), VALUES[:, 0])
    if version == "0.4":
        assert json.loads((out / "0" / ".zarray").read_text())["dimension_separator"] == "/"
        assert json.loads((out / "0" / ".zarray").read_text())["compressor"]["id"] == "blosc"
    else:
        said = json.loads((out / "0" / "zarr.json").read_text())
        assert said["dimension_names"] == ["t", "z", "y", "x"]


def test_a_new_one_is_of_the_newest_version(tmp_path: Path) -> None:
    like = Image.from_array(np.zeros((8, 8), np.uint8), spacing=(0.5, 0.5), unit="µm")
    values = np.random.default_rng(0).random((2, 8, 8), dtype=np.float32)
    out = save(tmp_path / "p.ome.zarr", like, values, "CYX", "probabilities", ("a", "b"))
    said = zarr.open_group(str(out), mode="r").attrs["ome"]
    assert said["version"] == "0.5"
    assert "image-label" not in said
    back = read_image(out)
    assert back.channel_names == ("a", "b")
    assert (back.spacing, back.unit) == ((0.5, 0.5), "µm")


def test_a_large_one_gets_a_pyramid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_module, "_SMALLEST_PLANE", 16)
    monkeypatch.setattr(zarr_module, "_CHUNK_PLANE", 8)
    like = Image.from_array(np.zeros((2, 37, 50), np.uint8), "ZYX", (1, 0.5, 0.5), unit="µm")
    values = np.random.default_rng(0).integers(0, 9, (2, 37, 50)).astype(np.uint8)
    out = save(tmp_path / "l.ome.zarr", like, values, "ZYX", "labels")
    group = zarr.open_group(str(out), mode="r")
    np.testing.assert_array_equal(group["1"][...], values[:, ::2, ::2])
    np.testing.assert_array_equal(group["2"][...], values[:, ::4, ::4])
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
    assert [d["path"] for d in datasets] == ["0", "1", "2"]
    assert datasets[2]["coordinateTransformations"][0]["scale"] == [1.0, 2.0, 2.0]


def test_a_bare_array_is_read(tmp_path: Path) -> None:
    array = zarr.create_array(str(tmp_path / "a.zarr"), shape=(5, 8, 10), dtype="u1")
    array[...] = 3
    image = read_image(tmp_path / "a.zarr")
    assert image.axes == "ZYX"
    assert np.asarray(image.data).mean() == 3


def test_a_converted_file_with_one_image_and_with_two(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "b.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    make(tmp_path / "b.zarr" / "0", "0.4")
    assert read_image(tmp_path / "b.zarr").shape == VALUES.shape
    make(tmp_path / "b.zarr" / "1", "0.4")
    with pytest.raises(InputError, match="holds 2 images, expected one"):
        read_image(tmp_path / "b.zarr")
    assert read_image(tmp_path / "b.zarr" / "1").shape == VALUES.shape


def test_a_plate_is_refused_with_an_example(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "p.zarr"), mode="w")
    root.attrs["ome"] = {"version": "0.5", "plate": {"wells": []}}
    with pytest.raises(InputError, match="is a plate or a well, expected one image"):
        read_image(tmp_path / "p.zarr")


def test_a_damaged_chunk_is_told_in_words_when_it_is_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (256, 256)).astype(np.uint8)
    path = tmp_path / "d.ome.zarr"
    like = Image.from_array(array, "YX")
    with open_sink(
        path, like=like, axes="YX", dtype=array.dtype, shape=array.shape, kind="labels"
    ) as sink:
        sink[...] = array
        sink.commit()
    chunks = [p for p in path.rglob("*") if p.is_file() and "zarr" not in p.name]
    for chunk in chunks:
        chunk.write_bytes(chunk.read_bytes()[:7])
    image = read_image(path)
    with pytest.raises(FileError, match=r"its pixels are damaged at \[0:64, 0:64\] .* copy"):
        np.asarray(image.data[:64, :64])


@pytest.mark.parametrize("times", [1, 99])
def test_a_newcomer_of_the_same_name_steps_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    like = Image.from_array(np.zeros((8, 10), np.uint8))
    target = save(tmp_path / "l.ome.zarr", like, np.ones((8, 10), np.uint8), "YX", "labels")
    rename, late = os.replace, iter(range(times))

    def then_a_newcomer(source: Path, to: Path) -> None:
        rename(source, to)
        if Path(source) == target and next(late, None) is not None:
            target.mkdir()
            (target / "zarr.json").write_text("another's")

    monkeypatch.setattr(zarr_module.os, "replace", then_a_newcomer)
    values = np.full((8, 10), 2, np.uint8)
    if times == 1:
        save(target, like, values, "YX", "labels")
        np.testing.assert_array_equal(np.asarray(read_image(target).data), values)
    else:
        with pytest.raises(FileError, match=r"l\.ome\.zarr cannot be written"):
            save(target, like, values, "YX", "labels")
        assert (target / "zarr.json").read_text() == "another's"
    assert list(tmp_path.iterdir()) == [target]
