"""``finetune`` with little paint, or odd: each case says its own sentence, to both readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from napari_unetpp.core.model.modelfile import read_card
from napari_unetpp.core.tune import start

Paint = Callable[[NDArray[np.uint8]], None]


def one_stroke(paint: NDArray[np.uint8]) -> None:
    paint[16, 10:22] = 2


def one_pixel(paint: NDArray[np.uint8]) -> None:
    paint[16, 16] = 2


def one_class(paint: NDArray[np.uint8]) -> None:
    paint[16, 10:22] = paint[45, 24:36] = paint[20, 45:55] = 2


def background_alone(paint: NDArray[np.uint8]) -> None:
    paint[2, 5:60] = paint[60, 5:40] = 1


def one_of_each(paint: NDArray[np.uint8]) -> None:
    paint[2, 5:60], paint[16, 10:22] = 1, 2


def classes_2_and_7(paint: NDArray[np.uint8]) -> None:
    paint[16, 10:22] = paint[45, 24:36] = 2
    paint[2, 5:60] = paint[60, 5:40] = 7


def nothing(paint: NDArray[np.uint8]) -> None:
    pass


def words(folder: Path, paint: NDArray[Any], base: Path | str, *more: object) -> list[str]:
    tifffile.imwrite(folder / "paint.tif", paint)
    fixed = ["finetune", "--image", folder / "cells.tif", "--painted", folder / "paint.tif",
             "--base", base, "--out", folder / "mine.safetensors", "--steps", 2, "--teacher",
             "none", "--max-seconds", 300, "--device", "cpu", "--precision", "float32"]  # fmt: skip
    return [str(word) for word in (*fixed, *more)]


@pytest.mark.parametrize(
    ("draw", "sentence", "scored"),
    [
        (one_stroke, "Too little is painted to hold anything out, so there is no score; paint a "
         "second stroke of thing.", False),
        (one_pixel, "Too little is painted to hold anything out", False),
        (one_of_each, "paint a second stroke of background, thing.", False),
        (one_class, "No background (1) is painted", True),
        (background_alone, "No stroke shows thing", True),
    ],
)  # fmt: skip
def test_little_paint_gives_a_model_and_a_sentence(
    image_file: Path, blobs: np.ndarray, models: dict[str, Path], command: Any, draw: Paint,
    sentence: str, scored: bool,
) -> None:  # fmt: skip
    paint = np.zeros(blobs.shape, np.uint8)
    draw(paint)
    result = command(*words(image_file.parent, paint, models["plain"], "--json"))
    assert result.code == 0, result.err
    report = result.json
    assert sentence in " ".join(report["sentences"])
    assert (report["cheapest"] is not None) == scored
    assert all((row["after"] is not None) == scored for row in report["levels"].values())
    assert all(row["seconds_per_megapixel"] > 0 for row in report["levels"].values())
    assert bool(read_card(image_file.parent / "mine.safetensors").scores) == scored


def test_people_read_it_too(
    image_file: Path, blobs: np.ndarray, models: dict[str, Path], command: Any
) -> None:
    paint = np.zeros(blobs.shape, np.uint8)
    one_of_each(paint)
    result = command(*words(image_file.parent, paint, models["plain"]))
    assert result.code == 0, result.err
    assert "paint a second stroke of background, thing." in result.out
    assert "s/megapixel" in result.out
    assert "cheapest" not in result.out  # of levels without a score none is
    assert "nan" not in result.out.lower()


@pytest.mark.parametrize(
    ("draw", "base", "message"),
    [
        (nothing, "plain", "nothing is painted (every label is 0); paint a stroke of background"),
        (nothing, "scratch", "nothing is painted (every label is 0)"),
        (classes_2_and_7, "plain", "values 2, 7 are painted, but class 3 is neither painted nor"),
        (one_class, "scratch", "only class 1 is painted, and one value has nothing to differ"),
        (background_alone, "scratch", "no class is painted"),
    ],
)
def test_paint_that_cannot_teach_is_refused_in_one_sentence(
    image_file: Path, blobs: np.ndarray, models: dict[str, Path], command: Any, draw: Paint,
    base: str, message: str,
) -> None:  # fmt: skip
    paint = np.zeros(blobs.shape, np.uint8)
    draw(paint)
    result = command(*words(image_file.parent, paint, models.get(base, base)))
    assert result.code == 2
    (line,) = [x for x in result.err.splitlines() if x.startswith("napari-unetpp: error:")]
    assert message in line
    assert not (image_file.parent / "mine.safetensors").exists()


def test_a_volume_is_told_in_megavoxels(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "SCRATCH_FILTERS", {3: (4, 6, 8)})  # quick
    rng = np.random.default_rng(0)
    volume = rng.normal(60, 8, (8, 32, 32)).astype(np.float32)
    volume[2:6, 8:20, 8:20] += 80
    paint = np.zeros(volume.shape, np.uint8)
    paint[3, 10:12, 10:18] = paint[5, 16:18, 10:18] = 2
    paint[1, 2, 2:20] = paint[7, 28, 2:20] = 1
    tifffile.imwrite(tmp_path / "cells.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "paint.tif", paint, imagej=True, metadata={"axes": "ZYX"})
    result = command(
        "finetune", "--image", tmp_path / "cells.tif", "--painted", tmp_path / "paint.tif",
        "--base", "scratch", "--axes", "ZYX", "--out", tmp_path / "mine.safetensors",
        "--steps", 1, "--max-seconds", 300, "--teacher", "none", "--device", "cpu",
        "--precision", "float32",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "s/megavoxel" in result.out
    assert read_card(tmp_path / "mine.safetensors").axes == "ZYX"
