"""What the tests of the panel share: the event loop, and moving the slider."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pythonqt import qt

HANGS = 90.0
"""Seconds after which a test has failed; the longest wait takes a tenth on an idle machine."""


def pump(widget: Any, until: Callable[[], bool], seconds: float = HANGS) -> None:
    """Let the event loop and the panel's clock run until something is so."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, widget.ui.statusLabel.text
        qt.QApplication.processEvents()
        time.sleep(0.005)


def choose_level(widget: Any, level: int) -> None:
    """Move the slider, and see that the parameters follow."""
    widget.ui.levelSlider.value = level
    assert widget.parameters.level == level
