"""The worker's life: it is killed, hangs, does not stop or does not start; nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from engine_helpers import LONG, NUCLEI, Recording, alive, blocks_left, heard, source_of, until
from numpy.typing import NDArray

from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import EngineError, EngineState, RunRequest, ViewRequest

posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
SMALL = ViewRequest(NUCLEI, 1, ((0, 32), (0, 32)))


@pytest.fixture(scope="module")
def brittle() -> Iterator[Engine]:
    """An engine with the usual patience for cancel and little for silence."""
    made = Engine(hang_seconds=2.0, beat_seconds=0.2)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_is_left(request: Any) -> Iterator[None]:
    yield
    brittle = request.node.funcargs.get("brittle")
    if brittle is not None:  # a worker that goes on may hold some for a moment
        until(lambda: brittle.state.kind != "busy")
    until(lambda: not blocks_left(), 5.0)


def long_run(engine: Engine, **options: Any) -> tuple[Job, NDArray[np.uint8]]:
    """Start a run that takes minutes and wait until it has written something."""
    stack = np.random.default_rng(1).integers(0, 99, (500, 256, 256)).astype(np.uint8)
    sink = np.full(stack.shape, 255, np.uint8)
    options.setdefault("tile", 64)
    job = engine.run(source_of(stack, "TYX"), RunRequest(NUCLEI, 2, **options), sink)
    until(lambda: (sink[0, :64, :64] != 255).all())
    assert job.state == "running"
    return job, sink


def works(engine: Engine) -> bool:
    image = np.random.default_rng(2).integers(0, 99, (32, 32)).astype(np.uint8)
    return bool(engine.view(source_of(image), SMALL).wait(LONG) == (1,))


@posix
def test_killed(brittle: Engine) -> None:
    states: list[EngineState] = []
    brittle.listen(states.append)
    job, _ = long_run(brittle)
    pid = brittle.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="SIGKILL: most likely the system ran out of memory") as e:
        job.wait(10)
    assert (e.value.code, job.state) == ("killed", "failed")
    assert works(brittle)
    assert brittle.worker_pid != pid
    kinds = [s.kind for s in states]
    failed = kinds.index("failed")
    assert kinds[failed : failed + 3] == ["failed", "starting", "busy"]
    assert "SIGKILL" in states[failed].message


@posix
def test_killed_while_idle(brittle: Engine) -> None:
    assert works(brittle)
    pid = brittle.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    until(lambda: brittle.state.kind == "failed", 10)
    assert "SIGTERM: another program asked it to end" in brittle.state.message
    assert works(brittle)


@posix
def test_hung(brittle: Engine) -> None:
    job, _ = long_run(brittle)
    pid = brittle.worker_pid
    assert pid is not None
    start = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match="no sign of life") as caught:
        job.wait(20)
    assert caught.value.code == "hung"
    assert 1.5 < time.monotonic() - start < 15
    assert not alive(pid)
    assert works(brittle)


def test_a_cancelled_run_stops(brittle: Engine) -> None:
    job, sink = long_run(brittle)
    start = time.monotonic()
    job.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        job.wait(10)
    took = time.monotonic() - start
    assert job.state == "cancelled"
    assert took < 0.2 + 1.0  # and a second for a machine that is busy
    after = sink.copy()
    assert works(brittle)
    np.testing.assert_array_equal(sink, after)  # nothing is written afterwards
    job.cancel()
    assert job.state == "cancelled"


@posix
def test_a_worker_that_does_not_stop_is_ended(brittle: Engine) -> None:
    job, _ = long_run(brittle)
    pid = brittle.worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    job.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        job.wait(10)
    assert 0.19 < time.monotonic() - start < 1.5
    assert works(brittle)
    assert brittle.worker_pid != pid
    until(lambda: not alive(pid), 5)


def test_a_slow_source_does_not_hold_up_cancel(brittle: Engine) -> None:
    assert works(brittle)
    pid = brittle.worker_pid
    image = Recording(np.random.default_rng(5).integers(0, 99, (64, 64)).astype(np.uint8))
    image.before = lambda: time.sleep(3.0)
    job = brittle.run(source_of(image), RunRequest(NUCLEI, 1), np.zeros((64, 64), np.uint8))
    until(lambda: job.state == "running")
    time.sleep(0.3)
    start = time.monotonic()
    job.cancel()
    with pytest.raises(EngineError):
        job.wait(10)
    assert time.monotonic() - start < 1.2
    assert works(brittle)  # while the other image still sleeps
    assert brittle.worker_pid == pid
    time.sleep(3.0)  # the late answer finds nobody and leaves nothing


def test_cancelled_before_it_began(brittle: Engine) -> None:
    first, _ = long_run(brittle)
    second = brittle.load(NUCLEI)
    second.cancel()
    with pytest.raises(EngineError, match="cancelled"):
        second.wait(5)
    assert first.state == "running"
    first.cancel()


def test_restart(brittle: Engine) -> None:
    job, _ = long_run(brittle)
    pid = brittle.worker_pid
    brittle.restart()
    with pytest.raises(EngineError, match="cancelled"):
        job.wait(5)
    assert works(brittle)
    assert brittle.worker_pid != pid


def test_memory_limit() -> None:
    probe = Engine()
    probe.load(NUCLEI).wait(LONG)
    used = psutil.Process(probe.worker_pid).memory_info().vms
    probe.close()
    engine = Engine(memory_limit=used + 1024 * 2**20, cancel_seconds=30.0)
    try:
        assert works(engine)
        pid = engine.worker_pid
        image = np.random.default_rng(1).integers(0, 99, (12000, 12000), dtype=np.uint8)
        job = engine.view(source_of(image), ViewRequest(NUCLEI, 4, ((0, 12000), (0, 12000))))
        with pytest.raises(EngineError, match="memory") as caught:
            job.wait(LONG)
        assert caught.value.code == "memory"
        assert works(engine)
        assert engine.worker_pid == pid
    finally:
        engine.close()


def test_no_python() -> None:
    engine = Engine(python="/no such/python")
    for _ in range(2):
        with pytest.raises(EngineError, match="could not be started with '/no such/python'") as e:
            engine.load(NUCLEI).wait(10)
        assert e.value.code == "start"
    assert engine.state.kind == "failed"
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.load(NUCLEI).wait(1)


def test_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch ü is broken')\n", "utf-8")
    engine = Engine(env={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(EngineError, match=r"libtorch .* is broken") as caught:
        engine.load(NUCLEI).wait(LONG)
    assert caught.value.code == "start"
    assert "Traceback" in caught.value.details
    (tmp_path / "torch.py").unlink()
    assert works(engine)
    engine.close()


def test_libraries_that_print_break_nothing(tmp_path: Path) -> None:
    noise = (
        "import os, sys, threading, time\n"
        "def talk():\n"
        "    while True:\n"
        "        print('a library', end=' '); print('says something')\n"
        "        if 'napari_unetpp.engine.worker.boot' in sys.modules:\n"
        "            os.write(1, b'and a C library too')\n"
        "        time.sleep(0.001)\n"
        "threading.Thread(target=talk, daemon=True).start()\n"
    )
    (tmp_path / "sitecustomize.py").write_text(noise)
    engine = Engine(env={"PYTHONPATH": str(tmp_path)}, cancel_seconds=30.0)
    job, _ = long_run(engine, tile=16)
    job.cancel()
    assert works(engine)
    assert not [line for line in engine._manager._worker._service.invalid_lines() if "{" in line]
    engine.close()


def test_a_python_without_the_package(tmp_path: Path) -> None:
    (tmp_path / "appose").mkdir()
    (tmp_path / "appose" / "__init__.py").write_text("raise SystemExit('no appose here')\n")
    engine = Engine(env={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(EngineError, match=r"exit code 1 \(no appose here\)") as caught:
        engine.load(NUCLEI).wait(LONG)
    assert caught.value.code == "start"
    engine.close()


def test_two_engines_and_close_in_mid_job(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "with a space and ü"
    folder.mkdir()
    monkeypatch.chdir(folder)
    engines = [Engine(), Engine()]
    for engine in engines:
        engine.start()
    jobs = [long_run(engine)[0] for engine in engines]
    pids = [engine.worker_pid for engine in engines]
    assert len({*pids, os.getpid()}) == 3
    start = time.monotonic()
    engines[0].close()
    assert time.monotonic() - start < 2.0
    assert jobs[0].state == "cancelled"
    assert pids[0] is not None
    assert not alive(pids[0])
    assert jobs[1].state == "running"
    engines[0].close()
    engines[1].close()
    names = heard(jobs[1])
    assert type(names[-1]).__name__ == "Finished"


SCRIPT = """
import os, sys, time
import numpy as np
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import LayerSource, ModelRequest, RunRequest
assert "torch" not in sys.modules
engine = Engine()
stack = np.random.default_rng(1).integers(0, 99, (500, 256, 256)).astype(np.uint8)
sink = np.full(stack.shape, 255, np.uint8)
model = ModelRequest("nuclei", "cpu", "float32")
job = engine.run(LayerSource(stack, "TYX"), RunRequest(model, 2, tile=64), sink)
while (sink[0, :64, :64] == 255).any():
    assert job.state in ("queued", "running"), job.error
    time.sleep(0.01)
assert "torch" not in sys.modules
print(engine.worker_pid, flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
if sys.argv[1] == "raise":
    raise SystemExit(7)
"""


@pytest.mark.parametrize("end", ["leave", pytest.param("raise", marks=pytest.mark.slow), "wait"])
def test_the_viewer_ends_and_leaves_no_worker(end: str) -> None:
    if end == "wait" and os.name != "posix":
        pytest.skip("SIGKILL is POSIX")
    viewer = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, end], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert viewer.stdout is not None
    assert viewer.stderr is not None
    with viewer.stdout, viewer.stderr:
        pid = int(viewer.stdout.readline() or viewer.stderr.read())
        if end == "wait":
            viewer.kill()
        code = viewer.wait(10)
        assert code == {"leave": 0, "raise": 7, "wait": -9}[end]
        until(lambda: not alive(pid), 5)
        assert b"leaked" not in viewer.stderr.read()
