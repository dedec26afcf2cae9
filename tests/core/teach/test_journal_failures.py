"""Journals where something fails: a full disk, a folder that is gone, a process that is killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_helpers import INFO, stroke

from napari_unetpp.core.teach import journal as journal_module
from napari_unetpp.core.teach.recorder import Recorder
from napari_unetpp.core.teach.recovered import read_journal, recover
from napari_unetpp.core.teach.track import Track


def test_a_full_disk_is_told_once_and_painting_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_unetpp.core.teach.recorder._RETRY", 0.02)
    said: list[str] = []
    recorder = Recorder(tmp_path, said.append, delay=0.0, sweep=1000.0)
    labels = np.zeros((300, 300), np.uint8)
    track = recorder.follow(labels, INFO)
    track.touch(stroke(labels, 1))
    assert recorder.flush()
    kept = labels.copy()
    full = True
    real = os.fsync

    def fsync(handle: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(journal_module.os, "fsync", fsync)
    for k in range(2, 6):
        track.touch(stroke(labels, k))
        assert not recorder.flush()
        assert track.path is not None
        assert np.array_equal(read_journal(track.path).labels(), kept)
    assert len(said) == 1
    assert "No space left" in said[0]
    assert "painting goes on" in said[0]
    full = False
    end = time.monotonic() + 20
    while track.waiting and time.monotonic() < end:
        time.sleep(0.01)
    assert recorder.flush()
    assert said[1:] == [""]
    assert np.array_equal(read_journal(track.path).labels(), labels)
    recorder.close()


@pytest.mark.skipif(os.name == "nt", reason="folders there have no such permissions")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    said: list[str] = []
    recorder = Recorder(blocked / "kept", said.append, delay=0.0, sweep=1000.0)
    recorder.follow(np.ones((9, 9), np.uint8), INFO)
    assert not recorder.flush()
    recorder.close()
    assert len(said) == 1
    assert "painting goes on" in said[0]
    assert recover(blocked / "kept") == []


def test_a_journal_that_somebody_removed_is_written_again(recorder: Recorder) -> None:
    labels = np.zeros((300, 300), np.uint8)
    track = recorder.follow(labels, INFO)
    track.touch(stroke(labels, 1))
    assert recorder.flush()
    assert track.path is not None
    track.path.unlink()
    track.touch(stroke(labels, 2))
    assert recorder.flush()
    assert np.array_equal(read_journal(track.path).labels(), labels)


def test_an_array_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    class Gone:
        shape, dtype = (8, 8), np.dtype(np.uint8)

        def __getitem__(self, index: Any) -> Any:
            raise ValueError("the file is closed")

    said: list[str] = []
    recorder = Recorder(tmp_path, said.append, delay=0.0, sweep=1000.0)
    recorder.follow(Gone(), INFO)
    assert not recorder.flush()
    recorder.close()
    assert len(said) == 1
    assert "the file is closed" in said[0]


_PAINTER = """
import sys, time
from pathlib import Path
import numpy as np
from napari_unetpp.core.teach.info import LayerInfo
from napari_unetpp.core.teach.recorder import Recorder
assert "torch" not in sys.modules
recorder = Recorder(Path(sys.argv[1]))
labels = np.zeros((512, 512), np.uint8)
track = recorder.follow(labels, LayerInfo("killed"))
k = 0
while True:
    y, x = divmod(k * 8, 512)
    y = y * 8 % 504
    labels[y:y + 8, x:x + 8] = k % 250 + 1
    track.touch(((y, y + 8), (x, x + 8)))
    recorder.changed()
    print(k, time.time(), flush=True)
    k += 1
    time.sleep(0.02)
"""


@pytest.mark.parametrize("seconds", [0.3, 1.2, 2.6])
def test_strokes_outlive_a_process_that_is_killed(tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-c", _PAINTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        assert recover(tmp_path) == []
        end = time.time() + seconds
        while time.time() < end:
            lines.append(process.stdout.readline())
        process.kill()
        killed = time.time()
        lines += process.stdout.read().splitlines()
    strokes = [(int(line.split()[0]), float(line.split()[1])) for line in lines if " " in line]
    old = [k for k, when in strokes if when < killed - 2.0]
    found = recover(tmp_path)
    labels = found[0].labels() if found else np.zeros((512, 512), np.uint8)
    for k in old:
        y, x = divmod(k * 8, 512)
        y = y * 8 % 504
        assert (labels[y : y + 8, x : x + 8] == k % 250 + 1).all()
    assert bool(old) == (seconds > 2.0)
    if seconds > 1.0:
        assert labels.any()


def test_tracks_can_be_closed_without_having_been_written(tmp_path: Path) -> None:
    track = Track(np.zeros((4, 4), np.uint8), INFO, tmp_path)
    track.close()
    track.write()
    assert list(tmp_path.iterdir()) == []
