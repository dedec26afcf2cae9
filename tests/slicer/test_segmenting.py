"""Words of a run: levels, and where the tiles of an automatic one ended."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer", reason="these tests need the package slicer-core")

from UNetPPLib.Segmenting import level_name, reached


@pytest.mark.parametrize(
    ("level", "name"), [(1, "L1"), (4, "L4"), ("ensemble", "ensemble"), ("auto", "auto")]
)
def test_levels_have_names(level: int | str, name: str) -> None:
    assert level_name(level) == name


def test_an_automatic_run_says_where_its_tiles_ended() -> None:
    result = {"n_tiles": 12, "tiles_by_level": {"4": 3, "2": 9}}
    assert reached(result) == " (9 at L2, 3 at L4 of 12 tiles)"
    assert reached({"n_tiles": 12}) == ""
