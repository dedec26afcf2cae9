"""``segment``: results equal the core's, formats keep what they hold, JSON says what happened."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as Pillow

from napari_unetpp.core.data.io import read_image
from napari_unetpp.core.run.api import segment_array

FAST = ("--device", "cpu", "--precision", "float32")


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    """Return a small volume with an oblique-free affine, 3 by 2.5 by 2.5 mm."""
    data = np.random.default_rng(5).integers(-900, 900, (24, 20, 18)).astype(np.int16)  # (X, Y, Z)
    affine = np.diag([-2.5, -2.5, 3.0, 1.0])
    affine[:3, 3] = (20.0, 30.0, -40.0)
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "head.nii.gz")
    return tmp_path / "head.nii.gz"


@pytest.mark.parametrize("level", [1, 2, 3, 4, "ensemble"])
def test_labels_equal_the_core_at_every_level(
    level: int | str, command, models, image_file: Path, blobs: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "labels.tif"
    outcome = command(
        "segment", image_file, "--model", models["nuclei"], "--level", level, "--out", out, *FAST
    )
    assert outcome.code == 0
    expected = segment_array(blobs, str(models["nuclei"]), level, precision="float32", device="cpu")
    found = tifffile.imread(out)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.mean() < 1


def test_json_says_what_happened(command, models, image_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.tif"
    outcome = command(
        "segment", image_file, "--model", models["nuclei"], "--out", out, "--json", *FAST
    )
    (entry,) = outcome.json
    seconds = entry.pop("seconds")
    assert 0 < seconds < 60
    assert entry == {
        "image": str(image_file),
        "out": str(out),
        "model": "tiny-nuclei",
        "level": 4,
        "kind": "labels",
        "device": "cpu",
        "precision": "float32",
        "backend": "torch",
        "axes": "YX",
        "shape": [64, 80],
        "megapixels": 64 * 80 / 1e6,
        "notes": [],
    }
    assert outcome.err == ""


def test_people_get_a_line(command, models, image_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.tif"
    outcome = command("segment", image_file, "--model", models["plain"], "--out", out, *FAST)
    assert outcome.out.startswith(f"{out}: labels of tiny-plain at L4, 0.01 megapixels in ")
    assert outcome.out.endswith(" s on cpu (float32)\n")


def test_the_default_level_is_the_deepest_trained(
    command, models, image_file: Path, tmp_path: Path
) -> None:
    outcome = command(
        "segment", image_file, "--model", models["shallow"], "--out", tmp_path / "a.tif", "--json",
        *FAST,
    )  # fmt: skip
    assert outcome.json[0]["level"] == 2


def test_threshold_is_used(
    command, models, image_file: Path, blobs: np.ndarray, tmp_path: Path
) -> None:
    counts = []
    for threshold in ("0.2", "0.9"):
        out = tmp_path / f"{threshold}.tif"
        command(
            "segment", image_file, "--model", models["plain"], "--threshold", threshold, "--level",
            "1", "--out", out, *FAST,
        )  # fmt: skip
        counts.append(int(tifffile.imread(out).sum()))
    probabilities = segment_array(
        blobs, str(models["plain"]), 1, kind="probabilities", precision="float32", device="cpu"
    )
    assert counts == [int((probabilities > t).sum()) for t in (0.2, 0.9)]
    assert counts[0] > counts[1]


def test_probabilities_have_named_channels(
    command, models, image_file: Path, blobs: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "p.ome.tif"
    outcome = command(
        "segment", image_file, "--model", models["nuclei"], "--kind", "probabilities", "--out", out,
        "--json", *FAST,
    )  # fmt: skip
    assert outcome.json[0]["axes"] == "CYX"
    image = read_image(out)
    assert image.channel_names == ("nucleus", "centre")
    expected = segment_array(
        blobs, str(models["nuclei"]), 4, kind="probabilities", precision="float32", device="cpu"
    )
    np.testing.assert_array_equal(np.asarray(image.data), expected)


def test_objects_are_counted_over_all_planes(
    command, models, blobs: np.ndarray, tmp_path: Path
) -> None:
    stack = np.stack([blobs, blobs[::-1], blobs[:, ::-1]])
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    out = tmp_path / "objects.tif"
    outcome = command(
        "segment", tmp_path / "stack.tif", "--model", models["nuclei"], "--kind", "instances",
        "--level", "1", "--out", out, "--json", *FAST,
    )  # fmt: skip
    (entry,) = outcome.json
    planes = tifffile.imread(out)
    assert planes.dtype == np.uint16
    assert entry["objects"] == sum(len(np.unique(p)) - 1 for p in planes) > 0
    assert entry["megapixels"] == stack.size / 1e6


def test_small_objects_are_left_out(
    command, models, blobs: np.ndarray, image_file: Path, tmp_path: Path
) -> None:
    found = []
    for size in (0, 100_000):
        out = tmp_path / f"objects{size}.tif"
        outcome = command(
            "segment", image_file, "--model", models["nuclei"], "--kind", "instances",
            "--level", "1", "--min-size", size, "--out", out, "--json", *FAST,
        )  # fmt: skip
        found.append(outcome.json[0]["objects"])
    assert found[0] > 0
    assert found[1] == 0


def test_a_model_without_a_rule_says_that_objects_are_regions(
    command, models, image_file: Path, tmp_path: Path
) -> None:
    outcome = command(
        "segment", image_file, "--model", models["plain"], "--kind", "instances", "--out",
        tmp_path / "o.tif", "--json", *FAST,
    )  # fmt: skip
    (entry,) = outcome.json
    assert [note["code"] for note in entry["notes"]] == ["no-instance-rule"]
    assert "connected regions" in entry["notes"][0]["message"]
    assert outcome.err == ""
    assert entry["objects"] == tifffile.imread(tmp_path / "o.tif").max()


def test_several_images_go_into_a_new_folder(
    command, models, image_file: Path, blobs: np.ndarray, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    Pillow.fromarray((blobs // 5).clip(0, 255).astype(np.uint8)).save(picture)
    out = tmp_path / "new" / "results"
    outcome = command(
        "segment", image_file, picture, "--model", models["plain"], "--level", "1", "--out", out,
        "--json", *FAST,
    )  # fmt: skip
    assert [Path(entry["out"]) for entry in outcome.json] == [
        out / "cells_labels.tif",
        out / "picture_labels.png",
    ]
    assert sorted(p.name for p in out.iterdir()) == ["cells_labels.tif", "picture_labels.png"]
    with Pillow.open(out / "picture_labels.png") as written:
        labels = np.asarray(written)
    expected = segment_array(
        np.asarray((blobs // 5).clip(0, 255).astype(np.uint8)), str(models["plain"]), 1,
        precision="float32", device="cpu",
    )  # fmt: skip
    np.testing.assert_array_equal(labels, expected)


def test_a_chosen_channel(command, models, blobs: np.ndarray, tmp_path: Path) -> None:
    both = np.stack([np.zeros_like(blobs), blobs])
    tifffile.imwrite(tmp_path / "two.tif", both, imagej=True, metadata={"axes": "CYX"})
    out = tmp_path / "labels.tif"
    outcome = command(
        "segment", tmp_path / "two.tif", "--model", models["plain"], "--channel", 1, "--level", 2,
        "--out", out, *FAST,
    )  # fmt: skip
    assert outcome.code == 0
    expected = segment_array(blobs, str(models["plain"]), 2, precision="float32", device="cpu")
    np.testing.assert_array_equal(tifffile.imread(out), expected)


def test_a_volume_keeps_its_geometry(command, models, volume_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "organs.nii.gz"
    outcome = command(
        "segment", volume_file, "--model", models["ct"], "--level", "1", "--out", out, "--json",
        *FAST,
    )  # fmt: skip
    (entry,) = outcome.json
    assert entry["megavoxels"] == 24 * 20 * 18 / 1e6
    assert (entry["axes"], entry["shape"]) == ("ZYX", [18, 20, 24])
    source, written = nibabel.load(volume_file), nibabel.load(out)
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.shape == source.shape
    values = np.asarray(written.dataobj)
    assert set(np.unique(values)) <= set(range(8))
    assert values.any()


def test_a_spacing_without_unit_is_in_the_models(command, models, tmp_path: Path) -> None:
    data = np.random.default_rng(5).integers(0, 900, (18, 20, 24)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "plain.tif", data, metadata={"axes": "ZYX"})
    outcome = command(
        "segment", tmp_path / "plain.tif", "--axes", "ZYX", "--spacing", "3,2.5,2.5", "--model",
        models["ct"], "--level", "1", "--out", tmp_path / "o.tif", "--json", *FAST,
    )  # fmt: skip
    (entry,) = outcome.json
    assert [note["code"] for note in entry["notes"]] == ["orientation-assumed"]
    expected = segment_array(
        data, str(models["ct"]), 1, "ZYX", (3, 2.5, 2.5), precision="float32", device="cpu"
    )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif"), expected)


def test_an_existing_result_is_replaced_at_the_end(
    command, models, image_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.tif"
    out.write_bytes(b"old")
    command("segment", image_file, "--model", models["plain"], "--level", "1", "--out", out, *FAST)
    assert tifffile.imread(out).shape == (64, 80)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_ctrl_c_leaves_the_target_as_it_was(
    command, models, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    def interrupted(*_: object, **__: object):
        try:
            yield None
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    monkeypatch.setattr("napari_unetpp.core.run.inference.stream", interrupted)
    monkeypatch.setattr("napari_unetpp.core.run.inference.predict", lambda *_, **__: interrupted())
    out = tmp_path / "labels.tif"
    out.write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    outcome = command("segment", image_file, "--model", models["plain"], "--out", out, *FAST)
    assert outcome.code == 130
    assert outcome.out == ""
    assert outcome.err == "napari-unetpp: cancelled; what was not finished was not written.\n"
    assert closed == [True]
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


def test_a_defect_is_no_bad_input(
    command, models, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("napari_unetpp.core.run.inference.predict", defect)
    out = tmp_path / "new" / "a.tif"
    with pytest.raises(ZeroDivisionError):
        command("segment", image_file, "--model", models["plain"], "--out", f"{out.parent}/", *FAST)
    assert not out.parent.exists()


def test_random_numbers_of_the_caller_are_left_alone(
    command, models, image_file: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = float(torch.rand(1))
    torch.manual_seed(5)
    command(
        "segment", image_file, "--model", models["plain"], "--level", "1", "--out",
        tmp_path / "a.tif", *FAST,
    )  # fmt: skip
    assert float(torch.rand(1)) == expected


def test_people_are_told_notes_and_programs_find_them_in_json(
    command, models, image_file: Path, tmp_path: Path
) -> None:
    words = (
        "segment", image_file, "--model", models["plain"], "--kind", "probabilities", "--threshold",
        "0.4", "--level", "1", "--out", tmp_path / "p.tif", *FAST,
    )  # fmt: skip
    told = command(*words).err
    assert told == "cells: the threshold has no influence on this kind of result.\n"
    outcome = command(*words, "--json")
    assert outcome.err == ""
    assert [note["code"] for note in outcome.json[0]["notes"]] == ["threshold-unused"]


def test_the_backend_is_the_one_that_was_asked_for(
    command, models, image_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    found = {}
    for backend in ("torch", "openvino"):
        out = tmp_path / f"{backend}.tif"
        outcome = command(
            "segment", image_file, "--model", models["nuclei"], "--kind", "probabilities",
            "--out", out, "--json", "--backend", backend, *FAST,
        )  # fmt: skip
        assert outcome.json[0]["backend"] == backend
        found[backend] = tifffile.imread(out)
    np.testing.assert_allclose(found["openvino"], found["torch"], atol=1e-4)
    assert found["torch"].std() > 0.01


def test_an_unknown_backend_in_the_environment_is_one_line(
    command, models, image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAPARI_UNETPP_BACKEND", "fast")
    outcome = command(
        "segment", image_file, "--model", models["nuclei"], "--out", tmp_path / "a.tif", *FAST
    )
    assert outcome.code == 2
    assert "NAPARI_UNETPP_BACKEND must be auto, torch or openvino, got 'fast'" in outcome.err
