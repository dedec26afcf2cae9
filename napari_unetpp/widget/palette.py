"""The dock's actions in napari's command palette (Ctrl+Shift+P), as ``napari.yaml`` names them.

napari gives each function the viewer, by the type of its parameter. Knows how to find the dock
of a viewer; what the actions do is the dock's business.
"""

from __future__ import annotations

from typing import Any

from napari.viewer import Viewer

from napari_unetpp.widget.settings import PLUGIN


def run(viewer: Viewer) -> None:
    """Run what the panel says."""
    _act(viewer, "run")


def cancel(viewer: Viewer) -> None:
    """Cancel the run."""
    _act(viewer, "cancel")


def level_up(viewer: Viewer) -> None:
    """Move the slider to the next deeper level."""
    _act(viewer, "level_up")


def level_down(viewer: Viewer) -> None:
    """Move the slider to the next shallower level."""
    _act(viewer, "level_down")


def toggle(viewer: Viewer) -> None:
    """Show or hide the results of the image."""
    _act(viewer, "toggle")


def _act(viewer: Viewer, action: str) -> None:
    """Do something in the viewer's dock; where there is none yet, open it and do no more."""
    dock = _dock(viewer)
    if dock is None:
        viewer.window.add_plugin_dock_widget(PLUGIN)
    else:
        getattr(dock, action)()


def _dock(viewer: Viewer) -> Any:
    from napari_unetpp.widget.dock import UNetPPWidget

    docked = getattr(viewer.window, "dock_widgets", {}).values()
    return next((w for w in docked if isinstance(w, UNetPPWidget)), None)
