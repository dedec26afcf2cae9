"""What the module can do, without a window: for the panel, for scripts and for tests.

Needs ``slicer.mrmlScene`` and the package ``napari_unetpp``; no application, no Qt. The
network runs in a worker process, on PythonSlicer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib import Regions, Segments, Volumes
from UNetPPLib.Segmenting import Level, SegmentOptions, SegmentTask
from UNetPPLib.Session import Session, shared_session

if TYPE_CHECKING:
    from UNetPPLib.Regions import Region

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
        self.history = Segments.History()

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
        level : int or "ensemble"
            1 (fast) to 4 (best), or the mean of all.
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
        if progress is not None:
            task.listeners.append(lambda t: progress(t.status))
        try:
            self.session.wait(lambda: not task.running)
        except BaseException:  # Ctrl-C
            task.stop("it was interrupted")
            raise
        if task.state == "done":
            return dict(task.result)
        if task.error is not None:
            raise task.error
        raise Volumes.refusal(task.status)

    def start_segment(self, volume: Any, segmentation: Any, options: SegmentOptions) -> SegmentTask:
        """Begin to segment a volume; events come with ``session.poll()``.

        Raises
        ------
        UNetPPError
            If volume, segmentation or model do not fit.
        """
        return SegmentTask(self.session, volume, segmentation, options, self.history)

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

    def close(self) -> None:
        """End the worker."""
        self.session.close()
        self.history.forget()
