"""``evaluate``: what it prints for programs and for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.run.api import segment_array

FAST = ("--device", "cpu", "--precision", "float32")
SCORES = ("iou_per_image", "iou_pooled", "dice_per_image", "dice_pooled", "ap50", "score")


@pytest.fixture
def folders(tmp_path: Path, models, blobs: np.ndarray) -> tuple[Path, Path]:
    """Return images, and as truth what the model itself finds at level 4."""
    images, labels = tmp_path / "images", tmp_path / "truth"
    images.mkdir()
    labels.mkdir()
    for name, image in (("a", blobs), ("b", blobs[::-1])):
        tifffile.imwrite(images / f"{name}.tif", image)
        found = segment_array(
            image, str(models["nuclei"]), 4, kind="instances", precision="float32", device="cpu"
        )
        tifffile.imwrite(labels / f"{name}_mask.tif", found.astype(np.uint16))
    return images, labels


def test_json_has_the_promised_keys(
    command, models, folders: tuple[Path, Path], blobs: np.ndarray
) -> None:
    outcome = command(
        "evaluate", "--model", models["nuclei"], "--images", folders[0], "--labels", folders[1],
        "--levels", "4,1,ensemble", "--json", *FAST,
    )  # fmt: skip
    found = outcome.json
    assert outcome.code == 0
    assert set(found) == {"model", "device", "n_images", "levels", "classes"}
    assert (found["model"], found["n_images"]) == ("tiny-nuclei", 2)
    assert list(found["levels"]) == ["4", "1", "ensemble"]
    level = found["levels"]["4"]
    assert set(level) == {*SCORES, "seconds_per_megapixel", "peak_memory_mb"}
    # The truth is the model's own answer less what is too small to be an object.
    assert level["ap50"] == 1.0
    expected = []
    for name, image in (("a", blobs), ("b", blobs[::-1])):
        labels = segment_array(image, str(models["nuclei"]), 4, precision="float32", device="cpu")
        truth = tifffile.imread(folders[1] / f"{name}_mask.tif") > 0
        expected.append((truth & (labels > 0)).sum() / (truth | (labels > 0)).sum())
    assert level["iou_per_image"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert level["seconds_per_megapixel"] > 0
    assert found["levels"]["1"]["iou_per_image"] < level["iou_per_image"]
    assert found["classes"]["nucleus"]["4"]["iou_per_image"] == level["iou_per_image"]


def test_people_get_a_table(command, models, folders: tuple[Path, Path]) -> None:
    outcome = command(
        "evaluate", "--model", models["nuclei"], "--images", folders[0], "--labels", folders[1],
        "--levels", "4", *FAST,
    )  # fmt: skip
    lines = outcome.out.splitlines()
    assert lines[0].startswith("tiny-nuclei on 2 image(s), cpu")
    assert lines[2].split() == [
        "level", "IoU", "IoU", "pooled", "Dice", "Dice", "pooled", "AP50", "score", "s/megapixel",
        "MiB",
    ]  # fmt: skip
    assert lines[3].split()[0] == "L4"
    assert lines[3].split()[5] == "1.000"


def test_auto_has_a_row_with_its_shares(command, models, folders: tuple[Path, Path]) -> None:
    outcome = command(
        "evaluate", "--model", models["nuclei"], "--images", folders[0], "--labels", folders[1],
        "--levels", "2,auto", *FAST,
    )  # fmt: skip
    assert outcome.code == 0
    lines = [line for line in outcome.out.splitlines() if line]
    assert "tiles at L" in lines[1]
    assert [line.split()[0] for line in lines[2:4]] == ["L2", "auto"]
    assert "no tolerance for auto, so 0.05 is used" in outcome.err


def test_all_trained_levels_are_the_default(command, models, folders: tuple[Path, Path]) -> None:
    outcome = command(
        "evaluate", "--model", models["shallow"], "--images", folders[0], "--labels", folders[1],
        "--json", *FAST,
    )  # fmt: skip
    assert list(outcome.json["levels"]) == ["1", "2", "ensemble"]


def test_several_classes_get_a_table_of_their_own(command, models, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    rng = np.random.default_rng(2)
    truth = np.zeros((16, 16, 16), np.uint8)
    truth[2:8, 2:8, 2:8], truth[9:14, 9:14, 9:14] = 1, 7
    for folder, array in (("images", rng.integers(-900, 900, truth.shape)), ("labels", truth)):
        (tmp_path / folder).mkdir()
        one = nibabel.Nifti1Image(array.astype(np.int16), np.diag([-2.5, -2.5, 3.0, 1.0]))
        nibabel.save(one, tmp_path / folder / "p1.nii.gz")
    outcome = command(
        "evaluate", "--model", models["ct"], "--images", tmp_path / "images", "--labels",
        tmp_path / "labels", "--levels", "1", *FAST,
    )  # fmt: skip
    rows = {line.split("  ")[0]: line.split() for line in outcome.out.splitlines() if line}
    assert rows["brainstem"][1] == "1"
    assert rows["mandible"][1] == "1"
    assert rows["larynx"][-2:] == ["0", "–"]
