"""Pictures in, PNG labels out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink, read_image, read_labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_png(tmp_path: Path, dtype: type) -> None:
    values = (np.arange(20) * (3 if dtype == np.uint8 else 3000)).astype(dtype).reshape(4, 5)
    Pillow.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.axes == "YX"
    assert image.dtype == dtype
    np.testing.assert_array_equal(np.asarray(image.data), values)


@pytest.mark.parametrize(
    ("mode", "samples", "extension"), [("RGB", 3, "png"), ("RGBA", 4, "png"), ("RGB", 3, "bmp")]
)
def test_colour(tmp_path: Path, mode: str, samples: int, extension: str) -> None:
    values = np.arange(20 * samples, dtype=np.uint8).reshape(4, 5, samples)
    Pillow.fromarray(values).save(tmp_path / f"a.{extension}")
    image = read_image(tmp_path / f"a.{extension}")
    assert image.axes == "YXS"
    np.testing.assert_array_equal(np.asarray(image.data), values)
    with Pillow.open(tmp_path / f"a.{extension}") as picture:
        assert picture.mode == mode


def test_jpeg_by_its_content(tmp_path: Path) -> None:
    Pillow.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image.axes == "YXS"
    assert abs(np.asarray(image.data).astype(int) - 90).max() <= 2


def test_a_palette_is_colour_in_an_image_and_index_in_labels(tmp_path: Path) -> None:
    picture = Pillow.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png").data)[1, 0].tolist() == [0, 255, 0]
    assert np.asarray(read_labels(tmp_path / "a.png").data).tolist() == [[0, 1], [2, 1]]


def test_one_bit_becomes_bytes(tmp_path: Path) -> None:
    Pillow.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(image.data), np.eye(4))


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint8, "L"), (np.int32, "I;16"), (bool, "L")])
def test_labels_as_png(tmp_path: Path, dtype: type, mode: str) -> None:
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    labels = (np.arange(20) % 2).astype(dtype).reshape(4, 5)
    with open_sink(
        tmp_path / "a.png", like=like, axes="YX", dtype=dtype, shape=(4, 5), kind="labels"
    ) as sink:
        sink[:] = labels
        sink.commit()
    with Pillow.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
    np.testing.assert_array_equal(np.asarray(read_labels(tmp_path / "a.png").data), labels)


def test_a_picture_of_a_slide_is_no_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 50)
    Pillow.fromarray(np.ones((20, 20), np.uint8)).save(tmp_path / "a.png")
    assert np.asarray(read_image(tmp_path / "a.png").data).sum() == 400
    assert Pillow.MAX_IMAGE_PIXELS == 50
