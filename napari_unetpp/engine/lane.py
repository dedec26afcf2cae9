"""Jobs that go one after the other: those that wait, and the one that is with the worker.

Waiting here costs nothing, and dropping what waits neither. The engine has two lanes: one
for fine-tuning, one for everything else. Knows jobs; no process and no thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import EngineError
from napari_unetpp.engine.work import Work


class Lane:
    """A queue with one active job.

    Attributes
    ----------
    waiting : deque of Work
        In the order in which they came.
    active : Work, optional
        With the worker.
    """

    def __init__(self) -> None:
        self.waiting: deque[Work] = deque()
        self.active: Work | None = None

    def __iter__(self) -> Iterator[Work]:
        """Return all jobs, those that wait first."""
        everything = (*self.waiting, self.active)
        return iter([work for work in everything if work is not None])

    def drop(self, job: Job) -> bool:
        """End a job that waits as cancelled; return whether it was there."""
        for work in self.waiting:
            if work.job is job:
                self.waiting.remove(work)
                work.finish("cancelled")
                return True
        return False

    def next(self) -> Work | None:
        """Return the job that may go to the worker now."""
        if self.active is not None or not self.waiting:
            return None
        self.active = self.waiting.popleft()
        return self.active

    def lose(self, error: EngineError | None, *, all_of_them: bool = False) -> bool:
        """End the active job because the worker is gone; return whether there was one.

        Parameters
        ----------
        error : EngineError, optional
            Why; the job was cancelled if None.
        all_of_them : bool
            No worker will come any more, so what waits ends too.
        """
        lost, self.active = self.active, None
        if lost is not None:
            if error is None:
                lost.finish("cancelled")
            else:
                lost.lose(error)
        while all_of_them and self.waiting:
            self.waiting.popleft().finish("failed", error=error)
        return lost is not None
