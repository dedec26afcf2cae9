"""What levels are called, for people.

Pure text: no Qt, no model.
"""

from __future__ import annotations

from collections.abc import Mapping


def level_name(level: int | str) -> str:
    """Return "L2", "ensemble" or "auto"."""
    return f"L{level}" if isinstance(level, int) else level


def tiles_by_level(counts: Mapping[str, int]) -> str:
    """Return how many tiles a run at "auto" had at each level: "12 tiles came to L2, 3 to L4".

    Parameters
    ----------
    counts : mapping of str to int
        ``tiles_by_level`` of a run's result; empty if it was not run at "auto".
    """
    parts = [f"{count} to L{level}" for level, count in sorted(counts.items())]
    if not parts:
        return ""
    first, _, rest = parts[0].partition(" ")
    noun = "tile" if first == "1" else "tiles"
    return ", ".join([f"{first} {noun} came {rest}", *parts[1:]])
