"""Fixtures of the tests of paint that outlives a crash and a day."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from napari_unetpp.core.teach.recorder import Recorder

sys.path.insert(0, str(Path(__file__).parent))  # for journal_helpers


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path / "kept", delay=0.0, sweep=1000.0)
    yield made
    made.close()
