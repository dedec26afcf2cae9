"""Tables of the fine-tuning benchmark: what was measured, and a dash for what was not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from napari_unetpp.core.errors import InputError

MODULES = ("finetune_table",)


def row(method: str, level: int | None, rest: float, **more: Any) -> dict[str, Any]:
    lead = {"case": "em", "strokes": 10, "painted": 0.0049, "other": 0.5, "seed": 0}
    tuned = {"steps": 100, "best_step": 80, "base_kept": False}
    return lead | {"method": method, "level": level, "rest": rest} | tuned | more


def rows() -> list[dict[str, Any]]:
    ours = [row("ours", k, 0.6 + k / 100, budget=30.0) for k in (1, 2, 3, 4)]
    kept = [row("ours", k, 0.4, budget=120.0, base_kept=True) for k in (1, 2, 3, 4)]
    fewer = [row("ours", 4, 0.5, budget=30.0, strokes=5)]
    return [
        row("base", 4, 0.4), row("forest", None, 0.55), *ours, *kept, *fewer,
        row("scratch", 4, 0.3, budget=30.0), row("dense labels", 4, 0.8),
    ]  # fmt: skip


def cells(table: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]


def test_every_level_has_a_column_and_every_budget_a_line(bench: SimpleNamespace) -> None:
    _, _, few, first, second = cells(bench.finetune_table.by_level(rows()))
    assert few[:5] == ["EM, section 3", "5, 0.49 %", "–", "–", "30 s"]
    assert first == [
        "", "10, 0.49 %", ".400 / .500", ".550 / .500", "30 s", ".610 / .500", ".620 / .500",
        ".630 / .500", ".640 / .500", "80 of 100",
    ]  # fmt: skip
    assert second[4] == "120 s"
    assert second[-1] == "base kept"


def test_the_gap_is_between_base_and_dense_labels(bench: SimpleNamespace) -> None:
    header, _, few, ten = cells(bench.finetune_table.by_budget(rows()))
    assert header[-1] == "gap closed in 30 s"
    assert few[-2:] == [".800 / .500", "62 %"]  # no base was measured with 5: from nothing
    assert ten[2:6] == [".640 / .500", ".400 / .500", ".300 / .500", "–"]
    assert ten[-1] == "60 %"


def test_another_file_is_refused(bench: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file"):
        bench.finetune_table.main([str(tmp_path / "none.json")])
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows()))
    assert bench.finetune_table.main([str(file)]) == 0
    file.write_text(json.dumps([*rows(), row("base", 4, 0.5, seed=1)]))
    with pytest.raises(InputError, match="expected one seed, got 2"):
        bench.finetune_table.main([str(file)])
