"""What a network without a base begins with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.model.modelfile import load_model
from napari_unetpp.core.tune.inputs import Painted
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.start import bundled_body, same_body, scratch_card, start_network
from napari_unetpp.core.tune.strokes import Split
from napari_unetpp.core.tune.tune import FineTuning


def test_new_heads_on_the_features_of_a_bundled_model() -> None:
    card = scratch_card("new", ["one", "two"], "YX", 1)
    body = bundled_body(card)
    assert body is not None
    assert body.card.name == "nuclei"
    own, theirs = (n.state_dict() for n in (start_network(card, None, 3, body), body.network))
    drawn = start_network(card, None, 3).state_dict()
    for key, value in own.items():
        expected = drawn if key.startswith("heads.") else theirs
        assert torch.equal(value, expected[key]), key


def test_a_body_of_another_network_is_refused() -> None:
    card = scratch_card("new", ["one"], "YX", 2)
    assert bundled_body(card) is None
    assert bundled_body(scratch_card("new", ["one"], "ZYX", 1)) is None
    with pytest.raises(InputError, match="'nuclei' do not fit a network for YX with 2 channel"):
        start_network(card, None, 0, load_model("nuclei"))
    assert not same_body(card, load_model("nuclei").card)


def test_weights_are_drawn_where_that_is_wanted() -> None:
    card = scratch_card("new", ["one"], "YX", 1)
    pair = Painted("p", Image.from_array(np.zeros((8, 8)), "YX"), Image.from_array(
        np.zeros((8, 8), np.uint8), "YX"))  # fmt: skip
    jobs = {
        body: FineTuning([pair], card, None, Split(0), TuneConfig(body=body)).network.state_dict()
        for body in ("bundled", "random")
    }
    key = next(k for k in jobs["random"] if not k.startswith("heads."))
    assert torch.equal(jobs["random"][key], start_network(card, None, 0).state_dict()[key])
    assert torch.equal(jobs["bundled"][key], load_model("nuclei").network.state_dict()[key])
    with pytest.raises(InputError, match="body must be bundled or random, got 'mine'"):
        TuneConfig(body="mine")
