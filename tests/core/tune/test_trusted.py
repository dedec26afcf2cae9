"""Classes that the base teaches: strokes correct it where it is wrong; it is asked per patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_unetpp.core.tune import patches
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.learner import Learner, rarity
from napari_unetpp.core.tune.patches import PatchDrawer, TunedBatch
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.strokes import TRAINING
from tests.core.tune.conftest import small_model


@pytest.fixture(autouse=True)
def unturned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_turned", lambda smooth, marks, *_: (smooth, marks))


def drawn(trusted: bool) -> TunedBatch:
    """Return a batch all painted as the class; the teacher calls the left half of it the class."""
    labels = np.ones((32, 32), np.uint8)
    image = np.zeros((1, 32, 32), np.float32)
    window = Window("one", image, labels, np.full((32, 32), TRAINING, np.uint8))
    drawer = PatchDrawer([window], small_model().card, (32, 32), 2, 0)
    maps = np.full((1, 32, 32), 0.9, np.float32)
    maps[..., 16:] = 0.2
    drawer.teach(0, maps, np.full_like(maps, 0.5))
    drawer.trusted[:] = trusted
    return drawer.batch(0)


def test_a_stroke_corrects_the_base_where_it_is_wrong_and_only_there() -> None:
    batch = drawn(True)
    assert float(batch.known[..., :16].max()) == 0.0
    assert float(batch.known[..., 16:].min()) > 0.0
    assert float(batch.sure[..., :16].min()) == 0.5
    assert float(batch.sure[..., 16:].max()) == 0.0


def test_a_stroke_is_learned_everywhere_beside_a_forest() -> None:
    batch = drawn(False)
    assert float(batch.known.min()) > 0.0
    assert float(batch.sure.max()) == 0.0


def test_strokes_may_weigh_less_than_what_is_taught() -> None:
    """Of two means that are summed the first one counts as much as it is told to."""
    losses = []
    for strokes in (1.0, 0.5):
        model = small_model()
        learner = Learner(model.network, model.card, TuneConfig(), 1e-3, True, strokes=strokes)
        losses.append(learner.step(drawn(False), 0.0))
    assert losses[1] == pytest.approx(0.5 * losses[0], rel=1e-4)  # all of it is painted


def test_the_base_is_asked_anew_on_every_patch() -> None:
    model = small_model(centre=True)
    trusted = np.array([True, False])
    learner = Learner(model.network, model.card, TuneConfig(), 1e-3, True, trusted)
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = torch.full((2, 2, 32, 32), 0.25)
    sure = torch.full((2, 2, 32, 32), 0.5)
    sure[0, 0, 0, 0] = 0.0  # painted: the stroke speaks there
    batch = TunedBatch(image, torch.zeros_like(soft), torch.zeros_like(soft), soft, sure)
    with torch.no_grad():
        deepest = max(model.network.config.head_levels)
        own = model.network.probabilities(model.network.forward_heads(image)[deepest])
    learner.step(batch, 0.0)  # what the network learns changes nothing of what the base says
    said, weight = learner._taught(image, batch)
    torch.testing.assert_close(said[:, 0], own[:, 0])
    torch.testing.assert_close(said[:, 1], soft[:, 1])
    expected = (2 * own[:, 0] - 1).abs()
    expected[0, 0, 0] = 0.0
    torch.testing.assert_close(weight[:, 0], expected)
    torch.testing.assert_close(weight[:, 1], (sure * rarity(soft, sure))[:, 1])


def test_without_a_base_the_teacher_is_heard_as_it_is() -> None:
    model = small_model()
    learner = Learner(model.network, model.card, TuneConfig(), 1e-3, True, np.array([False]))
    soft = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    batch = TunedBatch(torch.zeros_like(soft), soft, soft, soft, torch.ones_like(soft))
    said, _ = learner._taught(batch.image, batch)
    assert torch.equal(said, soft)
