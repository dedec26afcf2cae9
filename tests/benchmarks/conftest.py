"""The scripts under ``benchmarks/``, imported as they import each other."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

RunJson = Callable[[ModuleType, list[str]], tuple[int, Any]]


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, repository_root: Path) -> Iterator[SimpleNamespace]:
    """Return the scripts that the test module names in ``MODULES``."""
    names: tuple[str, ...] = request.module.MODULES
    folder = str(repository_root / "benchmarks")
    threads = torch.get_num_threads()
    sys.path.insert(0, folder)
    modules: dict[str, ModuleType] = {name: importlib.import_module(name) for name in names}
    gc.freeze()  # every measured peak begins with a collection, slow with all that is imported
    yield SimpleNamespace(**modules)
    gc.unfreeze()
    sys.path.remove(folder)
    for name in names:
        del sys.modules[name]
    torch.set_num_threads(threads)


@pytest.fixture
def run_json(capsys: pytest.CaptureFixture[str]) -> RunJson:
    """Return a function that runs a script: its exit code, and what it printed as JSON."""

    def run(script: ModuleType, argv: list[str]) -> tuple[int, Any]:
        code = script.main([*argv, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run
