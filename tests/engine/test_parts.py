"""The engine's parts by themselves: blocks, lines, jobs, imports."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from engine_helpers import blocks_left, until
from numpy.typing import NDArray

from napari_unetpp.core.data.geometry import Grid, GridMap
from napari_unetpp.engine import blocks
from napari_unetpp.engine.blocks import Block, pieces
from napari_unetpp.engine.job import Dispatcher, Job
from napari_unetpp.engine.process import Launch, WorkerProcess, cause_of_death
from napari_unetpp.engine.protocol import DEAF, EngineError, Finished, Noted, Progress
from napari_unetpp.engine.worker.boot import Lines, Requests
from napari_unetpp.engine.worker.restore import restore
from napari_unetpp.engine.worker.way import Lane


@pytest.mark.parametrize("limit", [1, 8, 100, 10**6])
def test_pieces_cover_an_index_once(limit: int) -> None:
    data = np.arange(5 * 7 * 6).reshape(5, 7, 6)
    index = (slice(1, 5, 2), 3, slice(0, 6, 1))
    out = np.full(data[index].shape, -1)
    for part, place in pieces(index, 8, limit):
        assert (out[place] == -1).all()
        out[place] = data[part]
        assert data[part].nbytes <= max(limit, 8)
    np.testing.assert_array_equal(out, data[index])


def test_a_block_goes_from_one_side_to_the_other() -> None:
    values = np.arange(6, dtype=">u2").reshape(2, 3)
    made = Block("unetpp-test-1", (2, 3), ">u2", create=True)
    made.put(values)
    seen = Block.attach(made.describe())
    copy = seen.get()
    seen.put(values * 2)
    seen.dispose()
    assert "unetpp-test-1" not in blocks_left()
    np.testing.assert_array_equal(made.get(), values * 2)  # still there for its maker
    np.testing.assert_array_equal(copy, values)
    made.close()
    with pytest.raises(FileNotFoundError):
        Block.attach(made.describe())


def test_no_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks.os, "posix_fallocate", full, raising=False)
    with pytest.raises(MemoryError, match="no room in shared memory"):
        Block("unetpp-test-2", (2, 3), "<f4", create=True)
    assert "unetpp-test-2" not in blocks_left()


def test_a_lane_without_memory_for_its_thread_works_later(monkeypatch: pytest.MonkeyPatch) -> None:
    lane, calls = Lane("unetpp-test"), []

    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.raises(MemoryError, match="can't start new thread"):
            lane.do(lambda: calls.append("first"))
    lane.do(lambda: calls.append("second"))
    assert calls == ["second"]


def test_lines_of_threads_do_not_mix_and_noise_goes_elsewhere() -> None:
    protocol, rest = io.StringIO(), io.StringIO()
    lines = Lines(protocol, rest)

    def talk(name: str) -> None:
        for k in range(200):
            print('{"responseType":', f'"{name}{k}"}}', file=lines)
            print("a library says", name, file=lines)

    threads = [threading.Thread(target=talk, args=(n,)) for n in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = protocol.getvalue().splitlines()
    assert sorted(told) == sorted(
        f'{{"responseType": "{n}{k}"}}' for n in "abcd" for k in range(200)
    )
    assert len(rest.getvalue().splitlines()) == 800


def test_the_end_of_stdin_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("napari_unetpp.engine.worker.boot.leave", left.append)
    requests = Requests(io.StringIO("one\n"))
    assert requests.readline() == "one\n"
    assert left == []
    requests.readline()
    assert left == [0]


def test_a_late_listener_gets_the_end_and_the_first_one_everything() -> None:
    dispatcher = Dispatcher()
    job = Job(1, "run", dispatcher, lambda job, patient: None)
    job.emit(Progress(1, 9, 4))
    job.emit(Progress(2, 9, 4))
    job.emit(Noted("something", "note"))
    first: list[Any] = []
    job.listen(first.append)
    error = EngineError("no", "input")
    job.finish("failed", error=error)
    job.finish("done", 5)
    job.emit(Progress(9, 9, 4))
    late: list[Any] = []
    job.listen(late.append)
    until(lambda: late, 5)
    with pytest.raises(EngineError, match="no"):
        job.wait(5)
    assert first[:2] == [Progress(2, 9, 4), Noted("something", "note")]
    for events in (first[2:], late):
        assert [(e.state, e.error) for e in events if isinstance(e, Finished)] == [
            ("failed", error)
        ]
        assert len(events) == 1
    dispatcher.stop(1)


def test_waiting_has_an_end() -> None:
    dispatcher = Dispatcher()
    job = Job(3, "run", dispatcher, lambda job, patient: None)
    with pytest.raises(TimeoutError, match="job 3 is still queued"):
        job.wait(0.01)
    dispatcher.stop(1)


def test_death_in_words() -> None:
    assert "exit code 3" in cause_of_death(3)
    assert "not known" in cause_of_death(None)
    assert "no memory left" in cause_of_death(DEAF)
    if sys.platform == "linux":
        assert "SIGBUS: most likely shared memory" in cause_of_death(
            -7 if sys.platform == "linux" else -10
        )


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_a_silent_worker_that_computes_is_not_taken_for_hung() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    class Silent(WorkerProcess):
        pid = property(lambda self: child.pid)  # type: ignore[assignment]

    try:
        worker = Silent(Launch(sys.executable, {}, None, 1.0), lambda worker, info: None)
        assert worker.computes(0.05)
        time.sleep(1.0)
        assert worker.computes(0.05)
        child.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        worker.computes(0.05)
        time.sleep(0.5)
        assert not worker.computes(0.05)
        worker.heard = time.monotonic()  # a sign of life since: the last look is too old
        time.sleep(0.05)
        assert worker.computes(0.05)
        assert not worker.computes(0.05)
    finally:
        child.kill()
        child.wait()
    assert not worker.computes(0.05)


@pytest.mark.parametrize("steps", [(0.4, 1.0, 2.5), (3.3, 0.3, 1.0), (1.0, 1.0, 1.0)])
def test_a_region_is_restored_as_the_whole(
    rng: np.random.Generator, steps: tuple[float, float, float]
) -> None:
    from napari_unetpp.core.data.geometry import _respaced, _turned

    order, flips = (2, 0, 1), (True, False, True)
    grid = Grid.from_spacing((9, 17, 23), (1.0, 1.0, 1.0))
    turned = _turned(grid, order, flips)
    grid_map = GridMap(grid, _respaced(turned, steps), order, flips)
    volume: NDArray[np.float32] = rng.random(grid_map.model_shape, np.float32)
    whole = grid_map.to_input(volume)
    for region in (
        (slice(0, 9), slice(0, 17), slice(0, 23)),
        (slice(4, 5), slice(0, 17), slice(0, 23)),
        (slice(2, 8), slice(16, 17), slice(5, 11)),
    ):
        np.testing.assert_allclose(restore(volume, grid_map, region), whole[region], atol=1e-6)


def test_the_client_imports_no_torch_and_little_else() -> None:
    code = (
        "import sys, napari_unetpp.engine.client, napari_unetpp.engine.protocol\n"
        "print(sorted({'torch', 'scipy', 'skimage', 'monai', 'qtpy', 'napari'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
