"""What goes on in the engine for the scene: a job, its state in words, and its end.

A task ends once, as done, cancelled or failed, and is ended when a node that it needs leaves
the scene or the scene is closed. Knows the session and the scene; no widget.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from UNetPPLib.Observers import Observers

if TYPE_CHECKING:
    from napari_unetpp.engine.job import Job
    from UNetPPLib.Session import Session

State = Literal["running", "done", "cancelled", "failed"]

_log = logging.getLogger("napari_unetpp")


class Task:
    """One job and the nodes that it needs.

    Parameters
    ----------
    session : Session
        Tells the events.
    nodes : sequence of vtkMRMLNode
        The task ends when one of them is removed.

    Attributes
    ----------
    state : {"running", "done", "cancelled", "failed"}
        The last three are final.
    status : str
        What goes on, in one sentence.
    done, total : int
        Progress; a total of 0 is unknown.
    notes : list of str
        What the user should know of the result.
    result : object
        What came out, once it is done.
    error : Exception, optional
        Why it failed.
    """

    def __init__(self, session: Session, nodes: Sequence[Any]) -> None:
        self.session = session
        self.state: State = "running"
        self.status = "starting …"
        self.done = self.total = 0
        self.notes: list[str] = []
        self.result: Any = None
        self.error: Exception | None = None
        self.job: Job | None = None
        self.listeners: list[Callable[[Task], None]] = []
        self._reason = ""
        self._nodes = list(nodes)
        self._observers = Observers()
        scene = nodes[0].GetScene()
        self._observers.add(scene, scene.NodeAboutToBeRemovedEvent, self._removed)
        self._observers.add(
            scene, scene.StartCloseEvent, lambda _: self.stop("the scene was closed")
        )

    @property
    def running(self) -> bool:
        """Whether it goes on."""
        return self.state == "running"

    def begin(self, job: Job) -> None:
        """Follow a job."""
        self.job = job
        self.session.follow(job, self._heard)

    def cancel(self) -> None:
        """Ask the engine to stop; the task ends when it has."""
        if self.running and self.job is not None:
            self.status = "cancelling …"
            self.job.cancel()
            self.tell()

    def stop(self, reason: str) -> None:
        """End at once, and say why."""
        if not self.running:
            return
        self._reason = reason
        if self.job is not None:
            self.job.drop()
        self.end("cancelled", f"stopped, because {reason}; nothing was written.")

    def tell(self) -> None:
        """Tell the listeners that something is new."""
        for listener in list(self.listeners):
            listener(self)

    def end(self, state: State, status: str, error: Exception | None = None) -> None:
        """Reach a final state; only the first one counts."""
        if not self.running:
            return
        self._observers.clear()
        self.state, self.status, self.error = state, status, error
        if error is not None:
            details = getattr(error, "details", "")
            _log.warning("%s%s", error, f"\n{details}" if details else "")
        self.tell()

    # For subclasses

    def event(self, event: Any) -> None:
        """Take an event of the job that is not the last one."""

    def finish(self, result: Any) -> str:
        """Take the result of the job; return the sentence that says what was done."""
        return "done."

    # Hearing

    def _removed(self, node: Any) -> None:
        if any(node is mine for mine in self._nodes):
            self.stop(f"{node.GetName()} was removed")

    def _heard(self, event: Any) -> None:
        if not self.running:
            return
        from napari_unetpp.engine.protocol import Finished, Noted

        if isinstance(event, Finished):
            self._finished(event)
        elif isinstance(event, Noted):
            self.notes.append(event.message)
        else:
            self.event(event)
            self.tell()

    def _finished(self, event: Any) -> None:
        if event.state == "cancelled":
            self.end("cancelled", "cancelled; nothing was written.")
            return
        if event.state == "failed":
            self.end("failed", str(event.error), event.error)
            return
        try:
            self.result = event.result
            said = self.finish(event.result)
        except (ValueError, OSError, MemoryError) as error:
            words = str(error) or "there was not enough memory for the result."
            self.end("failed", words, error)
        else:
            self.end("done", f"{said}{sentences(self.notes)}")


def sentences(notes: Sequence[str]) -> str:
    """Return notes as sentences after another one."""
    return "".join(f" {n[0].upper()}{n[1:].rstrip('.')}." for n in notes if n)
