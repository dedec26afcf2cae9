"""Reading ahead and writing behind: what happens at once, what never does, and how it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig, Normalisation
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.preprocess import Normaliser
from napari_unetpp.core.errors import FileError
from napari_unetpp.core.events import Event, TileDone, drain
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.nn.network import NestedUNet
from napari_unetpp.core.run import memory, streaming, writing
from napari_unetpp.core.run.inference import Prediction, predict
from napari_unetpp.core.run.overlap import Ahead, Aside
from napari_unetpp.core.run.runtime import Device, Runner
from napari_unetpp.core.run.tiling import Tile

WAIT = 20.0  # seconds until a test gives up on what should happen at once
SIDE, TILES = 128, 5


def runner_of() -> Runner:
    torch.manual_seed(0)
    config = NetworkConfig(filters=(2, 3, 4))
    card = ModelCard(
        "test",
        config,
        (ClassInfo("thing"),),
        normalisation=Normalisation("window", 0.0, 1.0),
        levels_trained=(1, 2),
    )
    model = Model(card, NestedUNet(config).eval(), Path("m.safetensors"), "")
    return Runner(model, Device("cpu", "test", "float32", "a test"))


class Busy:
    """Says whether two calls were ever under way at once."""

    def __init__(self) -> None:
        self._one = threading.Lock()
        self.twice = False

    @contextmanager
    def used(self) -> Iterator[None]:
        free = self._one.acquire(blocking=False)
        self.twice |= not free
        try:
            yield
        finally:
            if free:
                self._one.release()


class Pixels:
    """An image of TILES tiles in a row that tells when a tile is read."""

    def __init__(self) -> None:
        self.array = np.random.default_rng(0).random((SIDE, SIDE * TILES), dtype=np.float32)
        self.shape, self.dtype = self.array.shape, self.array.dtype
        self.busy = Busy()
        self.reads = 0
        self.before: Callable[[int], None] = lambda number: None

    def __getitem__(self, index: Any) -> NDArray[Any]:
        with self.busy.used():
            self.reads += 1
            self.before(self.reads)
            return np.asarray(self.array[index])


class Written:
    """A sink that tells when a tile is written."""

    def __init__(self) -> None:
        self.array = np.full((SIDE, SIDE * TILES), -1.0, np.float32)
        self.shape = self.array.shape
        self.busy = Busy()
        self.writes = 0
        self.before: Callable[[int], None] = lambda number: None

    def __setitem__(self, index: Any, block: Any) -> None:
        with self.busy.used():
            self.writes += 1
            self.before(self.writes)
            self.array[index] = block


class Run:
    """A run whose reads, passes and writes can be watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # One tile a pass.
        monkeypatch.setitem(streaming.BATCH_PIXELS, "cpu", SIDE * SIDE)
        self.pixels, self.sink, self.runner = Pixels(), Written(), runner_of()
        self.passes = 0
        self.before: Callable[[int], None] = lambda number: None
        plain = self.runner.probabilities

        def counted(*given: Any, **more: Any) -> NDArray[np.float32]:
            self.before(self.passes + 1)
            found = plain(*given, **more)
            self.passes += 1
            return found

        monkeypatch.setattr(self.runner, "probabilities", counted)

    def events(self, **more: Any) -> Generator[Event, None, Prediction]:
        more = {"level": 1, "kind": "probabilities", "tile": SIDE, **more}
        fitted = Normaliser.fit(self.pixels.array, self.runner.card.normalisation)[0]
        image = Image(self.pixels, "YX")
        return predict(image, self.runner, self.sink, normalisers=[fitted], **more)

    def expected(self) -> NDArray[np.float32]:
        sink = np.empty(self.sink.shape, np.float32)
        image = Image(self.pixels.array, "YX")
        drain(predict(image, runner_of(), sink, level=1, kind="probabilities", tile=SIDE))
        return sink


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    yield Run(monkeypatch)
    assert helpers() == []


def helpers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("unetpp-")]


def test_the_next_tile_is_read_while_one_is_computed(run: Run) -> None:
    second = threading.Event()
    run.pixels.before = lambda number: second.set() if number == 2 else None
    at_once = []
    run.before = lambda number: at_once.append(second.wait(WAIT)) if number == 1 else None
    drain(run.events())
    assert at_once == [True]
    assert np.array_equal(run.sink.array, run.expected())


def test_a_tile_is_written_while_the_next_is_computed(run: Run) -> None:
    computing = threading.Event()
    run.before = lambda number: computing.set() if number == 2 else None
    at_once = []
    run.sink.before = lambda number: at_once.append(computing.wait(WAIT)) if number == 1 else None
    done = [e for e in events_of(run.events()) if isinstance(e, TileDone)]
    assert at_once == [True]
    assert [e.done for e in done] == list(range(1, TILES + 1))
    assert np.array_equal(run.sink.array, run.expected())


def events_of(job: Generator[Event, None, Prediction]) -> list[Event]:
    heard: list[Event] = []
    drain(job, heard.append)
    return heard


def test_a_tile_is_told_when_it_is_written(run: Run) -> None:
    run.sink.before = lambda number: time.sleep(0.02)
    for event in run.events():
        assert isinstance(event, TileDone)
        assert (run.sink.array[event.region] >= 0).all()


def test_one_tile_ahead_and_one_thread_at_a_time(run: Run) -> None:
    too_early = []
    # Read k + 2 may begin as soon as pass k is over, and no sooner.
    run.pixels.before = lambda number: too_early.append(number > run.passes + 2)
    run.sink.before = lambda number: time.sleep(0.01)
    drain(run.events())
    assert run.pixels.reads == run.passes == run.sink.writes == TILES
    assert not any(too_early)
    assert not run.pixels.busy.twice
    assert not run.sink.busy.twice


@pytest.mark.parametrize("number", [1, 2, 4])
def test_an_error_of_reading_comes_out_where_it_belongs(run: Run, number: int) -> None:
    error = FileError("damaged")

    def fail(read: int) -> None:
        if read == number:
            raise error

    run.pixels.before = fail
    done: list[Event] = []
    with pytest.raises(FileError) as caught:
        drain(run.events(), done.append)
    assert caught.value is error
    # The last one may still have been on its way to the sink.
    assert number - 2 <= len(done) <= number - 1
    assert (run.sink.array[:, : SIDE * (number - 1)] >= 0).all()
    assert (run.sink.array[:, SIDE * (number - 1) :] == -1).all()


def test_an_error_of_writing_comes_out(run: Run) -> None:
    error = OSError(28, "No space left on device")

    def fail(write: int) -> None:
        if write == 2:
            raise error

    run.sink.before = fail
    with pytest.raises(OSError, match="No space left") as caught:
        drain(run.events())
    assert caught.value is error
    assert run.sink.writes == 2
    assert run.passes <= 3


def test_closing_waits_for_the_read_under_way_and_ends_the_threads(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_PATIENCE", 1e6)  # every tile is told before the next pass
    reading, release, over = threading.Event(), threading.Event(), []

    def slow(number: int) -> None:
        if number == 2:
            reading.set()
            release.wait(WAIT)
            over.append(number)

    run.pixels.before = slow
    events = run.events()
    next(events)
    assert reading.wait(WAIT)
    threading.Timer(0.05, release.set).start()
    events.close()
    assert over == [2]
    assert helpers() == []
    assert (run.pixels.reads, run.passes, run.sink.writes) == (2, 1, 1)
    assert (run.sink.array[:, SIDE:] == -1).all()


def test_what_interrupts_a_pass_ends_the_threads(run: Run) -> None:
    class Left(Exception):
        pass

    def leave(number: int) -> None:
        if number == 3:
            raise Left

    run.before = leave
    with pytest.raises(Left):
        drain(run.events())
    assert helpers() == []
    assert (run.sink.array[:, : SIDE * 2] >= 0).all()


def test_no_memory_to_read_ahead_is_no_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    freed = []
    monkeypatch.setattr(memory, "free_memory", freed.append)
    beside = []

    def fail(number: int) -> None:
        beside.append(threading.current_thread() is not threading.main_thread())
        if number == 3:
            raise MemoryError

    run.pixels.before = fail
    done = drain(run.events())
    assert [n.code for n in done.notes] == ["smaller-tiles"]
    assert freed == ["cpu"]
    np.testing.assert_allclose(run.sink.array, run.expected(), atol=1e-6)
    assert done.n_tiles == 2 + 4 * (TILES - 2)
    # Read 3 found no memory; from there on nothing is read ahead.
    assert beside == [False, True, True] + [False] * 4 * (TILES - 2)


def test_small_planes_are_loaded_in_batches_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(streaming.BATCH_PIXELS, "cpu", 4 * 32 * 32)
    planes = np.random.default_rng(0).random((10, 32, 32), dtype=np.float32)
    image = Image(planes, "TYX")
    found, expected = (np.empty(planes.shape, np.float32) for _ in range(2))
    options: dict[str, Any] = {"level": 2, "kind": "probabilities"}
    heard = events_of(predict(image, runner_of(), found, **options))
    assert [e.done for e in heard if isinstance(e, TileDone)] == list(range(1, 11))
    monkeypatch.setitem(streaming.BATCH_PIXELS, "cpu", 1)
    drain(predict(image, runner_of(), expected, **options))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_auto_reads_ahead_too(run: Run) -> None:
    second = threading.Event()
    run.pixels.before = lambda number: second.set() if number == 2 else None
    at_once = []
    several = run.runner.several

    def waits(*given: Any) -> Any:
        at_once.append(second.wait(WAIT))
        return several(*given)

    run.runner.several = waits  # type: ignore[method-assign]
    run.before = lambda number: at_once.append(second.wait(WAIT))
    drain(run.events(level="auto"))
    assert at_once[0] is True
    assert (run.sink.array >= 0).all()


# The parts


def tile() -> Tile:
    return Tile((slice(0, 4),), (slice(0, 4),))


def test_what_was_begun_is_dropped_between_two_windows() -> None:
    first, release, read = threading.Event(), threading.Event(), []

    def load(plane: int, _: Tile) -> tuple[NDArray[np.float32], int]:
        read.append(plane)
        first.set()
        release.wait(WAIT)
        return np.zeros((1, 4), np.float32), plane

    with Ahead(load) as loads:
        loads.begin([(k, tile()) for k in range(3)])
        assert first.wait(WAIT)
        threading.Timer(0.05, release.set).start()
        loads.drop()
        assert read == [0]
        assert loads.get([(7, tile()), (8, tile())]).non_finite == [7, 8]
    assert read == [0, 7, 8]
    assert helpers() == []


def test_what_the_caller_set_for_its_thread_holds_beside_it() -> None:
    with Aside("unetpp-test") as aside, np.errstate(invalid="raise"):
        begun = aside.begin(lambda: np.float64(np.inf) - np.float64(np.inf))
        with pytest.raises(FloatingPointError):
            begun.result()


def test_a_thread_starts_with_the_first_call() -> None:
    with Aside("unetpp-test") as aside:
        assert helpers() == []
        assert aside.begin(threading.get_ident).result() != threading.get_ident()
        assert len(helpers()) == 1
    assert helpers() == []


def test_an_abandoned_reader_that_its_own_thread_collects_ends() -> None:
    """The garbage collector runs on any thread; one that waits for itself would wait for ever."""
    with Aside("unetpp-test") as aside:
        left = aside.begin(lambda: aside.__exit__(None, None, None))
        assert left.result(timeout=10) is None


def test_leaving_stops_a_batch_that_is_being_waited_for() -> None:
    read: list[int] = []
    begun, go_on = threading.Event(), threading.Event()

    def load(plane: int, tile: Tile) -> tuple[NDArray[np.float32], int]:
        read.append(plane)
        begun.set()
        assert go_on.wait(10)
        return np.zeros((1, 2, 2), np.float32), 0

    tile = Tile((slice(0, 2), slice(0, 2)), (slice(0, 2), slice(0, 2)))
    ahead = Ahead(load)
    ahead.begin([(k, tile) for k in range(50)])
    waiting, ahead._begun = ahead._begun, None  # as in the middle of get()
    assert begun.wait(10)
    threading.Timer(0.05, go_on.set).start()
    ahead.__exit__(None, None, None)
    assert waiting is not None
    with pytest.raises(CancelledError):
        waiting.result(timeout=10)
    assert len(read) == 1
