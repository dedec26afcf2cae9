"""Predictions as segments: names, colours, protection, undo, surfaces, and whose is whose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.config import ModelCard
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.cards import read_card

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

import slicer
import vtk
from slicer_helpers import OBLIQUE, SHEARED, paint
from UNetPPLib import Predictions, Segments
from UNetPPLib.History import History

SHAPE = (6, 8, 10)


@pytest.fixture
def card() -> ModelCard:
    return read_card("ct-head-neck")


@pytest.fixture
def segmentation(scene: Any) -> Any:
    return scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")


@pytest.fixture
def labels(rng: np.random.Generator) -> NDArray[np.uint8]:
    return rng.integers(0, 8, SHAPE).astype(np.uint8)


def array_of(segmentation: Any, found: str, volume: Any) -> NDArray[np.uint8]:
    """Return a segment as Slicer's own utility gives it."""
    array: NDArray[np.uint8] = slicer.util.arrayFromSegmentBinaryLabelmap(
        segmentation, found, volume
    )
    return array


def own_segment(segmentation: Any, volume: Any, name: str, mask: NDArray[Any]) -> str:
    """Add a segment that is not ours."""
    found: str = segmentation.GetSegmentation().AddEmptySegment(name, name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        mask.astype(np.uint8), segmentation, found, volume
    )
    return found


def width_of(segmentation: Any, found: str) -> float:
    """Return how wide the surface of a segment is, in mm."""
    surface = vtk.vtkPolyData()
    assert segmentation.GetClosedSurfaceRepresentation(found, surface)
    return float(surface.GetBounds()[1] - surface.GetBounds()[0])


@pytest.mark.parametrize("matrix", [OBLIQUE, SHEARED], ids=["oblique", "sheared"])
def test_one_class_a_segment_on_the_volumes_own_grid(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard, matrix: Any
) -> None:
    volume = add_ct(ijk_to_ras=matrix)
    written = Predictions.write(segmentation, volume, labels, card)
    inside = segmentation.GetSegmentation()
    names = [inside.GetNthSegment(n).GetName() for n in range(inside.GetNumberOfSegments())]
    assert names == [c.name for c in card.classes]
    for value, info in enumerate(card.classes, start=1):
        found = written.segments[info.name]
        np.testing.assert_array_equal(array_of(segmentation, found, volume), labels == value)
        np.testing.assert_array_equal(
            Segments.segment_array(segmentation, found, volume), labels == value
        )
        assert written.voxels[info.name] == (labels == value).sum()


def test_colour_and_terminology_are_the_classes_own(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    written = Predictions.write(segmentation, add_ct(), labels, card, tags={"UNetPP.level": "4"})
    found = written.segments["left parotid"]
    segment = segmentation.GetSegmentation().GetSegment(found)
    assert tuple(round(c * 255) for c in segment.GetColor()) == (0x64, 0xB5, 0xF6)
    entry = Segments.tag_of(segmentation, found, segment.GetTerminologyEntryTagName())
    assert "SCT^45289007^Parotid gland" in entry
    assert "SCT^7771000^Left" in entry
    assert Segments.tag_of(segmentation, found, "UNetPP.level") == "4"
    assert Segments.tag_of(segmentation, found, "UNetPP.model") == "ct-head-neck"


def test_the_next_prediction_takes_the_place_of_the_last(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    volume = add_ct()
    first = Predictions.write(segmentation, volume, labels, card)
    second = Predictions.write(segmentation, volume, labels[::-1], card)
    assert second.segments == first.segments
    found = second.segments["larynx"]
    np.testing.assert_array_equal(array_of(segmentation, found, volume), labels[::-1] == 6)


def test_other_segments_are_left_every_voxel_of_theirs(
    add_ct: Callable[..., Any], segmentation: Any, card: ModelCard
) -> None:
    volume = add_ct()
    Segments.make_ready(segmentation, volume)
    tumour = np.zeros(SHAPE, np.uint8)
    tumour[2:4, 2:6, 3:7] = 1
    other = own_segment(segmentation, volume, "tumour", tumour)
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 1:5] = 1
    written = Predictions.write(segmentation, volume, labels, card, protect=True)
    np.testing.assert_array_equal(array_of(segmentation, other, volume), tumour)
    brain = array_of(segmentation, written.segments["brainstem"], volume)
    np.testing.assert_array_equal(brain, (labels == 1) & (tumour == 0))
    assert written.notes == ("24 voxels belong to other segments and were left to them",)

    Predictions.write(segmentation, volume, labels, card, protect=False)
    np.testing.assert_array_equal(
        array_of(segmentation, other, volume), (tumour > 0) & (labels == 0)
    )
    brain = array_of(segmentation, written.segments["brainstem"], volume)
    np.testing.assert_array_equal(brain, labels == 1)


def test_a_region_leaves_the_rest_as_it_was(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    volume = add_ct()
    written = Predictions.write(segmentation, volume, labels, card)
    new = np.full(SHAPE, 3, np.uint8)
    Predictions.write(segmentation, volume, new, card, region=((1, 3), (0, 8), (4, 7)))
    expected = labels.copy()
    expected[1:3, :, 4:7] = 3
    for value, name in ((3, "right parotid"), (1, "brainstem")):
        np.testing.assert_array_equal(
            array_of(segmentation, written.segments[name], volume), expected == value
        )


def test_a_segment_that_was_corrected_is_the_users(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    volume = add_ct()
    first = Predictions.write(segmentation, volume, labels, card)
    corrected = np.zeros(SHAPE, np.uint8)
    corrected[5] = 1
    mine = first.segments["mandible"]
    slicer.util.updateSegmentBinaryLabelmapFromArray(corrected, segmentation, mine, volume)
    second = Predictions.write(segmentation, volume, labels, card, protect=False)
    assert second.segments["mandible"] != mine
    assert second.segments["larynx"] == first.segments["larynx"]
    assert "segment mandible is yours" in second.notes[0]
    name = segmentation.GetSegmentation().GetSegment(second.segments["mandible"]).GetName()
    assert name == "mandible (2)"


def test_a_segment_that_is_being_painted_is_never_written(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard, scene: Any
) -> None:
    volume = add_ct()
    first = Predictions.write(segmentation, volume, labels, card)
    busy = first.segments["larynx"]
    editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetAndObserveSegmentationNode(segmentation)
    editor.SetSelectedSegmentID(busy)
    editor.SetActiveEffectName("Paint")
    before = array_of(segmentation, busy, volume).copy()
    second = Predictions.write(segmentation, volume, np.full(SHAPE, 6), card, protect=False)
    np.testing.assert_array_equal(array_of(segmentation, busy, volume), before)
    assert second.segments["larynx"] != busy
    assert any("is being painted and was left alone" in note for note in second.notes)


def test_undo_takes_back_one_prediction(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    volume, history = add_ct(), History()

    def predict(values: Any) -> Predictions.Written:
        return Predictions.write(
            segmentation, volume, values, card, before=lambda: history.save(segmentation)
        )

    first = predict(labels)
    predict(labels[:, ::-1])
    assert history.undo(segmentation)
    for value, name in enumerate(first.segments, start=1):
        found = first.segments[name]
        np.testing.assert_array_equal(array_of(segmentation, found, volume), labels == value)
    assert history.undo(segmentation)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert not history.undo(segmentation)


def test_the_surface_comes_back_if_it_was_shown(
    add_ct: Callable[..., Any], segmentation: Any, card: ModelCard
) -> None:
    volume = add_ct()
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:6, 2:6] = 1
    written = Predictions.write(segmentation, volume, labels, card)
    inside = segmentation.GetSegmentation()
    assert not inside.ContainsRepresentation("Closed surface")
    segmentation.CreateClosedSurfaceRepresentation()
    found = written.segments["brainstem"]
    before = width_of(segmentation, found)
    labels[1:4] = 1
    Predictions.write(segmentation, volume, labels, card)
    assert inside.ContainsRepresentation("Closed surface")
    # From 4 to 10 voxels of 1.5 mm.
    assert width_of(segmentation, found) - before == pytest.approx(9.0, abs=1.5)


def test_transforms_must_agree_and_an_empty_segmentation_takes_the_volumes(
    add_ct: Callable[..., Any],
    add_transform: Callable[..., Any],
    segmentation: Any,
    labels: Any,
    card: ModelCard,
) -> None:
    volume = add_ct()
    volume.SetAndObserveTransformNodeID(add_transform(OBLIQUE).GetID())
    written = Predictions.write(segmentation, volume, labels, card)
    assert segmentation.GetTransformNodeID() == volume.GetTransformNodeID()
    np.testing.assert_array_equal(
        array_of(segmentation, written.segments["larynx"], volume), labels == 6
    )
    volume.SetAndObserveTransformNodeID(None)
    with pytest.raises(InputError, match="under different transforms"):
        Predictions.write(segmentation, volume, labels, card)


def test_a_segmentation_on_another_grid_keeps_its_segments(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    coarse = add_ct(np.zeros((3, 4, 5), np.int16), np.diag([-3.0, -4.0, 6.0, 1.0]), "coarse")
    Segments.make_ready(segmentation, coarse)
    block = np.zeros((3, 4, 5), np.uint8)
    block[1, 1:3, 2:4] = 1
    other = own_segment(segmentation, coarse, "tumour", block)
    volume = add_ct()
    written = Predictions.write(segmentation, volume, labels, card, protect=False)
    # Only what the prediction took is gone, and the classes are whole.
    np.testing.assert_array_equal(
        array_of(segmentation, written.segments["larynx"], volume), labels == 6
    )
    left = Segments.segment_array(segmentation, other, volume)
    assert not (left & (labels > 0)).any()


def test_surfaces_alone_are_refused_in_words(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    ball = vtk.vtkSphereSource()
    ball.Update()
    segmentation.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "ball")
    segmentation.GetSegmentation().SetSourceRepresentationName("Closed surface")
    with pytest.raises(InputError, match="is made of surfaces"):
        Predictions.write(segmentation, add_ct(), labels, card)


def test_painting_in_slicers_editor_makes_a_segment_the_users(
    add_ct: Callable[..., Any], segmentation: Any, labels: Any, card: ModelCard
) -> None:
    """Through Slicer's own Segment Editor logic, as its Paint effect does it."""
    volume = add_ct()
    first = Predictions.write(segmentation, volume, labels, card)
    stroke = np.zeros(SHAPE, bool)
    stroke[3, 2:5, 2:8] = True
    editor = paint(segmentation, first.segments["brainstem"], volume, stroke)
    painted = array_of(segmentation, first.segments["brainstem"], volume)
    assert (painted[stroke] == 1).all()
    second = Predictions.write(segmentation, volume, labels, card, protect=True)
    assert second.segments["brainstem"] != first.segments["brainstem"]
    np.testing.assert_array_equal(
        array_of(segmentation, first.segments["brainstem"], volume), painted
    )
    editor.SetSegmentEditorNode(None)


def test_tags_survive_saving_and_loading(
    add_ct: Callable[..., Any],
    segmentation: Any,
    labels: Any,
    card: ModelCard,
    scene: Any,
    tmp_path: Path,
) -> None:
    """So that a prediction of another day is known as one, and replaced."""
    volume = add_ct()
    Predictions.write(segmentation, volume, labels, card, tags={"UNetPP.level": "2"})
    target = tmp_path / "dossier café" / "organs.seg.nrrd"
    target.parent.mkdir()
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(target))
    assert storage.WriteData(segmentation)
    scene.Clear(0)
    volume = add_ct()
    again = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "again")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(target))
    assert storage.ReadData(again)
    known = Segments.ids_of(again)
    assert Segments.tag_of(again, known[0], "UNetPP.level") == "2"
    written = Predictions.write(again, volume, labels[::-1], card)
    assert sorted(written.segments.values()) == sorted(known)
