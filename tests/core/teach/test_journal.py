"""Journals: what is written comes back, however it was painted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_helpers import INFO, stroke
from numpy.typing import NDArray

from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.teach.journal import Journal
from napari_unetpp.core.teach.recorder import Recorder
from napari_unetpp.core.teach.records import FILE_MAGIC
from napari_unetpp.core.teach.recovered import read_journal, recover


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
