"""Journals: what is written comes back, whatever happened in between."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo
from napari_unetpp.core.data.io.hidden import hidden_beside
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.teach import journal as journal_module
from napari_unetpp.core.teach.blocks import Grid, changed_box
from napari_unetpp.core.teach.info import LayerInfo, plain
from napari_unetpp.core.teach.journal import Journal
from napari_unetpp.core.teach.lock import Busy, Lock
from napari_unetpp.core.teach.recorder import Recorder
from napari_unetpp.core.teach.records import FILE_MAGIC, Record, decode, encode
from napari_unetpp.core.teach.recovered import read_journal, recover
from napari_unetpp.core.teach.track import Track

INFO = LayerInfo(
    "paint: Zellen ü",
    axes="YX",
    image="cells",
    image_path="/data/cells 1.tif",
    channel=1,
    classes=(ClassInfo("nucleus", "#112233"),),
    geometry={"scale": [0.5, 2.0]},
    looks={"opacity": 0.7},
)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path / "kept", delay=0.0, sweep=1000.0)
    yield made
    made.close()


def stroke(labels: NDArray[Any], k: int) -> tuple[tuple[int, int], ...]:
    """Paint a small disc that is another one for each number; return its box."""
    size = labels.shape[-1]
    y, x = (37 * k) % (size - 12), (91 * k) % (size - 12)
    labels[..., y : y + 12, x : x + 12] = k % 5 + 1
    lead = tuple((0, n) for n in labels.shape[:-2])
    return (*lead, (y, y + 12), (x, x + 12))


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


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", ">u2", "bool"])
def test_a_layer_comes_back(recorder: Recorder, dtype: str) -> None:
    labels = np.zeros((300, 260), dtype)
    track = recorder.follow(labels, INFO)
    for k in range(8):
        track.touch(stroke(labels, k))
        if k == 3:
            assert recorder.flush()
    recorder.close()
    (found,) = recover(recorder.folder)
    assert found.info == INFO
    assert found.complete
    assert found.dtype.itemsize == labels.dtype.itemsize
    assert np.array_equal(found.labels(), labels)


def test_erasing_comes_back_too(recorder: Recorder) -> None:
    labels = np.zeros((50, 50), np.uint8)
    labels[10:20, 10:40] = 2
    track = recorder.follow(labels, INFO)
    assert recorder.flush()
    labels[10:20, 20:30] = 0
    track.touch(((10, 20), (20, 30)))
    assert recorder.flush()
    assert track.path is not None
    assert np.array_equal(read_journal(track.path).labels(), labels)


def test_a_tail_that_was_cut_short_loses_only_the_last_record(recorder: Recorder) -> None:
    labels = np.zeros((200, 200), np.uint8)
    track = recorder.follow(labels, INFO)
    states = []
    sizes = []
    for k in range(1, 5):
        track.touch(stroke(labels, k))
        assert recorder.flush()
        assert track.path is not None
        states.append(labels.copy())
        sizes.append(track.path.stat().st_size)
    data = track.path.read_bytes()
    cut = recorder.folder / "cut.journal"
    last = sizes[-1] - sizes[-2]
    assert 20 < last < 400
    # The last stroke may lie in several blocks: what counts is that all before it is whole.
    box = stroke(np.zeros_like(labels), 4)
    before = np.ones_like(labels, bool)
    before[tuple(slice(a, b) for a, b in box)] = False
    for length in range(sizes[-2], sizes[-1]):
        cut.write_bytes(data[:length])
        found = read_journal(cut).labels()
        assert np.array_equal(found[before], states[-2][before])
    cut.write_bytes(data[: sizes[-2]])
    assert np.array_equal(read_journal(cut).labels(), states[-2])
    cut.write_bytes(data)
    assert np.array_equal(read_journal(cut).labels(), states[-1])
    # Nor does any cut before that bring anything but an error of ours.
    header = len(FILE_MAGIC) + data[len(FILE_MAGIC) :].index(b"\xa5\x5aUP", 1)
    for length in range(0, header, 7):
        cut.write_bytes(data[:length])
        with pytest.raises(FileError, match=r"cut\.journal"):
            read_journal(cut)
    cut.write_bytes(data[:header])
    assert read_journal(cut).boxes() == []


def test_a_journal_that_got_long_is_written_anew(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_unetpp.core.teach.track._LEAST", 2000)
    labels = np.zeros((64, 64), np.uint8)
    track = recorder.follow(labels, INFO)
    rng = np.random.default_rng(1)
    longest = 0
    for _ in range(150):
        labels[20:30, 20:30] = rng.integers(0, 5, (10, 10))
        track.touch(((20, 30), (20, 30)))
        assert recorder.flush()
        assert track.path is not None
        longest = max(longest, track.path.stat().st_size)
    assert longest < 12000  # of 150 times 100 bytes and more
    assert np.array_equal(read_journal(track.path).labels(), labels)
    assert [p.name for p in recorder.folder.iterdir() if p.name.startswith(".")] == []


def test_renamed_and_other_arrays(recorder: Recorder) -> None:
    labels = np.full((40, 40), 3, np.uint8)
    track = recorder.follow(labels, INFO)
    assert recorder.flush()
    track.set_info(INFO.replace(name="better"))
    assert recorder.flush()
    assert track.path is not None
    assert read_journal(track.path).info.name == "better"
    same = np.full((40, 40), 4, np.uint8)
    track.set_array(same)
    assert recorder.flush()
    assert np.array_equal(read_journal(track.path).labels(), same)
    other = np.full((3, 20, 30), 70000, np.uint32)
    track.set_array(other)
    assert recorder.flush()
    found = read_journal(track.path)
    assert np.array_equal(found.labels(), other)
    assert found.dtype == np.uint32
    assert found.info.name == "better"
    with pytest.raises(InputError, match="whole numbers"):
        track.set_array(np.zeros((3, 3), np.float32))


def test_changes_that_nobody_told_are_found(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, delay=0.0, sweep=0.05)
    labels = np.zeros((300, 300), np.uint8)
    track = recorder.follow(labels, INFO)
    assert recorder.flush()
    labels[250, 250] = 7
    end = time.monotonic() + 20
    while track.path is None and time.monotonic() < end:
        time.sleep(0.02)
    recorder.close()
    (found,) = recover(tmp_path)
    assert np.argwhere(found.labels()).tolist() == [[250, 250]]


def test_undo_is_found_among_what_was_painted(recorder: Recorder) -> None:
    labels = np.zeros((300, 300), np.uint8)
    track = recorder.follow(labels, INFO)
    track.touch(stroke(labels, 1))
    assert recorder.flush()
    box = stroke(labels, 2)
    track.touch(box)
    assert recorder.flush()
    labels[tuple(slice(a, b) for a, b in box)] = 0
    track.check()
    assert recorder.flush()
    assert track.path is not None
    assert np.array_equal(read_journal(track.path).labels(), labels)


class Reading:
    """A large array that counts what is read of it."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read = 0

    def __getitem__(self, index: Any) -> NDArray[Any]:
        block = self.array[index]
        self.read += block.nbytes
        return block


def test_of_a_huge_volume_only_what_was_painted_is_read(recorder: Recorder, tmp_path: Path) -> None:
    shape = (2048, 2048, 2048)
    path = tmp_path / "labels.npy"
    huge = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
    watched = Reading(huge)
    track = recorder.follow(watched, INFO.replace(axes="ZYX"))
    huge[1000:1003, 500:520, 700:730] = 2
    track.touch(((1000, 1003), (500, 520), (700, 730)))
    assert recorder.flush()
    recorder.close()
    assert watched.read < 2**20
    (found,) = recover(recorder.folder)
    assert found.shape == shape
    assert not found.complete
    small: dict[str, Any] = {}

    class Target:
        def __setitem__(self, index: Any, values: Any) -> None:
            small[str(index)] = values

    found.labels(Target())
    assert sum(int((v == 2).sum()) for v in small.values()) == 3 * 20 * 30
    del huge, watched.array


def test_what_is_empty_or_saved_is_not_offered(recorder: Recorder) -> None:
    empty = recorder.follow(np.zeros((9, 9), np.uint8), INFO)
    labels = np.ones((9, 9), np.uint8)
    track = recorder.follow(labels, INFO)
    assert recorder.flush()
    assert empty.path is None
    track.saved("/somewhere/paint.tif")
    assert recorder.flush()
    assert track.path is not None
    assert read_journal(track.path).saved == "/somewhere/paint.tif"
    labels[0, 0] = 2
    track.touch(((0, 1), (0, 1)))
    assert recorder.flush()
    assert read_journal(track.path).saved == ""
    track.saved("there")
    recorder.forget(track)
    assert list(recorder.folder.iterdir()) == []
    assert recover(recorder.folder) == []


def test_strokes_while_it_is_being_saved_are_not_saved(recorder: Recorder) -> None:
    labels = np.ones((9, 9), np.uint8)
    track = recorder.follow(labels, INFO)
    mark = track.mark
    labels[0, 0] = 2
    track.touch(((0, 1), (0, 1)))
    track.saved("there", mark)
    assert recorder.flush()
    assert track.path is not None
    assert read_journal(track.path).saved == ""
    track.saved("there", track.mark)
    assert recorder.flush()
    assert read_journal(track.path).saved == "there"


def test_an_open_journal_is_nobody_elses(recorder: Recorder) -> None:
    labels = np.ones((9, 9), np.uint8)
    track = recorder.follow(labels, INFO)
    assert recorder.flush()
    assert track.path is not None
    assert recover(recorder.folder) == []
    with pytest.raises(FileError, match="open in another window"):
        Journal.claim(track.path)
    recorder.forget(track)
    (found,) = recover(recorder.folder)
    found.discard()
    assert list(recorder.folder.iterdir()) == []
    with pytest.raises(FileError, match="not there any more"):
        found.discard()


def test_a_restored_layer_goes_on_in_its_journal(recorder: Recorder) -> None:
    labels = np.zeros((300, 300), np.uint8)
    track = recorder.follow(labels, INFO)
    track.touch(stroke(labels, 1))
    recorder.forget(track)
    (found,) = recover(recorder.folder)
    again = found.labels()
    taken = recorder.follow(
        again, found.info, empty=True, touched=found.boxes(), journal=Journal.claim(found.path)
    )
    taken.touch(stroke(again, 2))
    recorder.forget(taken)
    (last,) = recover(recorder.folder)
    assert last.path == found.path
    assert np.array_equal(last.labels(), again)
    assert np.unique(last.labels()).tolist() == [0, 2, 3]


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


def test_cost_of_a_session(recorder: Recorder) -> None:
    labels = np.zeros((2048, 2048), np.uint8)
    track = recorder.follow(labels, INFO)
    rng = np.random.default_rng(0)
    for k in range(200):
        for box in curve(labels, rng, k % 3 + 1):
            track.touch(box)
        assert recorder.flush()
    assert track.path is not None
    assert np.array_equal(read_journal(track.path).labels(), labels)
    size = track.path.stat().st_size
    print(f"200 strokes: {size} bytes, a copy: {labels.nbytes} bytes")
    assert size < labels.nbytes / 10


def curve(labels: NDArray[Any], rng: np.random.Generator, value: int) -> list[Any]:
    """Paint a curved line 10 pixels wide, about 200 long; return the boxes of its dabs."""
    y, x = rng.uniform(150, 1900, 2)
    angle, turn = rng.uniform(0, 6.28), rng.normal(0, 0.05)
    yy, xx = np.mgrid[-5:6, -5:6]
    disc = yy**2 + xx**2 <= 25
    boxes = []
    for _ in range(50):
        y, x = np.clip([y + 4 * np.sin(angle), x + 4 * np.cos(angle)], 6, 2040)
        angle += turn
        top, left = int(y) - 5, int(x) - 5
        labels[top : top + 11, left : left + 11][disc] = value
        boxes.append(((top, top + 11), (left, left + 11)))
    return boxes


def test_tracks_can_be_closed_without_having_been_written(tmp_path: Path) -> None:
    track = Track(np.zeros((4, 4), np.uint8), INFO, tmp_path)
    track.close()
    track.write()
    assert list(tmp_path.iterdir()) == []
