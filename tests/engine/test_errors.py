"""What a user can cause arrives as one sentence, and the worker lives on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_helpers import LONG, NUCLEI, Recording, source_of
from numpy.typing import NDArray

from napari_unetpp.core.model.cards import bundled_models
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.job import Job
from napari_unetpp.engine.protocol import EngineError, ModelRequest, RunRequest, ViewRequest


def failure(job: Job) -> EngineError:
    with pytest.raises(EngineError) as caught:
        job.wait(LONG)
    assert job.state == "failed"
    assert job.error is caught.value
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.fixture(autouse=True)
def same_worker(engine: Engine) -> Any:
    pid = engine.worker_pid
    yield
    assert engine.stats().wait(LONG)
    assert engine.worker_pid == pid
    assert engine.state.kind in ("ready", "busy")


@pytest.mark.parametrize(
    ("request_", "axes", "code", "words"),
    [
        (RunRequest(ModelRequest("nuclie"), 1), "YX", "model", "did you mean nuclei"),
        (RunRequest(ModelRequest("no such/file.safetensors"), 1), "YX", "model", "no such"),
        (RunRequest(ModelRequest("nuclei", "gpu"), 1), "YX", "device", "auto, cpu, cuda or mps"),
        (RunRequest(NUCLEI, 7), "YX", "input", "level 1, 2, 3, 4"),
        (RunRequest(NUCLEI, 1, "masks"), "YX", "input", "labels, probabilities or instances"),
        (RunRequest(NUCLEI, 1, threshold=3.0), "YX", "input", "between 0 and 1"),
        (RunRequest(NUCLEI, 1, channel=4), "YX", "input", "channel 4"),
        (RunRequest(NUCLEI, 1), "CX", "input", "axes must contain Y and X"),
        (RunRequest(NUCLEI, 1), "ZYX", "input", "2 axes"),
        (RunRequest(NUCLEI, 1, region=((0, 99), (0, 4))), "YX", "input", "region along Y"),
    ],
)
def test_bad_requests(
    engine: Engine, request_: RunRequest, axes: str, code: str, words: str
) -> None:
    source = Recording(np.zeros((16, 16), np.uint8))
    error = failure(engine.run(source_of(source, axes), request_, np.zeros((16, 16), np.uint8)))
    assert error.code == code
    assert words in str(error)
    assert error.details == ""
    assert source.read == []  # refused before anything is read


def test_channel_missing(engine: Engine) -> None:
    image = np.zeros((3, 16, 16), np.uint8)
    error = failure(engine.run(source_of(image, "CYX"), RunRequest(NUCLEI, 1), image[0]))
    assert error.code == "input"
    assert "choose one" in str(error)


def test_a_sink_of_another_shape(engine: Engine) -> None:
    image = np.zeros((16, 16), np.uint8)
    error = failure(engine.run(source_of(image), RunRequest(NUCLEI, 1), np.zeros((16, 17))))
    assert error.code == "input"
    assert "shape (16, 16)" in str(error)


@pytest.mark.parametrize("data", [np.array([["a"]]), np.zeros((4, 4), complex), [[1, 2]], None])
def test_data_that_is_no_image(engine: Engine, data: Any) -> None:
    error = failure(engine.run(source_of(data), RunRequest(NUCLEI, 1), np.zeros((4, 4))))
    assert error.code == "input"


def test_a_file_that_is_no_model(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "ä model.safetensors"
    path.write_bytes(b"nonsense")
    error = failure(engine.load(ModelRequest(str(path))))
    assert error.code == "model"
    assert "ä model" in str(error)
    good = bundled_models()["nuclei"]
    shutil.copyfile(good, path)
    assert engine.load(ModelRequest(str(path))).wait(LONG).levels_trained == (1, 2, 3, 4)


def test_a_source_that_fails(engine: Engine, picture: NDArray[Any]) -> None:
    dask_array = pytest.importorskip("dask.array")

    def fail(block: NDArray[Any]) -> NDArray[Any]:
        raise RuntimeError("the disk of the\nmicroscope is gone")

    # The type is given, so that nothing is computed to find it out.
    lazy = dask_array.from_array(picture).map_blocks(fail, dtype=picture.dtype, meta=picture[:0])
    for job in (
        engine.run(source_of(lazy), RunRequest(NUCLEI, 1), np.zeros(picture.shape, np.uint8)),
        engine.view(source_of(lazy), ViewRequest(NUCLEI, 1, ((0, 16), (0, 16)))),
    ):
        error = failure(job)
        assert error.code == "file"
        assert "RuntimeError: the disk of the microscope is gone" in str(error)


def test_a_source_that_lies_about_its_shape(engine: Engine, picture: NDArray[Any]) -> None:
    liar = Recording(picture)
    liar.shape = (300, 300)
    error = failure(engine.run(source_of(liar), RunRequest(NUCLEI, 1), np.zeros((300, 300))))
    assert "expected shape (300, 300), got (150, 170)" in str(error)


def test_a_sink_that_fails(engine: Engine, picture: NDArray[Any]) -> None:
    class Full:
        shape = picture.shape

        def __setitem__(self, region: Any, block: Any) -> None:
            raise OSError(28, "No space left on device")

    error = failure(engine.run(source_of(picture), RunRequest(NUCLEI, 1, tile=64), Full()))
    assert error.code == "file"
    assert "the result could not be written" in str(error)
    assert "No space left on device" in str(error)


def test_memory_that_runs_out_on_this_side(engine: Engine, picture: NDArray[Any]) -> None:
    source = Recording(picture)

    def no_more() -> None:
        raise MemoryError("12 GiB")

    source.before = no_more
    error = failure(engine.run(source_of(source), RunRequest(NUCLEI, 1), np.zeros((150, 170))))
    assert error.code == "memory"


def test_a_listener_that_fails_harms_nobody(engine: Engine, caplog: Any) -> None:
    def bad(event: object) -> None:
        raise ZeroDivisionError

    job = engine.load(NUCLEI)
    job.listen(bad)
    events: list[Any] = []
    job.listen(events.append)
    job.wait(LONG)
    assert [type(e).__name__ for e in events][-1] == "Finished"
    assert "a listener of the engine failed" in caplog.text
