"""Live: the slab around the slice that is on screen, level after level.

The worker keeps the levels of the volume, so that another slice costs next to nothing. What
it finds goes into a segmentation of its own, which is hidden from saving and from editing.
Knows MRML and the engine; no widget.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import slicer

from UNetPPLib import Predictions, Volumes
from UNetPPLib.Segmenting import Level, level_name
from UNetPPLib.Tasks import sentences

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_unetpp.core.config import ModelCard
    from UNetPPLib.Regions import Region
    from UNetPPLib.Session import Session

NAME = "UNet++ preview"


class Preview:
    """Keeps a preview segmentation up to date.

    Parameters
    ----------
    session : Session
        Tells the events.
    say : callable
        Gets a sentence, and whether work goes on.
    measured : callable, optional
        Gets level, seconds and megavoxels of what was computed.

    Attributes
    ----------
    shown : int or "ensemble" or None
        The level that is on screen.
    """

    def __init__(
        self,
        session: Session,
        say: Callable[[str, bool], None],
        measured: Callable[[Level, float, float], None] | None = None,
    ) -> None:
        self.session, self._say = session, say
        self._measured = measured or (lambda *_: None)
        self.node: Any = None
        self.shown: Level | None = None
        self._volume: Any = None
        self._key: tuple[Any, ...] = ()
        self._job: Any = None
        self._failed: tuple[Any, ...] = ()
        self._levels: dict[Level, NDArray[np.float32]] = {}
        self._region: Region | None = None
        self._card: ModelCard | None = None
        self._wanted: Level = 1
        self._threshold: float = 0.5
        self._notes: list[str] = []

    @property
    def working(self) -> bool:
        """Whether a level is on its way."""
        return self._job is not None

    def update(
        self,
        volume: Any,
        region: Region,
        model: str,
        level: Level,
        threshold: float | None = None,
        device: str = "auto",
    ) -> None:
        """Show a region, as deep as a level; what is known of it is shown at once.

        Parameters
        ----------
        volume : vtkMRMLVolumeNode
            The volume.
        region : tuple of (int, int)
            (start, stop) for Z, Y and X.
        model : str
            Name or file.
        level : int or "ensemble"
            How deep.
        threshold : float, optional
            The model's own if None.
        device : str
            Where to compute.

        Raises
        ------
        UNetPPError
            If volume or model do not fit.
        """
        from napari_unetpp.core.model.cards import read_card, read_identity
        from napari_unetpp.engine.protocol import ModelRequest, ViewRequest

        image = Volumes.read(volume)
        card = read_card(model)
        key = (image.key, region, model, read_identity(model), device)
        self._threshold = card.threshold if threshold is None else threshold
        self._wanted = level
        if key != self._key:
            self.drop()
            self._key, self._levels, self._region, self._card = key, {}, region, card
            self._volume, self._notes, self.shown = volume, list(image.notes), None
        if self._complete() or key == self._failed:
            self._show()
            return
        if self._job is not None:
            self._job.drop()
        self._show()
        whole = tuple(k for k in self._levels if isinstance(k, int))
        request = ViewRequest(ModelRequest(model, device), level, region, skip=whole)
        self._job = job = self.session.engine.view(image.source(), request)
        self._say("live: looking …", True)
        self.session.follow(job, lambda event: self._heard(job, event))

    def drop(self) -> None:
        """Let go of what is on its way; the preview stays as it is."""
        job, self._job = self._job, None
        if job is not None:
            job.drop()

    def hide(self) -> None:
        """Drop the work and take the preview out of the scene."""
        self.drop()
        self._key, self._levels, self.shown, self._volume = (), {}, None, None
        self._failed = ()
        node, self.node = self.node, None
        if node is not None and node.GetScene() is not None:
            node.GetScene().RemoveNode(node)

    def _complete(self) -> bool:
        if self._wanted == "ensemble":
            return "ensemble" in self._levels
        assert self._card is not None
        return all(k in self._levels for k in self._card.levels_trained if k <= int(self._wanted))

    def _heard(self, job: Any, event: Any) -> None:
        from napari_unetpp.engine.protocol import Finished, LevelReady, Noted

        if job is not self._job:
            return
        if isinstance(event, LevelReady):
            self._levels[event.level] = event.probabilities
            assert self._region is not None
            voxels = 1
            for start, stop in self._region:
                voxels *= stop - start
            self._measured(event.level, event.seconds, voxels / 1e6)
            self._show()
        elif isinstance(event, Noted):
            self._notes.append(event.message)
        elif isinstance(event, Finished):
            self._job = None
            if event.state == "failed":
                self._failed = self._key  # is not tried for ever
                self._say(f"live: {event.error}", False)
            else:
                self._told()

    def _best(self) -> Level | None:
        if self._wanted in self._levels:
            return self._wanted
        deepest = 9 if self._wanted == "ensemble" else int(self._wanted)
        known = [k for k in self._levels if isinstance(k, int) and k <= deepest]
        return max(known, default=None)

    def _show(self) -> None:
        """Write the best level that is known into the preview."""
        from napari_unetpp.core.run.results import deciding_channels, labels_of

        level, card, volume = self._best(), self._card, self._volume
        if level is None or card is None or volume is None or volume.GetScene() is None:
            return
        probabilities = self._levels[level]
        labels = labels_of(
            (probabilities[k] for k in deciding_channels(card)), card, self._threshold
        )
        node = self._made()
        assert self._region is not None
        start = tuple(span[0] for span in self._region)
        Predictions.put_labels(node, volume, labels, start, card)
        self.shown = level
        self._told()

    def _made(self) -> Any:
        """Return the preview's node, in its place."""
        if self.node is None or self.node.GetScene() is None:
            node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentationNode")
            node.UnRegister(None)
            node.SetName(NAME)
            node.SetSaveWithScene(False)
            node.SetHideFromEditors(True)
            self.node = slicer.mrmlScene.AddNode(node)
            self.node.CreateDefaultDisplayNodes()
            display = self.node.GetDisplayNode()
            display.SetSaveWithScene(False)
            display.SetVisibility3D(False)
            display.SetOpacity2DFill(0.25)
        self.node.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        self.node.SetAndObserveTransformNodeID(self._volume.GetTransformNodeID())
        return self.node

    def _told(self) -> None:
        if self.shown is None:
            return
        words = f"live: {level_name(self.shown)}"
        if self.working and not self._complete():
            words += f", on the way to {level_name(self._wanted)}"
        more = sentences(self._notes)
        self._say(f"{words}.{more}" if more else words, self.working and not self._complete())
