"""The parts of a journal: records, blocks, boxes, locks, and what is told of a layer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_helpers import INFO

from napari_unetpp.core.data.io.hidden import hidden_beside
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.teach import journal as journal_module
from napari_unetpp.core.teach.blocks import Grid, changed_box
from napari_unetpp.core.teach.info import LayerInfo, plain
from napari_unetpp.core.teach.lock import Busy, Lock
from napari_unetpp.core.teach.recorder import Recorder
from napari_unetpp.core.teach.records import FILE_MAGIC, Record, decode, encode
from napari_unetpp.core.teach.recovered import read_journal, recover


def test_records_come_back_as_they_were() -> None:
    data = encode(b"A", b"one") + encode(b"B", b"") + encode(b"C", bytes(range(256)))
    assert list(decode(data)) == [
        Record(b"A", b"one"),
        Record(b"B", b""),
        Record(b"C", bytes(range(256))),
    ]


def test_a_damaged_record_is_left_out_and_those_after_it_are_read() -> None:
    first, second, third = (encode(b"A", bytes([k]) * 50) for k in range(3))
    for at in range(len(second)):
        broken = bytearray(second)
        broken[at] ^= 0x40
        found = [r.payload[0] for r in decode(first + bytes(broken) + third)]
        assert found == [0, 2]


def test_blocks_cover_the_array_once() -> None:
    for shape in [(5,), (300, 130), (3, 300, 130), (2, 3, 70, 65)]:
        grid = Grid(shape, np.uint8)
        count = np.zeros(shape, int)
        for key in grid.blocks():
            count[tuple(slice(a, b) for a, b in grid.box(key))] += 1
        assert (count == 1).all()
    grid = Grid((300, 300), np.int32)
    assert list(grid.touching(((127, 129), (-5, 1)))) == [(0, 0), (1, 0)]
    assert list(grid.touching(((300, 400), (0, 1)))) == []


def test_the_box_of_a_change_is_tight() -> None:
    old = np.zeros((4, 6, 8), np.uint8)
    new = old.copy()
    new[1, 2:4, 5] = 1
    new[2, 3, 6] = 1
    assert changed_box(old, new) == ((1, 3), (2, 4), (5, 7))
    assert changed_box(old, old) is None


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.journal").write_bytes(b"something else")
    (tmp_path / "b.journal").write_bytes(FILE_MAGIC + encode(b"H", b"{}"))
    (tmp_path / "c.journal").write_bytes(FILE_MAGIC + encode(b"H", b"\xff"))
    assert recover(tmp_path) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.journal", "b.journal", "c.journal"]
    assert recover(tmp_path / "none") == []


def test_a_new_file_that_fails_leaves_the_old_one(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.ones((40, 40), np.uint8)
    track = recorder.follow(labels, INFO)
    assert recorder.flush()
    assert track.path is not None
    before = track.path.read_bytes()

    def refused(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(journal_module.os, "replace", refused)
    other = np.full((50, 30), 2, np.uint16)
    track.set_array(other)
    track.set_info(INFO.replace(name="other"))
    assert not recorder.flush()
    assert track.path.read_bytes() == before
    monkeypatch.undo()
    assert recorder.flush()
    found = read_journal(track.path)
    assert np.array_equal(found.labels(), other)
    assert found.info.name == "other"


def test_what_a_killed_process_had_begun_is_removed(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    begun = hidden_beside(tmp_path / "20260102-030405-0123abcd.journal", ".journal")
    left = begun.with_name(begun.name.replace(f".{os.getpid()}-", f".{int(ended.stdout)}-"))
    for path in (begun, left, tmp_path / "20260102-030405-0123abcd.journal.lock"):
        path.write_bytes(b"")
    held = Lock(tmp_path / "20260102-030405-4567abcd.journal.lock")
    assert recover(tmp_path) == []
    assert set(tmp_path.iterdir()) == {begun, held.path}
    held.release()


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    first = Lock(tmp_path / "a.lock")
    with pytest.raises(Busy):
        Lock(tmp_path / "a.lock")
    first.release()
    first.release()
    assert not (tmp_path / "a.lock").exists()
    Lock(tmp_path / "a.lock").release()


def test_what_json_cannot_hold_is_left_out() -> None:
    told = plain({"a": np.float32(0.5), "b": np.eye(2), "c": object(), "d": {"e": float("nan")}})
    assert told == {"a": 0.5, "b": [[1.0, 0.0], [0.0, 1.0]], "d": {}}
    assert LayerInfo.from_json(INFO.to_json()) == INFO
    with pytest.raises(InputError, match="painted layer"):
        LayerInfo.from_json({"axes": "YX"})
