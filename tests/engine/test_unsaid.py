"""An error for whose words there is no memory either is still told."""

from __future__ import annotations

from typing import Any

import pytest

from napari_unetpp.engine.wire import to_error
from napari_unetpp.engine.worker import jobs


def test_a_job_that_cannot_even_say_why_has_failed_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(jobs, "_work", silent)
    for _ in range(2):  # the thread that computes is alive after it
        for kind in ("run", "tune"):
            outcome = jobs.work(None, kind, {})
            assert outcome["state"] == "failed"
            error = to_error(outcome["error"])
            assert error.code == "memory"
            assert "memory ran out" in error.message
