"""Which state is kept, what the base loses on the way, and what rare things weigh."""

from __future__ import annotations

import numpy as np
import torch

from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.tune.inputs import Window
from napari_unetpp.core.tune.keeping import TOLERANCE, Keeper, towards
from napari_unetpp.core.tune.learner import RAREST, rarity
from napari_unetpp.core.tune.retention import LEAST, Retention
from napari_unetpp.core.tune.scoring import Score, head_probabilities
from tests.core.tune.conftest import small_model


def score(mean: float, loss: float = 1.0) -> Score:
    return Score({1: mean, 2: mean}, loss)


def test_a_later_state_replaces_an_equal_one_but_not_a_clearly_better_one() -> None:
    network = small_model().network
    keeper = Keeper(network, score(0.2))
    assert keeper.step == 0
    assert keeper.offer(4, score(0.6), network)
    assert keeper.offer(8, score(0.6 - TOLERANCE + 0.01), network)
    assert not keeper.offer(14, score(0.6 - TOLERANCE - 0.01), network)
    assert keeper.step == 8
    assert keeper.score == score(0.6 - TOLERANCE + 0.01)


def test_many_small_losses_do_not_add_up() -> None:
    """What counts is the best state there was, not the one that is kept."""
    network = small_model().network
    keeper = Keeper(network, None)
    given = [0.6, 0.57, 0.54, 0.51]
    assert [keeper.offer(k, score(v), network) for k, v in enumerate(given)] == [
        True, True, False, False,
    ]  # fmt: skip


def test_the_base_gives_way_only_to_what_is_better() -> None:
    network = small_model().network
    keeper = Keeper(network, score(0.8, loss=0.5))
    assert not keeper.offer(4, score(0.79, loss=0.1), network)
    assert not keeper.offer(8, score(0.8, loss=0.6), network)
    assert keeper.step == 0
    assert keeper.offer(14, score(0.8, loss=0.4), network)


def test_without_a_score_the_last_state_is_kept() -> None:
    network = small_model().network
    keeper = Keeper(network, None)
    assert keeper.offer(4, None, network)
    assert keeper.offer(8, None, network)
    assert keeper.step == 8


def test_what_is_kept_does_not_change_with_the_network() -> None:
    network = small_model().network
    keeper = Keeper(network, None)
    keeper.offer(1, None, network)
    before = keeper.state["heads.1.weight"].clone()
    with torch.no_grad():
        network.heads["1"].weight.add_(1.0)
    assert torch.equal(keeper.state["heads.1.weight"], before)


def test_part_of_the_way_from_the_base() -> None:
    network = small_model("batch").network
    base = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        for value in network.parameters():
            value.add_(1.0)
    found = towards(network, base, 0.25).state_dict()
    for name, value in found.items():
        moved = 0.25 if name in dict(network.named_parameters()) else 0.0
        torch.testing.assert_close(value, base[name] + moved, check_dtype=False)
    # The network itself learns on from where it is.
    torch.testing.assert_close(network.state_dict()["heads.1.bias"], base["heads.1.bias"] + 1.0)


def test_a_state_that_forgot_is_found_out() -> None:
    model = small_model()
    with torch.no_grad():  # so that about half of the pixels are of the class
        image = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)
        heads = head_probabilities(model.network, image)
        mean = np.mean(list(heads.values()), axis=0)
    card = model.card.replace(threshold=float(np.median(mean)))
    blank = np.zeros((32, 32), np.uint8)
    window = Window("noise", image, blank + np.uint8(UNLABELLED), blank)
    retention = Retention([window], [mean], model.network, ("base",), card, "float32")
    assert retention.share(model.network) == 1.0
    assert retention.keeps(model.network)
    with torch.no_grad():
        for head in model.network.heads.values():
            head.bias.sub_(9.0)
    assert retention.share(model.network) < 0.1 < LEAST
    assert not retention.keeps(model.network)


def test_nothing_to_keep_is_kept() -> None:
    model = small_model()
    assert Retention([], [], model.network, ("forest",), model.card, "float32").keeps(model.network)


def test_what_is_rare_is_lifted_and_the_rest_left_alone() -> None:
    soft = torch.zeros(1, 3, 10, 10)
    soft[:, 0, 0, :4] = 1.0  # 4 of 100
    soft[:, 1, :5] = 1.0  # half
    soft[:, 2] = 1.0
    soft[:, 2, 0, :4] = 0.0
    weight = rarity(soft, torch.ones_like(soft))
    lift = (96 / 4) ** 0.5
    torch.testing.assert_close(weight[0, 0, 0, 0], torch.tensor(lift))
    assert float(weight[0, 0, 5, 5]) == 1.0
    assert bool((weight[0, 1] == 1.0).all())
    torch.testing.assert_close(weight[0, 2, 0, 0], torch.tensor(lift))
    assert float(weight[0, 2, 5, 5]) == 1.0
    nothing = torch.zeros(1, 1, 64, 64)
    nothing[..., 0, 0] = 1.0
    assert float(rarity(nothing, torch.ones_like(nothing)).max()) == RAREST


def test_where_the_base_alone_teaches_a_state_must_lead() -> None:
    network = small_model().network
    keeper = Keeper(network, Score({1: 0.60, 2: 0.60}, 0.5))
    keeper.lead = 0.05
    assert not keeper.offer(4, Score({1: 0.64, 2: 0.64}, 0.1), network)
    assert keeper.step == 0
    assert keeper.offer(8, Score({1: 0.66, 2: 0.66}, 0.1), network)
    assert keeper.step == 8
