"""What the module can do, without a window: for the panel, for scripts and for tests.

Needs ``slicer.mrmlScene`` and the package ``napari_unetpp``; no application, no Qt. The
network runs in a worker process, on PythonSlicer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib import Painted, Regions, Segments, Volumes
from UNetPPLib.History import History
from UNetPPLib.Segmenting import Level, SegmentOptions, SegmentTask
from UNetPPLib.Session import Session, shared_session
from UNetPPLib.Teaching import SuggestTask, TuneOptions, TuneTask

if TYPE_CHECKING:
    from napari_unetpp.engine.protocol import PaintedSource, TuneOutcome
    from UNetPPLib.Regions import Region
    from UNetPPLib.Tasks import Task

MODULE = "UNetPP"


class UNetPPLogic:
    """The module's logic.

    Parameters
    ----------
    session : Session, optional
        Whose worker computes; one for all logics if None.
    """

    def __init__(self, session: Session | None = None) -> None:
        self.session = session or shared_session()
        self.history = History()

    def segment(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        model: str = "ct-head-neck",
        level: Level = 4,
        *,
        threshold: float | None = None,
        region: Any = None,
        protect: bool = True,
        channel: int | None = None,
        device: str = "auto",
        progress: Callable[[str], None] | None = None,
    ) -> dict[str, Any]:
        """Segment a volume and wait for it.

        Parameters
        ----------
        volumeNode : vtkMRMLVolumeNode
            What to segment.
        segmentationNode : vtkMRMLSegmentationNode
            Gets one segment a class, under the class's name. What else is in it stays.
        model : str
            Name of a bundled model, or path of a model file.
        level : int, "ensemble" or "auto"
            1 (fast) to 4 (best), the mean of all, or for each tile the one that it needs.
        threshold : float, optional
            Probability from which a voxel belongs to a class; the model's own if None.
        region : vtkMRMLMarkupsROINode, vtkMRMLSliceNode or ((z0, z1), (y0, y1), (x0, x1))
            Part of the volume; everything if None. Of a slice node the slab of 10 mm.
        protect : bool
            Leave voxels of other segments to them.
        channel : int, optional
            Component of a vector volume.
        device : str
            "auto", "cpu", "cuda" or "mps".
        progress : callable, optional
            Gets sentences on the way.

        Returns
        -------
        dict
            ``segments`` (class name to segment id), ``voxels`` (class name to count),
            ``level``, ``seconds``, ``device``, ``precision``, ``notes`` and more.

        Raises
        ------
        napari_unetpp.core.errors.UNetPPError
            With one sentence: what is wrong and what to do. The scene is as it was.
        """
        task = self.start_segment(
            volumeNode,
            segmentationNode,
            SegmentOptions(
                model,
                level,
                threshold,
                self.region(volumeNode, region),
                protect,
                channel,
                device,
            ),
        )
        return dict(self._wait(task, progress))

    def start_segment(self, volume: Any, segmentation: Any, options: SegmentOptions) -> SegmentTask:
        """Begin to segment a volume; events come with ``session.poll()``.

        Raises
        ------
        UNetPPError
            If volume, segmentation or model do not fit.
        """
        return SegmentTask(self.session, volume, segmentation, options, self.history)

    def finetune(
        self,
        volumeNode: Any,
        segmentationNode: Any,
        classes: Mapping[str, str] | None = None,
        model: str = "ct-head-neck",
        *,
        out: str = "",
        seconds: float = 30.0,
        split: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "auto",
        progress: Callable[[str], None] | None = None,
    ) -> TuneOutcome:
        """Fine-tune a model on painted segments and wait for it.

        Parameters
        ----------
        volumeNode : vtkMRMLVolumeNode
            What is painted on.
        segmentationNode : vtkMRMLSegmentationNode
            Painted segments; it is not changed.
        classes : mapping of str to str, optional
            Segment id to class name; "background" is a class. By the segments' names if None.
        model : str
            Name of a bundled model, or path of a model file.
        out : str
            Model file to write; one in the user's folder of drafts if empty.
        seconds : float
            Budget.
        split : mapping, optional
            `split` of an earlier outcome: strokes stay held out, or not.
        seed : int
            Of the split and of patches.
        device : str
            "auto", "cpu", "cuda" or "mps".
        progress : callable, optional
            Gets sentences on the way.

        Returns
        -------
        TuneOutcome
            ``report`` (by level before and after), ``split``, and ``path`` of the model file,
            which is None where the base stayed.

        Raises
        ------
        napari_unetpp.core.errors.UNetPPError
            With one sentence: what is wrong and what to do.
        """
        if classes is None:
            classes = self.guess_classes(segmentationNode, model)
        options = TuneOptions(model, classes, out, seconds, seed, split, device)
        task = self.start_finetune(volumeNode, segmentationNode, options)
        outcome: TuneOutcome = self._wait(task, progress)
        return outcome

    def start_finetune(
        self,
        volume: Any,
        segmentation: Any,
        options: TuneOptions,
        more: Sequence[PaintedSource] = (),
    ) -> TuneTask:
        """Begin to fine-tune; events come with ``session.poll()``.

        Raises
        ------
        UNetPPError
            If nothing is painted, or something does not fit.
        """
        return TuneTask(self.session, volume, segmentation, options, more)

    def guess_classes(self, segmentation: Any, model: str) -> dict[str, str]:
        """Return which segment is which class by the segments' names, by segment id."""
        from napari_unetpp.core.model.cards import read_card

        if segmentation is None:
            return {}
        known = [c.name for c in read_card(model).classes]
        return Painted.default_classes(segmentation, known)

    def start_suggest(
        self,
        volume: Any,
        segmentation: Any,
        model: str,
        classes: Mapping[str, str],
        device: str = "auto",
    ) -> SuggestTask:
        """Begin to look for places that are worth painting."""
        return SuggestTask(self.session, volume, segmentation, model, classes, device)

    def jump(self, volume: Any, box: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
        """Move all slice views to the middle of a box (Z, Y, X); return the place in RAS."""
        middle = tuple((start + stop - 1) / 2 for start, stop in box)
        place = Regions.to_ras(volume, (middle[0], middle[1], middle[2]))
        node = slicer.vtkMRMLSliceNode
        node.JumpAllSlices(volume.GetScene(), *place, node.CenteredJumpSlice)
        return place

    def region(self, volume: Any, region: Any, thickness: float = 10.0) -> Region | None:
        """Return a region of a volume's array.

        Parameters
        ----------
        volume : vtkMRMLVolumeNode
            The volume.
        region : None, vtkMRMLMarkupsROINode, vtkMRMLSliceNode or three (start, stop)
            Everything, a box, the slab around a slice, or the region itself.
        thickness : float
            Of the slab, in mm.
        """
        if region is None:
            return None
        if not hasattr(region, "IsA"):
            z, y, x = ((int(a), int(b)) for a, b in region)
            return z, y, x
        image = Volumes.read(volume)
        if region.IsA("vtkMRMLSliceNode"):
            return Regions.slab_region(volume, image, region, thickness)
        return Regions.roi_region(volume, image, region)

    def new_segmentation(self, volume: Any) -> Any:
        """Add a segmentation on a volume's grid, under its transform."""
        node = slicer.mrmlScene.AddNewNodeByClass(
            "vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation"
        )
        Segments.make_ready(node, volume)
        return node

    def undo(self, segmentation: Any) -> bool:
        """Take back the last prediction in a segmentation; return whether there was one."""
        return self.history.undo(segmentation)

    def _wait(self, task: Task, progress: Callable[[str], None] | None) -> Any:
        """Wait for a task and return its result."""
        if progress is not None:
            task.listeners.append(lambda t: progress(t.status))
        try:
            self.session.wait(lambda: not task.running)
        except BaseException:  # Ctrl-C
            task.stop("it was interrupted")
            raise
        if task.state == "done":
            return task.result
        if task.error is not None:
            raise task.error
        raise Volumes.refusal(task.status)

    def close(self) -> None:
        """End the worker."""
        self.session.close()
        self.history.forget()
