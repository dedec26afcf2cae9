"""Observers on VTK objects, removed together. Knows VTK alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import vtk


class Observers:
    """Callbacks on VTK objects."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []

    def add(self, thing: Any, event: Any, callback: Callable[[Any], None]) -> None:
        """Call back on an event, with the node that it is about (or None)."""

        def heard(caller: Any, name: str, data: Any = None) -> None:
            callback(data)

        heard.CallDataType = vtk.VTK_OBJECT  # type: ignore[attr-defined]
        self._tags.append((thing, thing.AddObserver(event, heard)))

    def clear(self) -> None:
        """Remove all of them."""
        for thing, tag in self._tags:
            thing.RemoveObserver(tag)
        self._tags.clear()
