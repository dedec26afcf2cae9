"""Files and calls that are wrong in one way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from safetensors.numpy import save_file

SENTINEL = b"an earlier result that must survive"


@dataclass
class World:
    """What a case may use: a folder, an image, models, a target with something in it."""

    folder: Path
    image: Path
    target: Path
    models: dict[str, Path]
    patch: pytest.MonkeyPatch

    def tif(self, name: str, array: np.ndarray, **options: object) -> Path:
        tifffile.imwrite(self.folder / name, array, **options)
        return self.folder / name

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def segment(
        self, *more: object, image: object = None, model: object = None, out: object = None
    ) -> list[object]:
        images = image if isinstance(image, list) else [image or self.image]
        words = ["segment", *images, "--model", model or self.models["nuclei"]]
        return [*words, "--out", out or self.target, "--device", "cpu", *more]

    def pairs(
        self, image: np.ndarray, labels: np.ndarray, names: tuple[str, str] = ("a", "a")
    ) -> list[object]:
        folders = self.folder / "images", self.folder / "labels"
        for folder, name, array in zip(folders, names, (image, labels), strict=True):
            folder.mkdir()
            tifffile.imwrite(folder / f"{name}.tif", array)
        return ["--images", folders[0], "--labels", folders[1]]

    def evaluate(self, *more: object, model: str = "nuclei") -> list[object]:
        return ["evaluate", "--model", self.models[model], "--device", "cpu", *more]


@dataclass(frozen=True)
class Case:
    """A slip: how it is made, and what the message must contain."""

    words: Callable[[World], list[object]]
    said: tuple[str, ...]


def small(*shape: int, dtype: str = "uint16") -> np.ndarray:
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def cut(w: World) -> Path:
    whole = w.image.read_bytes()
    return w.file("cut.tif", whole[: len(whole) // 2])


def changed_model(w: World) -> Path:
    content = bytearray(w.models["nuclei"].read_bytes())
    content[-3] ^= 0x40
    return w.file("changed.safetensors", bytes(content))


def foreign_model(w: World) -> Path:
    save_file({"weight": np.zeros(3, np.float32)}, w.folder / "foreign.safetensors")
    return w.folder / "foreign.safetensors"


def five_dimensions(w: World) -> Path:
    import nibabel

    path = w.folder / "five.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2, 2), np.int16), np.eye(4)), path)
    return path


def empty_zarr(w: World) -> Path:
    import zarr

    zarr.create_array(w.folder / "empty.zarr", shape=(0, 8), dtype="uint16")
    return w.folder / "empty.zarr"


def complex_numbers(w: World) -> Path:
    return w.tif("complex.tif", small(8, 8).astype(np.complex64))


def no_gpu(w: World) -> list[object]:
    w.patch.setattr("torch.version.cuda", None)
    w.patch.setattr("torch.version.hip", None, raising=False)
    return w.segment("--device", "cuda")


def no_bfloat16(w: World) -> list[object]:
    w.patch.setattr("napari_unetpp.core.run.precision.native_bfloat16", lambda: False)
    return w.segment("--precision", "bfloat16")


def many_objects(w: World) -> list[object]:
    w.patch.setattr(
        "napari_unetpp.core.run.writing.label_instances",
        lambda x, *_, **__: np.arange(x[0].size, dtype=np.int32).reshape(x.shape[1:]),
    )
    png = w.target.with_suffix(".png")
    png.write_bytes(SENTINEL)
    large = w.tif("large.tif", small(260, 260))
    return w.segment("--kind", "instances", "--precision", "float32", image=large, out=png)


def two_channels(w: World) -> Path:
    return w.tif("two.tif", small(2, 32, 32), imagej=True, metadata={"axes": "CYX"})


def volume(w: World) -> Path:
    return w.tif("volume.tif", small(8, 16, 16), imagej=True, metadata={"axes": "ZYX"})


def same_stem(w: World) -> list[object]:
    other = w.folder / "cells.tif"
    other.write_bytes(w.image.read_bytes())
    return w.segment(image=[w.image, other], out=w.folder / "results")
