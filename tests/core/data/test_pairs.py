"""Images and labels paired by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_unetpp.core.data.pairs import find_pairs
from napari_unetpp.core.errors import FileError, InputError


def fill(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        if name.endswith(".zarr"):
            (folder / name).mkdir()
            (folder / name / "zarr.json").write_text("{}")
        else:
            (folder / name).write_text("x")
    return folder


def names(images: Path, labels: Path) -> list[tuple[str, str, str]]:
    return [(p.name, p.image.name, p.labels.name) for p in find_pairs(images, labels)]


def test_pairs_across_formats(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "b.ome.tif", "a.nii.gz", "c.v2.ome.zarr", ".a.tif", "notes.txt")
    labels = fill(tmp_path / "l", "a.nii.gz", "b.png", "c.v2.tif", "metadata.csv")
    assert names(images, labels) == [
        ("a", "a.nii.gz", "a.nii.gz"),
        ("b", "b.ome.tif", "b.png"),
        ("c.v2", "c.v2.ome.zarr", "c.v2.tif"),
    ]


def test_label_suffixes(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.tif", "b.tif", "c.tif", "d.tif", "e_mask.tif")
    labels = fill(
        tmp_path / "l", "a_mask.tif", "b_masks.tif", "c_label.png", "d_Labels.tif", "e_mask.tif"
    )
    assert [p[2] for p in names(images, labels)] == [
        "a_mask.tif", "b_masks.tif", "c_label.png", "d_Labels.tif", "e_mask.tif",
    ]  # fmt: skip


def test_both_in_one_folder(tmp_path: Path) -> None:
    both = fill(tmp_path / "b", "a.tif", "a_mask.tif", "b.tif", "b_mask.tif")
    assert names(both, both) == [("a", "a.tif", "a_mask.tif"), ("b", "b.tif", "b_mask.tif")]


def test_lonely_ones_are_listed(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.tif", *(f"n{k}.tif" for k in range(5)))
    labels = fill(tmp_path / "l", "a.tif", "z.tif")
    words = r"got 5 images \(n0, n1, n2, \.\.\.\) and 1 label file \(z\) without a partner"
    with pytest.raises(InputError, match=words):
        find_pairs(images, labels)


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.tif", "a.png")
    labels = fill(tmp_path / "l", "a.tif")
    with pytest.raises(InputError, match=r"'a' comes twice: a.png and a.tif"):
        find_pairs(images, labels)


def test_folders_without_images(tmp_path: Path) -> None:
    images = fill(tmp_path / "i", "a.tif")
    with pytest.raises(FileError, match="folder of labels was expected at"):
        find_pairs(images, tmp_path / "none")
    with pytest.raises(FileError, match="holds no images that can be read"):
        find_pairs(fill(tmp_path / "e", "a.txt"), images)


def test_the_real_folders(shared_data: Path) -> None:
    pairs = find_pairs(shared_data / "nuclei" / "images", shared_data / "nuclei" / "masks")
    assert len(pairs) == 596
    assert all(p.image.name == p.labels.name == f"{p.name}.tif" for p in pairs)
    assert len(find_pairs(
        shared_data / "ct_head_neck" / "images", shared_data / "ct_head_neck" / "masks"
    )) == 140  # fmt: skip
