"""The command ``napari-unetpp``: which command is meant, and how it ends.

Exit codes: 0 done; 1 a defect of the program (with its traceback); 2 bad input, in one line;
130 cancelled with Ctrl-C; 143 ended by the system, 129 by a terminal that closed. Each command
lies in a module of its own that is imported only when it is meant, so that ``--help`` imports no
torch.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import napari_unetpp
from napari_unetpp.cli.common import PROGRAM, Parser, UsageError, one_line, tell
from napari_unetpp.core.errors import UNetPPError

COMMANDS = {
    "segment": "segment images with a model at one level",
    "evaluate": "score a model at every level on images with labels",
    "train": "train a model on folders of images and labels",
    "finetune": "fine-tune a model on a few painted strokes, within seconds",
    "models": "list the bundled models, or show the card of a model file",
    "variants": "list the network's family with parameters and operations",
    "doctor": "say what this machine can do, why not better, and what to do",
    "demo": "segment real images at four levels and draw a figure",
}
"""The commands and what each one does, in a line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if None.

    Returns
    -------
    int
        The exit code, see the module.
    """
    if argv is None:
        _prepare_process()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            code = _run(words)
        except SystemExit as leave:  # --help and --version, and SIGTERM
            code = leave.code if isinstance(leave.code, int) else 0
        sys.stdout.flush()  # a closed pipe shows here and not at the interpreter's end
    except UNetPPError as error:
        tell(f"{PROGRAM}: error: {one_line(error)}")
        return 2
    except KeyboardInterrupt:
        tell(f"{PROGRAM}: cancelled; what was not finished was not written.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has left, as in "napari-unetpp variants | head -1".
        _drop_output()
        return 141
    except OSError as error:
        if not _output_failed():
            raise
        tell(
            f"{PROGRAM}: error: the results cannot be printed ({error.strerror or error}); "
            "send standard output elsewhere."
        )
        return 2
    return code


def _output_failed() -> bool:
    """Return whether standard output takes nothing more; it is let go then."""
    try:
        print(flush=True)  # what comes otherwise is a traceback
    except OSError:
        _drop_output()
        return True
    return False


def _drop_output() -> None:
    """Point standard output at nothing, where the interpreter's last flush can go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str]) -> int:
    parser = Parser(
        prog=PROGRAM,
        description="UNet++ with four levels of depth: stop early for speed, go on for quality.",
        epilog=f"'{PROGRAM} COMMAND --help' says what a command takes.",
    )
    parser.add_argument("--version", action="version", version=napari_unetpp.__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    wanted = words[0] if words else ""
    if wanted not in COMMANDS:
        for name, summary in COMMANDS.items():
            commands.add_parser(name, help=summary)
        _explain(parser, wanted, words)
    module = importlib.import_module(f"napari_unetpp.cli.{wanted}")
    module.add_parser(commands)
    code: int = module.run(parser.parse_args(words))
    return code


def _explain(parser: argparse.ArgumentParser, wanted: str, words: list[str]) -> NoReturn:
    """Serve ``--help`` and ``--version``; say what is wrong with anything else."""
    known = ", ".join(COMMANDS)
    if not wanted:
        raise UsageError(
            f"a command was expected ({known}), got none; start with {PROGRAM} demo, or see "
            f"{PROGRAM} --help."
        )
    if not wanted.startswith("-"):
        close = difflib.get_close_matches(wanted, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"see {PROGRAM} --help."
        raise UsageError(f"a command was expected ({known}), got {wanted!r}; {hint}")
    parser.parse_args(words[:1])
    raise UsageError(f"a command was expected first, got {wanted!r}; see {PROGRAM} --help.")


def _prepare_process() -> None:
    """Set up what belongs to the process and not to a caller of :func:`main`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be valid Unicode
            stream.reconfigure(errors="backslashreplace")
    # So that a job that the system ends, or whose terminal closes, removes what it had begun.
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda caught, _: sys.exit(128 + caught))


if __name__ == "__main__":
    sys.exit(main())
