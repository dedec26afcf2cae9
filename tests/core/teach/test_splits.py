"""Splits of strokes in their JSON form."""

from __future__ import annotations

from napari_unetpp.core.teach.splits import over


def test_a_pair_goes_over_what_its_file_kept() -> None:
    kept = {"format": 1, "seed": 3, "parts": {"0": "old", "1": "stays", "x#2": "old"}}
    own = {"format": 1, "seed": 5, "parts": {"cells#0": "new", "cells#2": "new"}}
    found = over(kept, own)
    assert found["parts"] == {"1": "stays", "cells#0": "new", "cells#2": "new"}
    assert found["seed"] == 5
    assert over(None, own) == own
    assert kept["parts"] == {"0": "old", "1": "stays", "x#2": "old"}
