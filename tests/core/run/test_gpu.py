"""What only a GPU can show; run with ``-m gpu`` where there is one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.phantoms import nuclei_2d
from napari_unetpp.core.events import drain
from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.run.inference import predict
from napari_unetpp.core.run.memory import PeakMemory
from napari_unetpp.core.run.results import output_axes
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.tune import FineTuning

pytestmark = pytest.mark.gpu


@pytest.fixture
def limited() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def probabilities(runner: Runner, image: Image, level: int, **options: int) -> np.ndarray:
    _, shape, dtype = output_axes(image, runner.card, "probabilities")
    sink = np.zeros(shape, dtype)
    drain(predict(image, runner, sink, level=level, kind="probabilities", **options))
    return sink


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_gpu_agrees_with_the_processor(level: int) -> None:
    model = load_model("nuclei")
    image = Image.from_array(nuclei_2d((300, 340), count=40, seed=1).image, "YX")
    expected = probabilities(Runner(model, choose_device("cpu", "float32")), image, level)
    exact = probabilities(Runner(model, choose_device("cuda", "float32")), image, level)
    np.testing.assert_allclose(exact, expected, atol=1e-4)
    quick = probabilities(Runner(model, choose_device("cuda")), image, level, tile=128)
    assert ((quick > 0.5) != (expected > 0.5)).mean() < 0.002


def test_kept_nodes_give_what_single_passes_give() -> None:
    runner = Runner(load_model("nuclei"), choose_device("cuda", "float32"))
    x = np.random.default_rng(0).standard_normal((1, 1, 256, 256)).astype(np.float32)
    for level, found in runner.levels(x):
        np.testing.assert_allclose(found, runner.probabilities(x, level), atol=1e-5)


@pytest.mark.usefixtures("limited")
def test_a_real_limit_makes_tiles_smaller_and_no_label_wrong() -> None:
    runner = Runner(load_model("nuclei"), choose_device("cuda"))
    image = Image.from_array(nuclei_2d((2048, 2048), count=900, seed=2).image, "YX")
    free, little = np.zeros((2, 2048, 2048), np.uint8)
    with PeakMemory("cuda") as peak:
        drain(predict(image, runner, free, level=4, tile=2048))
    runner.release()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((held + peak.device_bytes / 4) / total)
    ended = drain(predict(image, runner, little, level=4, tile=2048))
    assert ended.n_tiles > 1 or ended.notes
    assert (free != little).mean() < 1e-4


def test_fine_tuning_ends_on_the_processor() -> None:
    phantom = nuclei_2d((256, 256), count=20, seed=3)
    painted = np.zeros(phantom.labels.shape, np.uint8)
    painted[::32] = np.where(phantom.labels[::32] > 0, 2, 1)
    model = load_model("nuclei")
    pair = Painted("p", Image.from_array(phantom.image, "YX"), Image.from_array(painted, "YX"))
    config = TuneConfig(max_seconds=600.0, steps=6, device="cuda", precision="bfloat16")
    result = drain(FineTuning([pair], model.card, model, Split(0), config).run())
    assert result.steps == 6
    assert {p.device.type for p in result.network.parameters()} == {"cpu"}
