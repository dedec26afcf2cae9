"""The first thing that runs in the worker: what must stand before torch is loaded.

``appose.python_worker`` reads requests from stdin, runs each on a thread of its own, and
prints responses. What it leaves to us (seen in appose 0.12):

* ``print`` writes a text and its line end in two calls, so that the lines of two threads
  mix; and anything a library prints breaks the protocol. Here file descriptor 1 becomes
  stderr, and ``sys.stdout`` passes on whole lines of the protocol and nothing else.
* On the end of stdin the worker waits for its threads. Here the process ends at once, in
  mid-job too: the viewer is gone.
* Its janitor walks over a dict to which another thread adds.
* Its main queue sleeps 50 ms between looks; it is not used.

Torch-free and light: it must not import the core.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from typing import Any, TextIO

from napari_unetpp.engine import blocks
from napari_unetpp.engine.protocol import DEAF, ORPHANED

_PROTOCOL = '"responseType":'

prefix = "unetpp"
outstanding: set[str] = set()


class Lines:
    """A text stream that writes whole lines, each with one call.

    Parameters
    ----------
    protocol : file object
        Gets the lines of appose's protocol.
    rest : file object
        Gets everything else.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, protocol: TextIO, rest: TextIO) -> None:
        self._protocol, self._rest = protocol, rest
        self._lock = threading.Lock()
        self._parts = threading.local()

    def write(self, text: str) -> int:
        """Keep the text until its line ends."""
        whole = getattr(self._parts, "text", "") + text
        *lines, self._parts.text = whole.split("\n")
        for line in lines:
            told = line.startswith("{") and _PROTOCOL in line
            with self._lock:
                stream = self._protocol if told else self._rest
                stream.write(line + "\n")
                stream.flush()
        return len(text)

    def flush(self) -> None:
        """Do nothing: lines are written when they end."""

    def isatty(self) -> bool:
        """Return that nobody types here."""
        return False


class Requests:
    """Standard input, whose end is the end of the process.

    Parameters
    ----------
    source : file object
        The real one.
    """

    encoding = "utf-8"
    errors = "strict"

    def __init__(self, source: TextIO) -> None:
        self._source = source

    def readline(self) -> str:
        """Return the next line; never returns once there is none."""
        line = self._source.readline()
        if not line:
            leave(0)
        return line


class _Tasks(dict[str, Any]):
    """A dict that may change while someone walks over its items."""

    # Not a view: what the janitor walks over.
    def items(self) -> Any:
        return list(super().items())


def prepare(options: dict[str, Any]) -> None:
    """Set the process up; called once by the init script, on the main thread.

    Parameters
    ----------
    options : dict
        ``prefix`` of the names of blocks, ``memory_limit`` in bytes or None.
    """
    global prefix
    prefix = options["prefix"]
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    own.write("\n")  # ends what a library may have begun to say before
    own.flush()
    sys.stdout = Lines(own, sys.stderr)
    sys.stdin = Requests(sys.stdin)
    _mend_appose()
    # Ctrl-C in the terminal reaches the whole group; the viewer decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit = options.get("memory_limit")
    if limit is not None:
        _limit_memory(int(limit))
    if os.name == "nt":
        # A library that looks at stdin while a thread reads it hangs there.
        _jobs()


def _mend_appose() -> None:
    from appose.util import message

    worker = getattr(message, "_worker_instance", None)
    if worker is not None and type(getattr(worker, "tasks", None)) is dict:
        worker.tasks = _Tasks(worker.tasks)


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def leave(code: int) -> None:
    """End the process at once, leaving no shared memory behind."""
    for name in list(outstanding):
        blocks.remove(name)
    os._exit(code)


def _jobs() -> Any:
    from napari_unetpp.engine.worker import jobs

    return jobs


def serve(task: Any, beat_seconds: float) -> None:
    """Load torch, say so, and send a beat for as long as the process lives.

    Parameters
    ----------
    task : appose task
        The channel for beats.
    beat_seconds : float
        Between two of them.
    """
    parent = os.getppid()
    beats = threading.Thread(target=_beat, args=(task, beat_seconds, parent), daemon=True)
    beats.start()
    try:
        _jobs()
    except BaseException as error:
        first = " ".join(str(error).split()) or type(error).__name__
        task.update(info={"event": "failed", "message": first, "details": traceback.format_exc()})
        return
    task.update(info={"event": "ready", "pid": os.getpid()})
    beats.join()


def _beat(task: Any, seconds: float, parent: int) -> None:
    receiver = next((t for t in threading.enumerate() if t.name == "Appose-Receiver"), None)
    while True:
        task.update(info={"event": "beat"})
        time.sleep(seconds)
        if os.getppid() != parent:
            leave(ORPHANED)
        if receiver is not None and not receiver.is_alive():
            leave(DEAF)  # no memory for a thread, say: nothing can reach us any more


def work(task: Any, kind: str, message: dict[str, Any]) -> dict[str, Any]:
    """Do a job; see :func:`jobs.work`."""
    outcome: dict[str, Any] = _jobs().work(task, kind, message)
    return outcome


def answer(number: int, error: dict[str, Any] | None) -> None:
    """Deliver the client's answer to a request; see :func:`link.answer`."""
    from napari_unetpp.engine.worker import link

    link.answer(number, error)
