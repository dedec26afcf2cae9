"""Painting in Slicer's editor, fine-tuning on it, and where to paint next, with the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.model.cards import read_card
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import RunRequest

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

from slicer_helpers import Patient, add_painted, paint, vessel_strokes, vessels
from UNetPPLib import Painted, Predictions, Segments, Volumes
from UNetPPLib.Logic import UNetPPLogic
from UNetPPLib.Session import Session
from UNetPPLib.Teaching import TuneOptions

SHAPE = (6, 8, 10)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    # One thread: two of them lose most of their time where other programs compute as well.
    shared = Session(lambda: Engine(env={"OMP_NUM_THREADS": "1"}))
    yield shared
    shared.close()


@pytest.fixture
def logic(session: Session, scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "réglages"))
    return UNetPPLogic(session)


def block(*spans: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*s) for s in spans)] = True
    return mask


# Painted segments to painted labels


def test_segments_become_labels_by_their_id(add_ct: Callable[..., Any], scene: Any) -> None:
    volume = add_ct()
    node, ids = add_painted(scene, volume, ("a", "b", "elsewhere"))
    background, larynx = block((0, 2), (0, 8), (0, 3)), block((3, 5), (2, 4), (5, 9))
    paint(node, ids["a"], volume, background)
    paint(node, ids["b"], volume, larynx)
    paint(node, ids["elsewhere"], volume, block((5, 6), (0, 8), (0, 10)))
    # The order of segments and their names say nothing.
    classes = {ids["b"]: "larynx", ids["a"]: "background"}
    names = [c.name for c in read_card("ct-head-neck").classes]
    labels, notes = Painted.labels_of(node, volume, classes, names)
    np.testing.assert_array_equal(labels == 1, background)
    np.testing.assert_array_equal(labels == 2 + names.index("larynx"), larynx)
    assert set(np.unique(labels)) == {0, 1, 7}
    assert notes == []
    node.GetSegmentation().GetSegment(ids["b"]).SetName("renamed")
    again, _ = Painted.labels_of(node, volume, classes, names)
    np.testing.assert_array_equal(again, labels)


def test_what_is_painted_twice_is_left_out_and_said(add_ct: Callable[..., Any], scene: Any) -> None:
    volume = add_ct()
    node, ids = add_painted(scene, volume, ("a", "b"))
    paint(node, ids["a"], volume, block((0, 2), (0, 8), (0, 10)))
    paint(node, ids["b"], volume, block((1, 3), (0, 8), (0, 10)))
    classes = {ids["a"]: "background", ids["b"]: "larynx"}
    labels, notes = Painted.labels_of(node, volume, classes, ["larynx"])
    assert [int((labels[z] == 0).all()) for z in range(6)] == [0, 1, 0, 1, 1, 1]
    assert notes[0].startswith("80 voxels are painted as two classes")


def test_a_first_guess_goes_by_names_and_leaves_predictions_out(
    add_ct: Callable[..., Any], scene: Any
) -> None:
    volume, card = add_ct(), read_card("ct-head-neck")
    node, ids = add_painted(scene, volume, ("Background", "LARYNX", "tumour"))
    Predictions.write(node, volume, np.full(SHAPE, 7), card)
    known = [c.name for c in card.classes]
    classes = Painted.default_classes(node, known)
    assert classes == {
        ids["Background"]: "background", ids["LARYNX"]: "larynx", ids["tumour"]: "tumour",
    }  # fmt: skip
    assert Painted.class_names(classes, known) == (*known, "tumour")


def test_nothing_painted_and_paint_beside_the_image_are_said(
    add_ct: Callable[..., Any], add_transform: Callable[..., Any], scene: Any
) -> None:
    volume = add_ct()
    node, ids = add_painted(scene, volume, ("a",))
    with pytest.raises(InputError, match="nothing is painted in painted"):
        Painted.labels_of(node, volume, {ids["a"]: "background"}, [])
    with pytest.raises(InputError, match="a segment for each class"):
        Painted.labels_of(None, volume, {}, [])
    volume.SetAndObserveTransformNodeID(add_transform(np.eye(4)).GetID())
    with pytest.raises(InputError, match="strokes lie beside the image"):
        Painted.labels_of(node, volume, {ids["a"]: "background"}, [])


# Fine-tuning


@pytest.mark.slow
def test_paint_and_fine_tune_the_ct_model(
    logic: UNetPPLogic, painted_patient: tuple[Any, Any, dict[str, str]], tmp_path: Path
) -> None:
    volume, node, classes = painted_patient
    before = {i: Segments.fingerprint(node, i) for i in Segments.ids_of(node)}
    said: list[str] = []
    outcome = logic.finetune(
        volume, node, classes, out=str(tmp_path / "m.safetensors"), seconds=3, progress=said.append
    )
    report = outcome.report
    assert set(report["levels"]) == {"1", "2", "3", "4"}
    # The organs are where the model finds them, so the strokes agree with it.
    assert max(row["before"] for row in report["levels"].values()) > 0.5
    best = max(row["after"] for row in report["levels"].values())
    assert best >= max(row["before"] for row in report["levels"].values()) - 1e-6
    assert (outcome.path is None) == report["base_kept"]
    assert any(text.startswith("step ") for text in said)
    assert said[-1].startswith("fine-tuned in ")
    # What was painted is never written.
    assert {i: Segments.fingerprint(node, i) for i in Segments.ids_of(node)} == before


def test_a_fine_tuned_model_gives_the_same_voxels_in_both_viewers(
    logic: UNetPPLogic,
    painted_vessels: tuple[Any, Any, dict[str, str]],
    scene: Any,
    small_base: str,
    tmp_path: Path,
) -> None:
    volume, node, classes = painted_vessels
    array, tubes = vessels()
    out = tmp_path / "modèle à moi.safetensors"
    # Until the strokes are learned, however long it takes here.
    task = logic.start_finetune(
        volume, node, TuneOptions(small_base, classes, str(out), seconds=600)
    )
    logic.session.wait(
        lambda: (bool(task.path) and max(task.scores.values()) > 0.5) or not task.running, 300
    )
    task.cancel()
    assert logic.session.wait(lambda: not task.running, 60)
    outcome = task.result
    levels = outcome.report["levels"].values()
    before, after = (max(row[key] for row in levels) for key in ("before", "after"))
    assert after > before
    assert not outcome.report["base_kept"]
    assert outcome.path == str(out)
    assert read_card(str(out)).parent.startswith("small ")

    organs = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    result = logic.segment(volume, organs, model=str(out), level=2)
    here = Segments.segment_array(organs, result["segments"]["vessel"], volume)
    assert 2 * (here & tubes).sum() / (here.sum() + tubes.sum()) > 0.6
    there = through_napari(logic.session, array, (1.0, 1.0, 1.0), str(out), 2)
    np.testing.assert_array_equal(here, there == 1)

    # Strokes stay on the side they were on.
    again = logic.finetune(
        volume, node, classes, str(out), out=str(tmp_path / "two.safetensors"), seconds=2,
        split=outcome.split,
    )  # fmt: skip
    assert again.split == outcome.split


def through_napari(
    session: Session, array: NDArray[Any], spacing: Any, model: str, level: int
) -> NDArray[Any]:
    """Return what napari's dock asks the engine for, from an image layer."""
    napari = pytest.importorskip("napari")
    from napari_unetpp.engine.protocol import ModelRequest
    from napari_unetpp.widget.layer_image import layer_source

    layer = napari.layers.Image(array, scale=spacing, units=("mm",) * 3, name="CT")
    sink = np.zeros(array.shape, np.uint8)
    source = layer_source(layer, "ZYX")
    session.engine.run(source, RunRequest(ModelRequest(model), level), sink).wait(120)
    return sink


def test_a_model_of_napari_opens_in_slicer_and_gives_the_same_voxels(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient
) -> None:
    """The bundled model, which napari's dock offers as well."""
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    organs = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    result = logic.segment(volume, organs, level=1)
    spacing = np.abs(np.diag(patient.ijk_to_ras))[2::-1]
    there = through_napari(logic.session, patient.ct, spacing, "ct-head-neck", 1)
    for value, found in enumerate(result["segments"].values(), start=1):
        np.testing.assert_array_equal(Segments.segment_array(organs, found, volume), there == value)


@pytest.fixture
def painted_vessels(add_ct: Callable[..., Any], scene: Any) -> tuple[Any, Any, dict[str, str]]:
    """Return volume, segmentation painted through the editor's logic, and classes."""
    volume = add_ct(vessels()[0], np.diag([-1.0, -1.0, 1.0, 1.0]))
    node, ids = add_painted(scene, volume, ("background", "tube"))
    for name, stroke in vessel_strokes().items():
        paint(node, ids[name], volume, stroke)
    return volume, node, {ids["background"]: "background", ids["tube"]: "vessel"}


def test_the_scene_is_closed_in_mid_fine_tuning(
    logic: UNetPPLogic,
    painted_vessels: tuple[Any, Any, dict[str, str]],
    scene: Any,
    small_base: str,
) -> None:
    volume, node, classes = painted_vessels
    task = logic.start_finetune(volume, node, TuneOptions(small_base, classes, seconds=60))
    assert logic.session.wait(lambda: task.status.startswith("step"), 60)
    scene.Clear(0)
    assert task.state == "cancelled"
    assert task.status.startswith("stopped, because the scene was closed.")
    assert not task.path or Path(task.path).is_file()


def test_stop_keeps_the_best_so_far(
    logic: UNetPPLogic, painted_vessels: tuple[Any, Any, dict[str, str]], small_base: str
) -> None:
    volume, node, classes = painted_vessels
    task = logic.start_finetune(volume, node, TuneOptions(small_base, classes, seconds=100))
    assert logic.session.wait(lambda: bool(task.path) or not task.running, 120)
    task.cancel()
    assert logic.session.wait(lambda: not task.running, 30)
    assert task.state == "done"
    assert read_card(task.path).parent.startswith("small ")


def test_a_model_that_cannot_be_written_is_a_message(
    logic: UNetPPLogic,
    painted_vessels: tuple[Any, Any, dict[str, str]],
    small_base: str,
    tmp_path: Path,
) -> None:
    volume, node, classes = painted_vessels
    (tmp_path / "full").write_text("a file where a folder should be")
    with pytest.raises((FileError, OSError, InputError), match="full"):
        logic.finetune(
            volume, node, classes, small_base, out=str(tmp_path / "full" / "m.safetensors"),
            seconds=3,
        )  # fmt: skip


def test_the_next_place_to_paint_moves_the_slices_there(
    logic: UNetPPLogic, add_ct: Callable[..., Any], scene: Any, patient: Patient
) -> None:
    volume = add_ct(patient.ct, patient.ijk_to_ras)
    node, ids = add_painted(scene, volume, ("bg",))
    corner = np.zeros(patient.ct.shape, bool)
    corner[:2, :4, :4] = True
    paint(node, ids["bg"], volume, corner)
    red = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    red.SetOrientationToAxial()
    task = logic.start_suggest(volume, node, "ct-head-neck", {ids["bg"]: "background"})
    assert logic.session.wait(lambda: not task.running, 60)
    assert task.state == "done", task.status
    scores = [place.score for place in task.result]
    assert len(scores) >= 2
    assert scores == sorted(scores, reverse=True)
    box = task.result[0].box
    place = logic.jump(volume, box)
    middle = [(a + b - 1) / 2 for a, b in box]
    expected = Volumes.read(volume).affine @ (*middle, 1)
    np.testing.assert_allclose(place, expected[:3], atol=1e-6)
    assert red.GetSliceToRAS().GetElement(2, 3) == pytest.approx(place[2])
