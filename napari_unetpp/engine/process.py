"""One life of the worker process: start, messages, end.

The process is an appose service (``python -u -m appose.python_worker``), each job one of its
tasks. What was learnt by trying appose 0.12, and what is done about it:

* A request is printed in two writes, so two threads must not send at once: one lock.
* Its threads are no daemons, and would keep an interpreter from ending that forgot to close
  its engine: the service is started from a daemon thread, whose threads inherit that.
* It leaves its pipes open when the process ends: they are closed here.
* An update and its answer (a task of its own) take well under a millisecond each way, so
  pixels need no other channel; the pixels themselves go through shared memory
  (:mod:`blocks`), whose names appose would leave behind when a process is killed.
* Its own main queue looks for work every 50 ms, and is not used.

What the worker side mends is said in :mod:`worker.boot`. Knows no job's meaning, no torch.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appose.service import ResponseType, Service, Task, TaskEvent

import napari_unetpp
from napari_unetpp.engine import blocks
from napari_unetpp.engine.protocol import DEAF
from napari_unetpp.engine.wire import Message

_LOG = logging.getLogger("napari_unetpp")
_ROOT = str(Path(napari_unetpp.__file__).resolve().parents[1])

# numpy first, on the main thread, before stdin is read: on Windows it would hang later.
_INIT = """
import numpy
import sys
_root = {root!r}
if _root not in sys.path:
    sys.path.append(_root)
from napari_unetpp.engine.worker import boot as napari_unetpp_worker
napari_unetpp_worker.prepare({options!r})
"""
_SERVE = "napari_unetpp_worker.serve(task, beat_seconds)"
_WORK = "napari_unetpp_worker.work(task, kind, message)"
_LAST_WORDS = 100
_REAP_SECONDS = 5.0
_ANSWER = "napari_unetpp_worker.answer(number, error)"

Receive = Callable[["WorkerProcess", Message], None]


@dataclass(frozen=True)
class Launch:
    """How workers are started.

    Attributes
    ----------
    python : str
        Interpreter whose environment has this package.
    env : mapping of str to str
        Added to this process's environment.
    memory_limit : int, optional
        Bytes of address space (POSIX).
    beat_seconds : float
        Between two signs of life.
    """

    python: str
    env: Mapping[str, str]
    memory_limit: int | None
    beat_seconds: float


class _Tasks(dict[str, Any]):
    """A dict over whose values one thread may walk while another one changes it."""

    def values(self) -> Any:
        return list(super().values())


class WorkerProcess:
    """A worker from its start to its end.

    Parameters
    ----------
    launch : Launch
        How to start it.
    receive : callable
        Called with this worker and every message of the process itself ("beat", "ready",
        "failed", "gone"), on a thread that must not be blocked.
    """

    def __init__(self, launch: Launch, receive: Receive) -> None:
        self._launch, self._receive = launch, receive
        self._prefix = f"unetpp{secrets.token_hex(4)}-"
        self._last_block = -1
        self._send = threading.Lock()
        self._gone = threading.Event()
        self.heard = time.monotonic()
        self.ready = False
        self.ending = ""  # why we ended it, where we did
        self.problem: Message | None = None  # why it could not start
        options = {"prefix": self._prefix, "memory_limit": launch.memory_limit}
        env: dict[str, str | None] = {
            "PYTHONIOENCODING": "ascii:backslashreplace",  # appose reads with the locale's
            **launch.env,
        }
        self._cpu: tuple[float, float] | None = None
        # Not the viewer's folder: it may be gone, or hold a torch.py.
        here = Path(napari_unetpp.__file__).parent
        self._service = Service(here, env, launch.python, "-P", "-u", "-m", "appose.python_worker")
        self._service._tasks = _Tasks()
        self._service._error_lines = deque(maxlen=_LAST_WORDS)
        self._service.init(_INIT.format(root=_ROOT, options=options))

    @property
    def pid(self) -> int | None:
        """Number of the process."""
        process = self._service._process
        return None if process is None else process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code; minus the signal's number on POSIX; None while it lives."""
        process = self._service._process
        return None if process is None else process.poll()

    def start(self) -> None:
        """Start the process; from a daemon thread, see above.

        Raises
        ------
        OSError
            If the interpreter cannot be started.
        """
        assert threading.current_thread().daemon
        self._service.start()
        self._task(_SERVE, {"beat_seconds": self._launch.beat_seconds}, self._on_serve)

    def _on_serve(self, event: TaskEvent) -> None:
        self.heard = time.monotonic()
        kind = event.response_type
        if kind == ResponseType.UPDATE and event.info is not None:
            self._receive(self, event.info)
        elif kind in (ResponseType.FAILURE, ResponseType.CRASH, ResponseType.COMPLETION):
            if kind == ResponseType.FAILURE:
                text = str(event.task.error or "").strip()
                last = text.splitlines()[-1] if text else "no reason given"
                self._receive(self, {"event": "failed", "message": last, "details": text})
            self._receive(self, {"event": "gone"})

    def work(self, kind: str, message: Message, receive: Callable[[Message], None]) -> Task:
        """Send a job.

        Parameters
        ----------
        kind : str
            Which one.
        message : dict
            What it is about.
        receive : callable
            Called with every message of the job, the last one being "outcome"; on a thread
            that must not be blocked. Not called with an outcome if the process ends.
        """

        def listen(event: TaskEvent) -> None:
            self.heard = time.monotonic()
            if event.response_type == ResponseType.UPDATE and event.info is not None:
                block = event.info.get("block")
                if block is not None:
                    self._last_block = int(block["name"].rpartition("-")[2])
                receive(event.info)
            elif event.response_type == ResponseType.COMPLETION:
                receive({"event": "outcome", **event.task.outputs})
            elif event.response_type == ResponseType.FAILURE:
                receive({"event": "outcome", "state": "failed", "error": _defect(event.task)})

        return self._task(_WORK, {"kind": kind, "message": message}, listen)

    def answer(self, number: int, error: Message | None) -> None:
        """Answer a request of a job."""
        self._task(_ANSWER, {"number": number, "error": error}, None)

    def cancel(self, task: Task) -> None:
        """Ask a job to stop."""
        with self._send, contextlib.suppress(OSError, ValueError):
            task.cancel()

    def _task(
        self, script: str, inputs: Message, listen: Callable[[TaskEvent], None] | None
    ) -> Task:
        task = self._service.task(script, inputs)
        if listen is not None:
            task.listen(listen)
        # A closed pipe: the process is gone, which is told elsewhere.
        with self._send, contextlib.suppress(OSError, ValueError):
            task.start()
        return task

    def kill(self, why: str = "") -> None:
        """End the process now; a stopped one too."""
        self.ending = self.ending or why
        if self._service.is_alive():
            self._service.kill()

    def close(self, timeout: float) -> None:
        """End the process and wait until it is gone: first by closing its input."""
        process = self._service._process
        if process is None:
            self.clean()
            return
        self.ending = self.ending or "closed"
        with contextlib.suppress(OSError, ValueError):
            self._service.close()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            with contextlib.suppress(Exception):
                process.wait(timeout)
        self.clean()

    def clean(self) -> None:
        """Remove what a process that is gone leaves: threads, pipes, shared memory, a file."""
        script = self._service._env_vars.get("APPOSE_INIT_SCRIPT")
        if script:  # it removes this itself once it has read it
            with contextlib.suppress(OSError):
                os.unlink(script)
        process = self._service._process
        if process is None or self._gone.is_set():
            return
        if process.poll() is None:  # it told that it failed, and has not ended yet
            self.kill()
            try:
                process.wait(_REAP_SECONDS)
            except subprocess.TimeoutExpired:
                return
        self._gone.set()
        for name in ("_stdout_thread", "_stderr_thread", "_monitor_thread"):
            thread = getattr(self._service, name, None)
            if thread is not None and thread is not threading.current_thread():
                thread.join(1.0)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()
        for number in range(max(0, self._last_block - 32), self._last_block + 33):
            blocks.remove(f"{self._prefix}{number}")

    def last_words(self) -> str:
        """Return the last lines that the process wrote."""
        return "\n".join(self._service.error_lines())

    def computes(self, share: float) -> bool:
        """Return whether it has computed since it was last asked, for a share of the time.

        Long work of a library may hold the interpreter, and with it the thread that beats.
        Asked for the first time, or after a while, the answer is yes.
        """
        now = time.monotonic()
        try:
            import psutil

            times = psutil.Process(self.pid).cpu_times()
        except Exception:  # no psutil, or no such process
            return False
        used = float(times.user + times.system)
        before, self._cpu = self._cpu, (now, used)
        if before is None or before[0] < self.heard:
            return True
        return used - before[1] > share * (now - before[0])


def _defect(task: Task) -> Message:
    return {
        "message": "something unexpected went wrong in the worker: this is a defect, please "
        "report it.",
        "code": "bug",
        "details": str(task.error or ""),
    }


def cause_of_death(code: int | None) -> str:
    """Return in words why a process that nobody asked to end is gone."""
    if code is None:
        return "for a reason that is not known"
    if code == DEAF:
        return "because there was no memory left to take another message"
    if os.name != "posix" or code >= 0:
        return f"with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    causes = {
        "SIGKILL": "most likely the system ran out of memory, or someone ended it",
        "SIGTERM": "another program asked it to end",
        "SIGSEGV": "a library crashed",
        "SIGBUS": "most likely shared memory or the disk is full",
        "SIGABRT": "a library gave up",
        "SIGILL": "a library needs another processor",
    }
    return f"by {name}: {causes.get(name, 'for a reason that is not known')}"


def default_python() -> str:
    """Return the interpreter that runs this process, also in a bundle."""
    return sys.executable
