"""Work that reads or writes files, off the GUI thread, with its end told on it.

Knows threads and the relay; nothing of what the work is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from napari_unetpp.widget.relay import Relay

T = TypeVar("T")


def in_background(
    relay: Relay,
    work: Callable[[], T],
    done: Callable[[T], None],
    failed: Callable[[Exception], None],
) -> None:
    """Do some work on a thread of its own; one of the two functions is called at its end.

    Parameters
    ----------
    relay : Relay
        To the GUI thread.
    work : callable
        Must touch no widget and no layer.
    done, failed : callable
        Called on the GUI thread with the result, or with what was raised.
    """

    def whole() -> None:
        try:
            result = work()
        except Exception as error:
            problem = error
            relay.post(lambda: failed(problem))
        else:
            relay.post(lambda: done(result))

    # Not a daemon: what is being written is written to its end.
    threading.Thread(target=whole, name="unetpp-files").start()
