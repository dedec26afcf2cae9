"""An error, told where it is seen: in the panel's status and as a napari notification.

Knows sentences; what went wrong is for its callers to know.
"""

from __future__ import annotations

from napari.utils.notifications import show_error

from napari_unetpp.widget.panel import Panel


def report_error(panel: Panel, message: str) -> None:
    """Tell one sentence that says what to do.

    Parameters
    ----------
    panel : Panel
        Whose status line keeps it after the notification is gone.
    message : str
        What was expected, what came, what to do.
    """
    panel.set_status(message, "error")
    show_error(message)
