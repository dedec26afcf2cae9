"""A run through the engine gives what the core gives, and reads no more than it must."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from engine_helpers import (
    LONG,
    NUCLEI,
    Recording,
    empty_sink,
    heard,
    source_of,
    whole_run,
)
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.run.runtime import Runner
from napari_unetpp.engine.client import Engine
from napari_unetpp.engine.protocol import (
    Finished,
    Noted,
    Progress,
    RunRequest,
    Written,
)


@pytest.mark.parametrize("kind", ["labels", "probabilities", "instances"])
@pytest.mark.parametrize("level", [1, "ensemble"])
def test_result_is_the_core_s(
    engine: Engine, runner: Runner, picture: NDArray[Any], kind: str, level: Any
) -> None:
    image = Image(picture, "YX")
    expected = whole_run(runner, image, level=level, kind=kind)
    sink = empty_sink(runner, image, kind)
    result = engine.run(source_of(picture), RunRequest(NUCLEI, level, kind), sink).wait(LONG)
    np.testing.assert_array_equal(sink, expected)
    assert sink.max() > 0
    assert (result["kind"], result["level"], result["shape"]) == (kind, level, list(sink.shape))


def test_options_reach_the_core(engine: Engine, runner: Runner, picture: NDArray[Any]) -> None:
    image = Image(np.stack([np.zeros_like(picture), picture]), "CYX")
    options: dict[str, Any] = {"threshold": 0.9, "channel": 1, "min_size": 200, "tile": 64}
    expected = whole_run(runner, image, level=2, kind="instances", **options)
    sink = empty_sink(runner, image, "instances")
    job = engine.run(
        source_of(image.data, "CYX"), RunRequest(NUCLEI, 2, "instances", **options), sink
    )
    assert job.wait(LONG)["n_tiles"] > 1
    np.testing.assert_array_equal(sink, expected)
    assert sink.max() > 0


@pytest.mark.parametrize("axes", ["TYX", "YXT", "ZYX", "XY", "YXS", "TCYX"])
def test_axes_as_the_layer_has_them(
    engine: Engine, runner: Runner, picture: NDArray[Any], axes: str
) -> None:
    sizes = {"Y": 64, "X": 80, "T": 2, "Z": 2, "C": 2, "S": 3}
    crop = np.random.default_rng(3).integers(0, 50, [sizes[a] for a in axes]).astype(np.uint16)
    where: tuple[Any, ...] = tuple(slice(None) if a in "YX" else -1 for a in axes)
    crop[where] += picture[:64, :80] if axes.index("Y") < axes.index("X") else picture[:64, :80].T
    image = Image(crop, axes)
    channel = 1 if "C" in axes else None
    expected = whole_run(runner, image, level=1, channel=channel)
    sink = empty_sink(runner, image, "labels")
    engine.run(source_of(crop, axes), RunRequest(NUCLEI, 1, channel=channel), sink).wait(LONG)
    np.testing.assert_array_equal(sink, expected)


def test_events(engine: Engine, runner: Runner, picture: NDArray[Any]) -> None:
    stack = np.stack([picture[:64, :64]] * 6)
    sink = np.zeros(stack.shape, np.uint8)
    job = engine.run(source_of(stack, "TYX"), RunRequest(NUCLEI, 1, tile=32), sink)
    events = heard(job)
    progress = [e for e in events if isinstance(e, Progress)]
    assert (progress[-1].done, progress[-1].total, progress[-1].level) == (24, 24, 1)
    assert [p.done for p in progress] == sorted({p.done for p in progress})
    covered = np.zeros(stack.shape, int)
    for event in events:
        if isinstance(event, Written):
            covered[event.region] += 1
    assert (covered == 1).all()
    final = events[-1]
    assert isinstance(final, Finished)
    assert (final.state, final.error, job.state) == ("done", None, "done")


def test_progress_of_many_tiles_is_thinned(engine: Engine) -> None:
    stack = np.zeros((400, 16, 16), np.uint8)
    job = engine.run(
        source_of(stack, "TYX"), RunRequest(NUCLEI, 1), np.zeros(stack.shape, np.uint8)
    )
    events = heard(job)
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress[-1].done == progress[-1].total == 400
    assert len(progress) < 400
    assert [e.code for e in events if isinstance(e, Noted)] == ["constant-image"]
    assert [n["code"] for n in job.result["notes"]] == ["constant-image"]


def test_a_region_alone_is_written(engine: Engine, runner: Runner, picture: NDArray[Any]) -> None:
    stack = np.stack([picture, picture[::-1]])
    image = Image(stack, "TYX")
    expected = whole_run(runner, image, level=2, kind="labels")
    sink = np.full(stack.shape, 77, np.uint8)
    request = RunRequest(NUCLEI, 2, region=((1, 2), (30, 71), (40, 110)))
    job = engine.run(source_of(stack, "TYX"), request, sink)
    regions = [e.region for e in heard(job) if isinstance(e, Written)]
    inside = (slice(1, 2), slice(30, 71), slice(40, 110))
    np.testing.assert_array_equal(sink[inside], expected[inside])
    sink[inside] = 77
    assert (sink == 77).all()
    assert regions


def test_a_lazy_image_is_never_read_whole(engine: Engine, picture: NDArray[Any]) -> None:
    # Larger than the sample that intensities are fitted to.
    source = Recording(np.tile(picture, (1, 1))[None].repeat(400, 0))
    sink = np.zeros(source.shape, np.uint8)
    request = RunRequest(NUCLEI, 1, region=((7, 8), (0, 150), (0, 170)))
    layer = source_of(source, "TYX", key="lazy")
    engine.run(layer, request, sink).wait(LONG)
    assert max(source.read) <= 4_000_000 < source.data.size
    assert sink[7].any()
    assert not sink[:7].any()
    first = len(source.read)
    engine.run(layer, request, sink).wait(LONG)
    again = source.read[first:]
    assert again == [150 * 170]  # nothing was fitted again


def test_dask_and_zarr(
    engine: Engine, runner: Runner, picture: NDArray[Any], tmp_path: Any
) -> None:
    dask_array = pytest.importorskip("dask.array")
    zarr = pytest.importorskip("zarr")
    expected = whole_run(runner, Image(picture, "YX"), level=1)
    stored = zarr.create_array(tmp_path / "a b ü.zarr", data=picture, chunks=(64, 64))
    result = zarr.create_array(
        tmp_path / "out.zarr", shape=picture.shape, dtype="u1", chunks=(64, 64)
    )
    lazy = dask_array.from_array(picture, chunks=(50, 60)).rechunk((40, 70))
    engine.run(source_of(stored), RunRequest(NUCLEI, 1), result).wait(LONG)
    np.testing.assert_array_equal(result[...], expected)
    sink = np.zeros(picture.shape, np.uint8)
    engine.run(source_of(lazy), RunRequest(NUCLEI, 1), sink).wait(LONG)
    np.testing.assert_array_equal(sink, expected)


@pytest.mark.parametrize("dtype", ["bool", ">u2", "float64", "int8", "float16"])
def test_types(engine: Engine, runner: Runner, picture: NDArray[Any], dtype: str) -> None:
    small = picture[:48, :64]
    image = (small > 300 if dtype == "bool" else small // 8).astype(dtype)
    expected = whole_run(runner, Image(image, "YX"), level=1, kind="probabilities")
    sink = np.zeros_like(expected)
    engine.run(source_of(image), RunRequest(NUCLEI, 1, "probabilities"), sink).wait(LONG)
    np.testing.assert_array_equal(sink, expected)


def test_non_contiguous_and_read_only(
    engine: Engine, runner: Runner, picture: NDArray[Any]
) -> None:
    image = picture[::-2, ::2]
    image.setflags(write=False)
    expected = whole_run(runner, Image(image, "YX"), level=1)
    sink = np.zeros(image.shape, np.uint8)[::-1]
    engine.run(source_of(image), RunRequest(NUCLEI, 1), sink).wait(LONG)
    np.testing.assert_array_equal(sink, expected)


def test_a_sink_without_a_shape(engine: Engine, runner: Runner, picture: NDArray[Any]) -> None:
    class Bare:
        def __init__(self) -> None:
            self.data = np.zeros(picture.shape, np.uint8)

        def __setitem__(self, region: Any, block: NDArray[Any]) -> None:
            assert block.flags.owndata
            self.data[region] = block

    sink = Bare()
    engine.run(source_of(picture), RunRequest(NUCLEI, 1), sink).wait(LONG)
    np.testing.assert_array_equal(sink.data, whole_run(runner, Image(picture, "YX"), level=1))


def test_objects_of_a_view(engine: Engine, runner: Runner, picture: NDArray[Any]) -> None:
    image = Image(picture, "YX")
    shape, dtype = (2, *picture.shape), np.float32
    probabilities = np.zeros(shape, dtype)
    engine.run(source_of(picture), RunRequest(NUCLEI, 1, "probabilities"), probabilities).wait(LONG)
    expected = whole_run(runner, image, level=1, kind="instances", threshold=0.4, min_size=60)
    found = engine.objects(probabilities, NUCLEI, 0.4, 60).wait(LONG)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int32
    deep = engine.objects(probabilities[:, None, :, None], NUCLEI, 0.4, 60).wait(LONG)
    np.testing.assert_array_equal(deep[0, :, 0], expected)


def test_openvino_computes_where_it_is_asked_for(
    engine: Engine, runner: Runner, picture: NDArray[Any]
) -> None:
    pytest.importorskip("openvino")
    model = replace(NUCLEI, backend="openvino")
    ready = engine.load(model).wait(LONG)
    assert ready.reason.endswith("OpenVINO was asked for.")
    assert engine.load(NUCLEI).wait(LONG).reason.endswith("PyTorch was asked for.")
    image = Image(picture, "YX")
    expected = whole_run(runner, image, level=4, kind="probabilities")
    sink = empty_sink(runner, image, "probabilities")
    result = engine.run(source_of(picture), RunRequest(model, 4, "probabilities"), sink).wait(LONG)
    assert result["backend"] == "openvino"
    np.testing.assert_allclose(sink, expected, atol=1e-4)
