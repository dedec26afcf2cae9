"""TIFF in its dialects: what ImageJ and OME say is read, kept and written again."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import atomic as atomic_module
from napari_unetpp.core.data.io import open_sink, read_image, read_labels
from napari_unetpp.core.data.io import tiff as tiff_module
from napari_unetpp.core.errors import FileError, MissingPackageError


def save(path: Path, like: Image, values: np.ndarray, axes: str, kind: str = "labels", names=()):
    with open_sink(
        path, like=like, axes=axes, dtype=values.dtype, shape=values.shape, kind=kind,
        channel_names=names,
    ) as sink:  # fmt: skip
        sink[...] = values
        return sink.commit()


@pytest.fixture
def hyperstack(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, np.ndarray]:
    values = rng.integers(0, 4000, (3, 4, 2, 16, 20)).astype(np.uint16)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(
        path, values, imagej=True, byteorder=">", resolution=(4.0, 4.0),
        metadata={"axes": "TZCYX", "spacing": 2.5, "unit": "\\u00B5m", "finterval": 3.0,
                  "min": 5.0, "max": 900.0, "Info": "objective 20x", "xorigin": 1.5},
    )  # fmt: skip
    return path, values


def test_imagej_is_read_lazily_with_its_geometry(hyperstack: tuple[Path, np.ndarray]) -> None:
    path, values = hyperstack
    image = read_image(path)
    assert image.axes == "TZCYX"
    assert image.spacing == (2.5, 0.25, 0.25)
    assert image.unit == "µm"
    assert not isinstance(image.data, np.ndarray)
    assert image.dtype == np.uint16
    assert image.dtype.isnative
    np.testing.assert_array_equal(image.data[1, :, 0, 2:5], values[1, :, 0, 2:5])
    np.testing.assert_array_equal(image.data[-1, ..., ::4], values[-1, ..., ::4])


def test_labels_of_an_imagej_image_are_imagej(hyperstack: tuple[Path, np.ndarray]) -> None:
    path, values = hyperstack
    labels = (values[:, :, 0] > 2000).astype(np.int32) * 300
    out = save(path.with_name("labels.tif"), read_image(path), labels, "TZYX", "instances")
    with tifffile.TiffFile(out) as tif:
        said = tif.imagej_metadata
        assert tif.is_imagej
        assert tif.series[0].axes == "TZYX"
        assert tif.pages[0].tags["XResolution"].value == (4, 1)
        np.testing.assert_array_equal(tif.asarray(), labels)
        assert tif.asarray().dtype == np.uint16
    assert said["spacing"] == 2.5
    assert said["finterval"] == 3.0
    assert said["unit"] == "\\u00B5m"
    assert said["Info"] == "objective 20x"
    assert said["xorigin"] == 1.5
    assert "max" not in said  # the image's display range would show labels wrongly
    back = read_image(out)
    assert (back.spacing, back.unit) == ((2.5, 0.25, 0.25), "µm")


def test_probabilities_of_an_imagej_image(hyperstack: tuple[Path, np.ndarray]) -> None:
    path, _ = hyperstack
    values = np.linspace(0, 1, 2 * 3 * 4 * 16 * 20, dtype=np.float32).reshape(2, 3, 4, 16, 20)
    out = save(path.with_name("p.tif"), read_image(path), values, "CTZYX", "probabilities")
    with tifffile.TiffFile(out) as tif:
        assert tif.is_imagej
        assert tif.series[0].axes == "TZCYX"
        assert tif.imagej_metadata["max"] == 1.0
        np.testing.assert_array_equal(tif.asarray(), values.transpose(1, 2, 0, 3, 4))


def test_ome_geometry_and_names_are_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 255, (2, 3, 16, 20)).astype(np.uint8)
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(
        path, values, photometric="minisblack",
        metadata={"axes": "CZYX", "PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm",
                  "PhysicalSizeY": 0.65, "PhysicalSizeYUnit": "µm", "PhysicalSizeZ": 0.002,
                  "PhysicalSizeZUnit": "mm", "TimeIncrement": 1.5,
                  "Channel": {"Name": ["DAPI", "GFP"]}},
    )  # fmt: skip
    image = read_image(path)
    assert image.axes == "CZYX"
    assert image.spacing == (2.0, 0.65, 0.65)
    assert image.unit == "µm"
    assert image.channel_names == ("DAPI", "GFP")
    probabilities = rng.random((3, 3, 16, 20), dtype=np.float32)
    names = ("nucleus", "border", "centre")
    out = save(tmp_path / "p.tif", image, probabilities, "CZYX", "probabilities", names)
    back = read_image(out)
    assert back.metadata["style"] == "ome"
    assert (back.spacing, back.unit, back.channel_names) == ((2.0, 0.65, 0.65), "µm", names)
    assert back.metadata["ome"]["TimeIncrement"] == "1.5"
    np.testing.assert_array_equal(np.asarray(back.data), probabilities)


def test_positions_of_an_ome_file_become_an_axis(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "p.ome.tif", ome=True) as tif:
        for k in range(3):
            tif.write(np.full((4, 16, 20), k, np.uint8), metadata={"axes": "ZYX"})
    image = read_image(tmp_path / "p.ome.tif")
    assert image.axes == "PZYX"
    assert image.shape == (3, 4, 16, 20)
    assert np.asarray(image.data[:, 1, 2, 3]).tolist() == [0, 1, 2]
    assert np.asarray(image.data[2, 1]).mean() == 2


def test_an_uncompressed_tiff_stays_on_disk(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.arange(20, dtype=np.uint16).reshape(4, 5))
    image = read_image(tmp_path / "a.tif")
    assert isinstance(image.data, np.memmap)
    assert image.data[3].tolist() == [15, 16, 17, 18, 19]
    with pytest.raises(ValueError, match="read-only"):
        image.data[0, 0] = 1


def test_a_large_compressed_tiff_is_read_by_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(tiff_module, "LAZY_FROM_BYTES", 0)
    values = rng.integers(0, 255, (2, 64, 96)).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", compression="zlib", tile=(32, 32))
    image = read_image(path, axes="TYX")
    assert not isinstance(image.data, np.ndarray)
    np.testing.assert_array_equal(image.data[1, 30:40, 5], values[1, 30:40, 5])
    np.testing.assert_array_equal(np.asarray(image.data), values)
    del image
    gc.collect()  # an open file would warn here, and warnings are errors


@pytest.mark.parametrize("compression", ["lzw", "zstd", "packbits", "deflate", "lzma"])
def test_compressions(tmp_path: Path, compression: str, rng: np.random.Generator) -> None:
    values = rng.integers(0, 4000, (32, 48)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression)
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "a.tif").data), values)


def test_a_compression_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 48), np.uint8), compression="lzw")

    class Nothing:
        def __getitem__(self, key: object) -> object:
            raise KeyError(f"{key} requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Nothing())
    with pytest.raises(MissingPackageError, match=r"is compressed \(LZW\).*imagecodecs"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_rgb_has_its_samples_last(tmp_path: Path, planar: str, rng: np.random.Generator) -> None:
    values = rng.integers(0, 255, (16, 20, 3)).astype(np.uint8)
    stored = values if planar == "contig" else values.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXS"
    np.testing.assert_array_equal(np.asarray(image.data[...]), values)


@pytest.mark.parametrize(
    ("shape", "options", "axes"),
    [
        ((5, 16, 20), {}, "ZYX"),
        ((3, 5, 16, 20), {}, "CZYX"),
        ((9, 5, 16, 20), {}, "TZYX"),
        ((5, 16, 20), {"metadata": {"axes": "TYX"}}, "TYX"),
        ((16, 20, 2), {"planarconfig": "contig"}, "YXC"),
    ],
)
def test_axes_of_a_plain_tiff(
    tmp_path: Path, shape: tuple[int, ...], options: dict, axes: str
) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="minisblack", **options
    )
    assert read_image(tmp_path / "a.tif").axes == axes


def test_a_palette_gives_values_not_colours(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="palette",
        colormap=np.random.default_rng(1).integers(0, 65535, (3, 256)).astype(np.uint16),
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / "a.tif").data), values)


def test_one_bit_pixels_become_bytes(tmp_path: Path) -> None:
    values = np.eye(16, dtype=bool)
    tifffile.imwrite(tmp_path / "a.tif", values)
    image = read_image(tmp_path / "a.tif")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(image.data), values.astype(np.uint8))


def test_resolution_in_centimetres_is_a_spacing_and_inches_are_not(tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "cm.tif", values, resolution=(20000, 10000), resolutionunit=3)
    image = read_image(tmp_path / "cm.tif")
    assert image.spacing == (1.0, 0.5)
    assert image.unit == "µm"
    tifffile.imwrite(tmp_path / "inch.tif", values, resolution=(72, 72), resolutionunit=2)
    image = read_image(tmp_path / "inch.tif")
    assert image.spacing is None
    out = save(tmp_path / "o.tif", image, values, "YX")
    with tifffile.TiffFile(out) as tif:
        assert tif.pages[0].tags["XResolution"].value == (72, 1)
        assert json.loads(tif.pages[0].description)["axes"] == "YX"


def test_spacing_and_axes_of_the_user_win(hyperstack: tuple[Path, np.ndarray]) -> None:
    image = read_image(hyperstack[0], axes="ZTCYX", spacing=(5, 1, 1))
    assert image.axes == "ZTCYX"
    assert image.spacing == (5.0, 1.0, 1.0)
    assert image.unit == "µm"
    image = read_image(hyperstack[0], axes="tpcyx")
    assert image.spacing == (0.25, 0.25)


def test_over_four_gigabytes_a_bigtiff_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiff_module, "_CLASSIC_LIMIT", 1000)
    like = Image.from_array(np.zeros((50, 50), np.uint8), spacing=(0.5, 0.5), unit="µm")
    values = np.arange(2500, dtype=np.uint16).reshape(50, 50)
    out = save(tmp_path / "o.tif", like, values, "YX")
    with tifffile.TiffFile(out) as tif:
        assert tif.is_bigtiff
        assert tif.is_ome  # ImageJ's own kind ends at 4 GB
        np.testing.assert_array_equal(tif.asarray(), values)
    assert read_image(out).spacing == (0.5, 0.5)


def test_every_nuclei_image_kind_is_read(shared_data: Path) -> None:
    axes = {"YX": 0, "YXS": 0}
    for path in sorted((shared_data / "nuclei" / "images").glob("*.tif"))[:40]:
        image = read_image(path)
        labels = read_labels(shared_data / "nuclei" / "masks" / path.name)
        assert image.spatial_shape == labels.spatial_shape == labels.shape
        assert labels.dtype == np.uint16
        assert np.asarray(labels.data).max() > 0
        axes[image.axes] += 1
    assert axes["YX"] > 0
    assert axes["YXS"] > 0


def test_a_real_volume_without_named_axes(shared_data: Path) -> None:
    image = read_image(shared_data / "small" / "plantseg_3d" / "images" / "sample_ovule.tif")
    assert image.axes == "ZYX"
    assert image.shape == (32, 128, 128)


def test_labels_are_narrowed_band_by_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_module.bands, "__defaults__", (200,))
    monkeypatch.setattr(atomic_module, "_RELEASE_AFTER", 100)
    labels = np.arange(3 * 7 * 10, dtype=np.int64).reshape(3, 7, 10) * 300
    like = Image.from_array(np.zeros((3, 7, 10), np.uint8), spacing=(2, 1, 1), unit="mm")
    out = save(tmp_path / "o.tif", like, labels, "ZYX", "instances")
    with tifffile.TiffFile(out) as tif:
        assert tif.asarray().dtype == np.uint16
        np.testing.assert_array_equal(tif.asarray(), labels)


def in_two_files(folder: Path, values: np.ndarray, **options: object) -> Path:
    """Write an OME image of two planes, the second one in a file of its own."""
    names = ("a.ome.tif", "b.ome.tif")
    height, width = values.shape[1:]
    planes = "".join(
        f'<TiffData FirstZ="{k}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:0000000{k}-0000-0000-0000-000000000000</UUID>'
        "</TiffData>"
        for k, name in enumerate(names)
    )
    for k, name in enumerate(names):
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:0000000{k}-0000-0000-0000-000000000000">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="{width}" SizeY="{height}" SizeZ="2" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0"/>{planes}</Pixels></Image></OME>'
        )
        # The second file is the larger one, so its pixels lie beyond the end of the first.
        padding = {"extratags": [(65000, 7, 50000, bytes(50000), True)]} if k else {}
        tifffile.imwrite(
            folder / name, values[k], description=text, metadata=None, **padding, **options
        )
    return folder / names[0]


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_an_ome_image_in_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None, lazily: bool
) -> None:
    values = np.arange(2 * 16 * 20, dtype=np.uint16).reshape(2, 16, 20)
    path = in_two_files(tmp_path, values, compression=compression)
    if lazily:
        monkeypatch.setattr(tiff_module, "LAZY_FROM_BYTES", 0)
    image = read_image(path)
    assert image.axes == "ZYX"
    np.testing.assert_array_equal(image.data[1, 3:5], values[1, 3:5])
    np.testing.assert_array_equal(np.asarray(image.data), values)
    os.truncate(tmp_path / "b.ome.tif", (tmp_path / "b.ome.tif").stat().st_size - 20)
    with pytest.raises(FileError, match=r"b\.ome\.tif.* is damaged or cut off"):
        read_image(path)
    (tmp_path / "b.ome.tif").unlink()
    with pytest.raises(FileError, match=r"OME series failed to read 'b\.ome\.tif'"):
        read_image(path)


def test_gray_with_opacity_is_gray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(16 * 20 * 2, dtype=np.uint8).reshape(16, 20, 2)
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig",
        extrasamples=["unassalpha"], compression="zlib",
    )  # fmt: skip
    for limit in (2**20, 0):
        monkeypatch.setattr(tiff_module, "LAZY_FROM_BYTES", limit)
        image = read_image(tmp_path / "a.tif")
        assert image.axes == "YX"
        np.testing.assert_array_equal(image.data[3:5], values[3:5, :, 0])
        np.testing.assert_array_equal(np.asarray(image.data), values[..., 0])


def test_positions_are_written_as_images_with_their_geometry(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "p.ome.tif", ome=True) as tif:
        for k in range(3):
            tif.write(
                np.zeros((4, 16, 20), np.uint8),
                metadata={
                    "axes": "ZYX", "Name": f"well {k}", "PhysicalSizeX": 0.5,
                    "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "µm",
                    "Plane": {"PositionX": [100.0 * k] * 4, "PositionXUnit": ["µm"] * 4},
                },
            )  # fmt: skip
    image = read_image(tmp_path / "p.ome.tif")
    for labels in (
        np.arange(3 * 4 * 16 * 20, dtype=np.int32).reshape(3, 4, 16, 20),
        np.arange(3 * 4 * 16 * 20).reshape(3, 4, 16, 20).astype(np.uint8),
    ):
        out = save(tmp_path / "o.tif", image, labels, "PZYX", "instances")
        back = read_image(out)
        assert back.axes == "PZYX"
        assert (back.spacing, back.unit) == ((2.0, 0.5, 0.5), "µm")
        np.testing.assert_array_equal(np.asarray(back.data), labels)
        said = back.metadata["ome_images"]
        assert [s["Name"] for s in said] == ["well 0", "well 1", "well 2"]
        assert said[2]["planes"]["0", "3"] == {"PositionX": "200.0", "PositionXUnit": "µm"}
    turned = save(tmp_path / "t.tif", image, labels.transpose(1, 0, 2, 3), "ZPYX", "labels")
    np.testing.assert_array_equal(np.asarray(read_image(turned).data), labels)


def test_an_ome_result_keeps_name_description_place_and_units(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros((2, 3, 16, 20), np.uint8), photometric="minisblack",
        metadata={
            "axes": "CZYX", "Name": "cells <1> & 2", "Description": "a < b",
            "PhysicalSizeX": 650.0, "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": 650.0, "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "µm",
            "Plane": {"PositionX": [5.5] * 6, "PositionXUnit": ["mm"] * 6,
                      "PositionZ": [0.0, 2.0, 4.0] * 2, "PositionZUnit": ["µm"] * 6},
        },
    )  # fmt: skip
    image = read_image(tmp_path / "a.ome.tif")
    assert (image.spacing, image.unit) == ((2000.0, 650.0, 650.0), "nm")
    out = save(tmp_path / "o.ome.tif", image, np.ones((3, 16, 20), np.uint8), "ZYX")
    with tifffile.TiffFile(out) as tif:
        said = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]
    pixels = said["Pixels"]
    assert (said["Name"], said["Description"]) == ("cells <1> & 2", "a < b")
    assert [pixels[f"PhysicalSize{a}"] for a in "ZYX"] == [2.0, 650.0, 650.0]
    assert [pixels[f"PhysicalSize{a}Unit"] for a in "ZYX"] == ["µm", "nm", "nm"]
    assert [p["PositionZ"] for p in pixels["Plane"]] == [0.0, 2.0, 4.0]
    assert [(p["PositionX"], p["PositionXUnit"]) for p in pixels["Plane"]] == [(5.5, "mm")] * 3
