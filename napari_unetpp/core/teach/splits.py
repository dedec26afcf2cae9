"""Splits of strokes in their JSON form, of several pairs: joined, and under another name.

Knows the keys of that form; no pixels and no files.
"""

from __future__ import annotations

from typing import Any


def joined(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Return all parts of two splits; of those in both, the new ones."""
    if old is None:
        return new
    return {**old, **new, "parts": {**old.get("parts", {}), **new.get("parts", {})}}


def moved(split: dict[str, Any] | None, old: str, new: str) -> dict[str, Any] | None:
    """Return a split with the strokes of a pair under another name."""
    if split is None or old == new:
        return split
    named = {part: part.rpartition("#") for part in split.get("parts", {})}
    parts = {
        f"{new}#{number}" if name == old else part: split["parts"][part]
        for part, (name, _, number) in named.items()
    }
    return {**split, "parts": parts}


def of_pair(split: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """Return the strokes of one pair; None if nothing is known of them."""
    every = {} if split is None else split.get("parts", {})
    parts = {part: row for part, row in every.items() if part.rpartition("#")[0] == name}
    return {**split, "parts": parts} if split is not None and parts else None


def over(kept: dict[str, Any] | None, own: dict[str, Any]) -> dict[str, Any]:
    """Return a pair's split over the one kept in its file, where parts may be numbers alone.

    Parts of the same number give way, whatever they are called; others stay.
    """
    numbers = {part.rpartition("#")[2] for part in own.get("parts", {})}
    parts = {} if kept is None else kept.get("parts", {})
    rest = {part: row for part, row in parts.items() if part.rpartition("#")[2] not in numbers}
    return joined({**(kept or {}), "parts": rest}, own)
