"""What the budget decides: patches of a step, and when the network joins its teacher."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.tune.patches import PatchDrawer
from napari_unetpp.core.tune.settings import RATE, RATES
from napari_unetpp.core.tune.teacher import Teaching
from napari_unetpp.core.tune.tune import FineTuning
from tests.core.tune.conftest import painted, run, small_model, tuning


@pytest.mark.parametrize("base", [True, False])
def test_a_short_budget_draws_one_patch_a_step_if_no_steps_are_planned(
    image: Image, paint: NDArray[np.uint8], base: bool
) -> None:
    batches = {}
    for steps, seconds in ((None, 14.0), (None, 16.0), (5, 14.0)):
        job = tuning(painted(image, paint), small_model() if base else None)
        job.config = dataclasses.replace(job.config, steps=steps, max_seconds=seconds)
        job._read()
        job._choose_teacher()
        batches[steps, seconds] = len(job._drawer().batch(0).image)
    assert batches == {(None, 14.0): 1 if base else 4, (None, 16.0): 4, (5, 14.0): 4}


def test_from_half_time_on_the_network_teaches_too(
    image: Image, paint: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, NDArray[np.float32]]] = []
    teach = PatchDrawer.teach

    def heard(self: PatchDrawer, number: int, *maps: NDArray[np.float32]) -> None:
        told.append((job.step, maps[0]))
        teach(self, number, *maps)

    monkeypatch.setattr(PatchDrawer, "teach", heard)
    job = tuning(painted(image, paint), small_model(), steps=10, teacher="forest")
    run(job)
    assert [step for step, _ in told] == [0, 5]
    forest, both = told[0][1], told[1][1]
    own = 2 * both - forest
    assert own.min() > -1e-5
    assert own.max() < 1 + 1e-5
    assert np.abs(own - forest).max() > 0.01


def test_the_network_does_not_join_a_teacher_that_had_no_time(
    image: Image, paint: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    teach, real = PatchDrawer.teach, FineTuning._choose_teacher

    def heard(self: PatchDrawer, number: int, *maps: NDArray[np.float32]) -> None:
        told.append(job.step)
        teach(self, number, *maps)

    def silent(self: FineTuning) -> None:
        real(self)
        for maps, sure in zip(self.teaching.maps, self.teaching.sure, strict=True):
            maps[:], sure[:] = 0.0, 0.0

    monkeypatch.setattr(PatchDrawer, "teach", heard)
    monkeypatch.setattr(FineTuning, "_choose_teacher", silent)
    job = tuning(painted(image, paint), small_model(), steps=10, teacher="forest")
    run(job)
    assert set(told) == {0}


@pytest.mark.parametrize(
    ("by_class", "rate"),
    [
        (("base", "none"), RATES["base"]),  # a new class without a stroke: nobody teaches it
        (("base", "forest"), RATES["mixed"]),
        (("walker", "base", "none"), RATES["mixed"]),
        (("forest", "walker"), RATE),
    ],
)
def test_the_rate_follows_from_who_teaches(
    image: Image, paint: NDArray[np.uint8], by_class: tuple[str, ...], rate: float
) -> None:
    job = tuning(painted(image, paint), small_model())
    job.teaching = Teaching([], [], by_class, {})
    assert job._rate() == rate
