"""What the command lines of the benchmarks share: options, and a result told in two ways."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from napari_unetpp.core.errors import UNetPPError

Found = TypeVar("Found")

_SHARED: dict[str, dict[str, Any]] = {
    "folder": {"type": Path, "help": "where to write; default a temporary folder"},
    "threads": {"type": int, "help": "default: torch's"},
    "device": {"default": "auto", "choices": ("auto", "cpu", "cuda", "mps")},
    "precision": {"default": "auto", "choices": ("auto", "float32", "bfloat16", "float16")},
    "backend": {"default": "auto", "choices": ("auto", "torch", "openvino")},
}


def parser_of(doc: str | None, *shared: str) -> argparse.ArgumentParser:
    """Return a parser with ``--json`` and some options that several benchmarks have.

    Parameters
    ----------
    doc : str or None
        The script's docstring, whose first line describes it.
    *shared : str
        Names of the options, of "folder", "threads", "device", "precision" and "backend".
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name in shared:
        parser.add_argument(f"--{name}", **_SHARED[name])
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    return parser


def tell(
    args: argparse.Namespace,
    measure: Callable[[], Found],
    report: Callable[[Found], str],
    verdict: Callable[[Found], int] = lambda _: 0,
) -> int:
    """Measure and print; return the exit code.

    Parameters
    ----------
    args : Namespace
        Its ``json`` chooses how to print.
    measure : callable
        Gives what was found, plain JSON values.
    report : callable
        Makes Markdown of it.
    verdict : callable
        Gives the exit code; 2 is for what could not be measured, which one line says.
    """
    try:
        found = measure()
    except (UNetPPError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(found, indent=2) if args.json else report(found))
    return verdict(found)
