"""The command as a process of its own: what it imports, prints, and leaves when it is ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_unetpp.cli.common import tell

COMMAND = [sys.executable, "-m", "napari_unetpp.cli.main"]

# Runs the command and says at its end which of the heavy packages it loaded.
SPY = """
import sys
from napari_unetpp.cli.main import main
code = main({words!r})
heavy = ["torch", "scipy", "skimage", "matplotlib", "monai"]
print("loaded:", [m for m in heavy if m in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("words", [["--help"], ["segment", "--help"], ["variants", "--json"]])
def test_light_commands_import_no_torch(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SPY.format(words=words)],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stderr == "loaded: []\n"
    assert done.stdout


@pytest.fixture
def long_run(tmp_path: Path, models: dict[str, Path]) -> list[str]:
    """Return a command that works for minutes: many small tiles of a large image."""
    rng = np.random.default_rng(1)
    tifffile.imwrite(tmp_path / "large.tif", rng.integers(0, 999, (3000, 3000)).astype(np.uint16))
    return [
        *COMMAND, "segment", str(tmp_path / "large.tif"), "--model", str(models["nuclei"]),
        "--tile", "16", "--out", str(tmp_path / "result.tif"), "--device", "cpu",
    ]  # fmt: skip


def started(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """Start a run and wait until its hidden target is there, so that it is in the middle."""
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(folder.glob(".result.tif.*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_ended_run_leaves_nothing(
    number: str, code: int, long_run: list[str], tmp_path: Path
) -> None:
    sent = getattr(signal, number)
    before = signal.signal(sent, signal.default_int_handler)  # a child of nohup ignores some
    try:
        process = started(long_run, tmp_path)
    finally:
        signal.signal(sent, before)
    process.send_signal(sent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["large.tif"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_leaves_no_file_under_the_final_name(
    long_run: list[str], tmp_path: Path
) -> None:
    process = started(long_run, tmp_path)
    process.kill()
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "result.tif").exists()


def test_json_is_all_that_is_printed(
    tmp_path: Path, image_file: Path, models: dict[str, Path]
) -> None:
    done = subprocess.run(
        [
            *COMMAND, "segment", str(image_file), "--model", str(models["plain"]), "--level", "1",
            "--kind", "instances", "--out", str(tmp_path / "o.tif"), "--json",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    (entry,) = json.loads(done.stdout)
    assert entry["objects"] == tifffile.imread(tmp_path / "o.tif").max()
    assert done.stderr == ""


def test_a_closed_pipe_is_no_traceback() -> None:
    reader = subprocess.run(
        f"{sys.executable} -m napari_unetpp.cli.main variants --json | head -c 1",
        shell=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert reader.stdout == "["
    assert reader.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", ["variants --json", "models"])
@pytest.mark.parametrize("interpreter", [sys.executable, f"{sys.executable} -u"])
def test_a_full_output_is_one_line(words: str, interpreter: str) -> None:
    done = subprocess.run(
        f"{interpreter} -m napari_unetpp.cli.main {words} > /dev/full",
        shell=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        "napari-unetpp: error: the results cannot be printed (No space left on device); "
        "send standard output elsewhere.\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of POSIX")
@pytest.mark.parametrize(
    ("words", "code"), [("variants >&-", 0), ("variants >&- 2>&-", 0), ("nonsense 2>&-", 2)]
)
def test_closed_streams_are_no_traceback(words: str, code: int) -> None:
    done = subprocess.run(
        f"{sys.executable} -m napari_unetpp.cli.main {words}",
        shell=True, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_what_is_told_to_nobody_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    tell("a note")
    assert capsys.readouterr().out == ""
