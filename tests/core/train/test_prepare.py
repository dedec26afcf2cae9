"""From files to samples: what labels mean, the split, the cache, other spacings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import open_sink
from napari_unetpp.core.data.labels import LabelRule, class_map
from napari_unetpp.core.data.pairs import Pair, find_pairs
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Event, Note, drain
from napari_unetpp.core.train.prepare import (
    TableRow,
    TrainingSet,
    prepare,
    read_table,
    split_names,
)

OBJECTS = ModelCard(
    "objects",
    NetworkConfig(out_channels=2),
    (ClassInfo("nucleus"),),
    auxiliary=("centre",),
    normalisation=Normalisation(polarity="bright-objects"),
)
CLASSES = ModelCard("classes", NetworkConfig(out_channels=2), (ClassInfo("a"), ClassInfo("b")))
DENSE = LabelRule("instances", dense=True)


def write(folder: Path, name: str, image: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images", image), ("labels", labels)):
        (folder / kind).mkdir(exist_ok=True)
        tifffile.imwrite(folder / kind / f"{name}.tif", array, photometric="minisblack")


def two_nuclei() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((40, 48), np.uint16)
    labels[5:15, 5:15], labels[20:30, 30:44] = 7, 9
    return (labels > 0).astype(np.uint8) * 200 + 20, labels


def samples_of(folder: Path, card: ModelCard, rule: LabelRule, **options: object) -> TrainingSet:
    pairs = find_pairs(folder / "images", folder / "labels")
    return drain(prepare(pairs, card, rule, folder / "cache", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "values", "classes"),
    [
        (LabelRule("classes", dense=True), [0, 1, 2], [0, 1, 2]),
        (LabelRule("classes", dense=False), [0, 1, 2, 3], [UNLABELLED, 0, 1, 2]),
        (LabelRule("instances", dense=True), [0, 1, 900], [0, 1, 1]),
        (LabelRule("instances", dense=False), [0, 1, 2, 900], [UNLABELLED, 0, 1, 1]),
    ],
)
def test_what_label_values_mean(rule: LabelRule, values: list[int], classes: list[int]) -> None:
    card = CLASSES if rule.kind == "classes" else OBJECTS
    found, objects = class_map(np.array([values]), rule, card, "x")
    assert found.tolist() == [classes]
    assert (objects > 0).tolist() == [[c not in (0, UNLABELLED) for c in classes]]


@pytest.mark.parametrize(
    ("values", "rule", "message"),
    [
        ([0, 3], LabelRule("classes", dense=True), r"has label 3, expected at most 2 \(a, b\)"),
        ([0, 4], LabelRule("classes"), "has label 4, expected at most 3"),
        ([0, -1], LabelRule("classes", dense=True), "0 or more, got -1"),
        ([0, 0], LabelRule("classes"), "nothing is labelled in x"),
    ],
)
def test_labels_that_cannot_be_meant(values: list[int], rule: LabelRule, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_map(np.array([values]), rule, CLASSES, "x")


def test_a_sample_is_what_inference_would_see(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    write(tmp_path, "light", 255 - image, labels)
    made = samples_of(tmp_path, OBJECTS, DENSE, share=0.0)
    (sample,) = made.training
    # A bright background is inverted: nuclei are 1, background is 0.
    assert sample.image.shape == (1, 40, 48)
    assert np.array_equal(sample.image[0] > 0.5, labels > 0)
    assert np.array_equal(sample.labels, labels > 0)
    assert sample.aux is not None
    assert sample.aux.max() == 1.0
    assert sample.aux[0][labels == 0].max() == 0.0
    assert isinstance(sample.image, np.memmap)


def test_the_cache_is_used_again_until_a_file_changes(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    write(tmp_path, "a", image, labels)
    samples_of(tmp_path, OBJECTS, DENSE, share=0.0)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    samples_of(tmp_path, OBJECTS, DENSE, share=0.0)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()} == before
    write(tmp_path, "a", image, np.where(labels == 7, 0, labels))
    (changed,) = samples_of(tmp_path, OBJECTS, DENSE, share=0.0).training
    assert changed.labels.sum() == (labels == 9).sum()


def test_planes_of_a_stack_become_samples_and_unpainted_ones_do_not(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (4, 32, 32)).astype(np.uint8)
    painted = np.zeros((4, 32, 32), np.uint8)
    painted[2, :8], painted[2, 20:] = 1, 2
    write(tmp_path, "stack", image, painted)
    made = samples_of(tmp_path, OBJECTS, LabelRule("instances"), share=0.0)
    (sample,) = made.training
    assert sample.labels[0, 0] == 0
    assert sample.labels[-1, 0] == 1
    assert sample.labels[10, 0] == UNLABELLED


def test_volumes_are_resampled_to_the_models_grid(tmp_path: Path) -> None:
    labels = np.zeros((10, 16, 16), np.uint8)
    labels[2:8, 4:12, 4:12] = 1
    for kind, array in (("images", labels * 100), ("labels", labels)):
        (tmp_path / kind).mkdir()
        metadata = {"axes": "ZYX", "spacing": 4.0, "unit": "mm"}
        tifffile.imwrite(
            tmp_path / kind / "v.tif",
            array,
            imagej=True,
            resolution=(0.5, 0.5),
            metadata=metadata,
        )
    card = ModelCard(
        "v",
        NetworkConfig(ndim=3),
        (ClassInfo("a"),),
        axes="ZYX",
        spacing=(2.0, 2.0, 2.0),
        orientation="SPL",
        normalisation=Normalisation("window", 0, 100),
    )
    made = samples_of(tmp_path, card, LabelRule("classes", dense=True), share=0.0)
    (sample,) = made.training
    assert sample.space == (20, 16, 16)
    assert sample.labels.sum() == 12 * 8 * 8
    assert np.abs((sample.image[0] > 0.5).sum() - 12 * 8 * 8) <= 2 * 64


def test_split_is_kept_when_images_are_added() -> None:
    names = [f"n{k}" for k in range(20)]
    first = split_names(names, {}, 0.2, 0)
    assert 1 <= len(first) <= 8
    assert first == split_names(names[::-1], {}, 0.2, 0)
    assert first != split_names(names, {}, 0.2, 1)
    later = split_names([*names, *(f"m{k}" for k in range(50))], {}, 0.2, 0)
    assert later & set(names) == first
    assert 5 <= len(later) <= 25
    fixed = split_names(names, {"n0": TableRow("held-out"), "n1": TableRow("train")}, 0.2, 0)
    assert fixed == (first | {"n0"}) - {"n1"}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.99])
def test_small_numbers_of_images(count: int, share: float) -> None:
    names = [str(k) for k in range(count)]
    for seed in range(5):
        held_out = split_names(names, {}, share, seed)
        assert (1 if count > 1 else 0) <= len(held_out) <= count - 1
    assert not split_names(names, {}, 0.0, 0)


def test_the_table_fixes_sides_classes_and_weights(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "name,split,classes,weight\np,held-out,,\nq,train,b,2\nr,,a;b,\nz,,,\n"
    )
    table = read_table(tmp_path / "t.csv", CLASSES)
    assert table["q"] == TableRow("train", ("b",), 2.0)
    assert table["r"].classes == ("a", "b")
    rng = np.random.default_rng(0)
    for name in "pqr":
        labels = np.zeros((32, 32), np.uint8)
        labels[:4] = 2
        write(tmp_path, name, rng.integers(0, 255, (32, 32)).astype(np.uint8), labels)
    events: list[Event] = []
    pairs = find_pairs(tmp_path / "images", tmp_path / "labels")
    rule = LabelRule("classes", dense=True)
    made = drain(prepare(pairs, CLASSES, rule, tmp_path / "c", table=table), events.append)
    assert [s.name for s in made.held_out] == ["p"]
    by_name = {s.name: s for s in made.training}
    assert by_name["q"].known == (False, True)
    assert by_name["q"].weight == 2.0
    assert by_name["r"].known == (True, True)
    assert any("1 name(s) of the table have no image, such as z" in str(e) for e in events)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,split\na,train\n", "expected a column 'name'"),
        ("name,split\na,test\n", "line 2: split must be train or held-out, got 'test'"),
        ("name,classes\na,a;c\n", "unknown class 'c'; expected some of a, b"),
        ("name,weight\na,heavy\n", "weight must be a number from 0, got 'heavy'"),
        ("name,weight\na,-1\n", "weight must be a number from 0, got '-1'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "t.csv", CLASSES)


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        read_table(tmp_path / "none.csv", CLASSES)


def test_shapes_that_differ_are_refused_with_both(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    write(tmp_path, "a", image, labels[:-1])
    with pytest.raises(InputError, match=r"a must have the same shape, got Y=40 x X=48 and Y=39"):
        samples_of(tmp_path, OBJECTS, DENSE)


def test_nothing_left_to_train_on_is_refused(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    write(tmp_path, "a", image, labels)
    table = {"a": TableRow("held-out")}
    with pytest.raises(InputError, match="at least one image that is not held out"):
        samples_of(tmp_path, OBJECTS, DENSE, table=table)


def test_one_image_says_that_there_will_be_no_scores(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    write(tmp_path, "a", image, labels)
    events: list[Event] = []
    pairs = [Pair("a", tmp_path / "images" / "a.tif", tmp_path / "labels" / "a.tif")]
    drain(prepare(pairs, OBJECTS, DENSE, tmp_path / "c"), events.append)
    assert any(isinstance(e, Note) and e.code == "no-held-out" for e in events)


def test_the_digest_follows_files_rules_and_split(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    for name in "ab":
        write(tmp_path, name, image, labels)

    def digest(card: ModelCard = OBJECTS, **options: object) -> str:
        settings = {"share": 0.0} | options
        return samples_of(tmp_path, card, DENSE, **settings).digest

    first = digest()
    assert first == digest()
    window = replace(OBJECTS, normalisation=Normalisation("window", 0, 255))
    changed = [
        digest(window),
        digest(table={"a": TableRow("held-out")}),
        digest(table={"a": TableRow(weight=2.0)}),
    ]
    write(tmp_path, "a", image, labels * 2)
    changed.append(digest())
    assert len({first, *changed}) == 5


def test_a_change_deep_in_a_zarr_is_seen(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    image, labels = two_nuclei()
    for kind, array in (("images", image), ("labels", labels)):
        (tmp_path / kind).mkdir()
        like = Image.from_array(array, "YX")
        path = tmp_path / kind / "z.ome.zarr"
        with open_sink(
            path, like=like, axes="YX", dtype=array.dtype, shape=array.shape, kind="labels"
        ) as sink:
            sink[...] = array
            sink.commit()
    (before,) = samples_of(tmp_path, OBJECTS, DENSE, share=0.0).training
    assert before.labels.sum() == (labels > 0).sum()
    root = zarr.open_group(tmp_path / "labels" / "z.ome.zarr", mode="r+")
    first = next(a for _, a in sorted(root.arrays()))
    first[:] = np.where(labels == 7, 0, labels)
    (after,) = samples_of(tmp_path, OBJECTS, DENSE, share=0.0).training
    assert after.labels.sum() == (labels == 9).sum()


def test_labels_that_lie_elsewhere_are_said(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    labels = np.zeros((12, 14, 16), np.uint8)
    labels[4:8, 4:8, 4:8] = 1
    for kind, affine in (("images", np.eye(4)), ("labels", np.diag([-1.0, 1, 1, 1]))):
        (tmp_path / kind).mkdir()
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / kind / "v.nii.gz")
    card = ModelCard(
        "v", NetworkConfig(ndim=3), (ClassInfo("a"),), axes="ZYX", orientation="SPL",
        normalisation=Normalisation("window", 0, 1),
    )  # fmt: skip
    events: list[Event] = []
    pairs = find_pairs(tmp_path / "images", tmp_path / "labels")
    rule = LabelRule("classes", dense=True)
    drain(prepare(pairs, card, rule, tmp_path / "c", share=0.0), events.append)
    assert any(isinstance(e, Note) and e.code == "label-geometry" for e in events)


def test_large_object_ids_stay_apart(tmp_path: Path) -> None:
    image, labels = two_nuclei()
    wide = np.where(labels == 7, 2**31 + 5, 0).astype(np.uint32)
    wide[5:15, 15:25] = 1  # touches it
    write(tmp_path, "wide", image, wide)
    (sample,) = samples_of(tmp_path, OBJECTS, DENSE, share=0.0).training
    assert sample.aux is not None
    assert sample.aux[0, 10, 14] < 0.3
    assert sample.aux[0, 10, 15] < 0.3


def test_a_cache_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, labels = two_nuclei()
    write(tmp_path, "a", image, labels)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(FileError, match=r"cannot be written .*No space left"):
        samples_of(tmp_path, OBJECTS, DENSE)
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix == ".npy"]
