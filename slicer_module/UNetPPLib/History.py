"""Undo for predictions, a step for each, and 3D surfaces that outlive a change.

Knows segmentation nodes and, where there is one, the application's editor; no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import slicer

_SURFACE = "Closed surface"


@contextmanager
def surfaces_kept(segmentation: Any) -> Iterator[None]:
    """Change segments as one change, and make the 3D surface again if it was there."""
    inside = segmentation.GetSegmentation()
    shown = inside.ContainsRepresentation(_SURFACE)
    modified = segmentation.StartModify()
    try:
        yield
    finally:
        segmentation.EndModify(modified)
        if shown:
            segmentation.CreateClosedSurfaceRepresentation()


class History:
    """Undo for what is written into segmentations, a step for each prediction.

    The steps are also told to the application's Segment Editor where it shows the same
    segmentation, so that its own Undo button takes them back.
    """

    def __init__(self) -> None:
        self._histories: dict[str, Any] = {}

    def save(self, segmentation: Any) -> None:
        """Keep the segments as they are now."""
        history = self._histories.get(segmentation.GetID())
        if history is None:
            history = slicer.vtkSegmentationHistory()
            history.SetSegmentation(segmentation.GetSegmentation())
            self._histories[segmentation.GetID()] = history
        history.SaveState()
        editor = _application_editor()
        if editor is not None and editor.segmentationNode() is segmentation:
            editor.saveStateForUndo()

    def can_undo(self, segmentation: Any) -> bool:
        """Return whether there is a step to take back."""
        history = None if segmentation is None else self._histories.get(segmentation.GetID())
        return history is not None and bool(history.IsRestorePreviousStateAvailable())

    def undo(self, segmentation: Any) -> bool:
        """Take the last step back; return whether there was one."""
        if not self.can_undo(segmentation):
            return False
        with surfaces_kept(segmentation):
            return bool(self._histories[segmentation.GetID()].RestorePreviousState())

    def forget(self) -> None:
        """Drop all steps: their scene is gone."""
        for history in self._histories.values():
            history.RemoveAllStates()
            history.SetSegmentation(None)
        self._histories.clear()


def _application_editor() -> Any:
    """Return the widget of the Segment Editor module, None outside of the application."""
    module: Any = getattr(getattr(slicer, "modules", None), "segmenteditor", None)
    try:
        editor = module.widgetRepresentation().self().editor
    except AttributeError:
        return None
    return editor if hasattr(editor, "saveStateForUndo") else None
