"""Training: it learns, a killed run goes on with the same result, the best state is kept."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.data.augment import AugmentConfig
from napari_unetpp.core.data.sampling import Sample
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.events import Event, Note, StepDone, Validated, drain
from napari_unetpp.core.train.checkpoint import (
    TrainState,
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
)
from napari_unetpp.core.train.curve import draw_curve
from napari_unetpp.core.train.history import read_history
from napari_unetpp.core.train.settings import TrainConfig, learning_rate_factor
from napari_unetpp.core.train.training import TrainResult, train
from napari_unetpp.core.train.validation import validate

CARD = ModelCard(
    "tiny",
    NetworkConfig(filters=(4, 6, 8), norm="batch", dropout=0.1),
    (ClassInfo("disc"),),
    levels_trained=(1, 2),
)
CONFIG = TrainConfig(steps=8, batch=2, patch=(32, 32), validate_every=4, learning_rate=1e-2)


def discs(seed: int, size: int = 64) -> Sample:
    """Make bright discs on noise."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.uint8)
    for y, x in rng.integers(8, size - 8, (5, 2)):
        labels[(yy - y) ** 2 + (xx - x) ** 2 < 36] = 1
    image = labels + rng.normal(0, 0.2, labels.shape)
    return Sample(f"d{seed}", image[None].astype(np.float16), labels, None, (True,))


TRAINING, HELD_OUT = [discs(k) for k in range(4)], [discs(9), discs(10)]


def run(folder: Path, config: TrainConfig = CONFIG, stop: int | None = None) -> TrainResult | None:
    """Train; leave after `stop` steps as a cancel would."""
    job = train(TRAINING, HELD_OUT, CARD, config, folder)
    if stop is None:
        return drain(job)
    for event in job:
        if isinstance(event, StepDone) and event.step == stop:
            job.close()
    return None


def test_it_learns_at_every_level(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=60, validate_every=30, augment=AugmentConfig(scale=0.1))
    result = run(tmp_path, config)
    assert result is not None
    assert set(result.scores) == {1, 2}
    for level, scores in result.scores.items():
        # Four filters and 60 steps; an untrained network scores below 0.2 here.
        assert scores["iou_per_image"] > 0.65, level


def test_a_run_that_was_stopped_goes_on_with_the_same_result(tmp_path: Path) -> None:
    straight = run(tmp_path / "a")
    # Between scorings, at the very step of one, and at the last step of all.
    for stop in (3, 4, 6, 8):
        run(tmp_path / "b", stop=stop)
    resumed = run(tmp_path / "b")
    assert straight is not None
    assert resumed is not None
    assert resumed.step == straight.step == 8
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    assert resumed.scores == straight.scores
    losses = [[row["loss"] for row in read_history(tmp_path / f)] for f in "ab"]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2


def test_moments_come_back_in_the_layout_of_their_weights() -> None:
    torch.manual_seed(0)
    networks = [torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    optimisers = [torch.optim.AdamW(n.parameters(), lr=0.1, fused=True) for n in networks]
    x = torch.randn(2, 3, 5, 5)

    def step(which: int) -> None:
        optimisers[which].zero_grad()
        networks[which](x).square().mean().backward()
        optimisers[which].step()

    step(0)
    networks[1].load_state_dict(networks[0].state_dict())
    stored = {k: v.contiguous().clone() for k, v in optimiser_tensors(optimisers[0]).items()}
    restore_optimiser(optimisers[1], stored)
    for which in (0, 1):
        step(which)
    assert torch.equal(networks[0].weight, networks[1].weight)
    moment = optimisers[1].state[networks[1].weight]["exp_avg"]
    assert moment.stride() == networks[1].weight.stride()


def test_the_seed_decides(tmp_path: Path) -> None:
    first, same = run(tmp_path / "a"), run(tmp_path / "b")
    other = run(tmp_path / "c", replace(CONFIG, seed=1))
    assert first is not None
    assert same is not None
    assert other is not None
    weight = "nodes.x0_0.0.weight"
    weights = [r.network.state_dict()[weight] for r in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_best_state_is_kept(tmp_path: Path) -> None:
    events = []
    result = drain(train(TRAINING, HELD_OUT, CARD, CONFIG, tmp_path), events.append)
    scored = [e for e in events if isinstance(e, Validated)]
    assert [e.step for e in scored] == [4, 8]

    def mean(event: Validated) -> float:
        return float(np.mean([s["dice_per_image"] for s in event.scores.values()]))

    best = max(scored, key=mean)
    assert result.best_step == best.step
    again = validate(result.network, HELD_OUT, CARD)
    for level, scores in best.scores.items():
        assert again[level] == pytest.approx(scores, abs=1e-6)


def test_patience_ends_a_run_that_gets_no_better(tmp_path: Path) -> None:
    frozen = replace(CONFIG, steps=50, validate_every=2, patience=2, learning_rate=1e-12)
    result = run(tmp_path, frozen)
    assert result is not None
    assert result.reason == "patience"
    assert result.step < 20


def test_a_time_budget_ends_a_run_and_is_scored(tmp_path: Path) -> None:
    result = run(tmp_path, replace(CONFIG, steps=100_000, max_seconds=2.0, validate_every=10_000))
    assert result is not None
    assert result.reason == "time"
    assert 2.0 <= result.seconds < 60.0
    assert result.scores


def test_without_held_out_images_the_last_state_counts(tmp_path: Path) -> None:
    result = drain(train(TRAINING, [], CARD, CONFIG, tmp_path))
    assert result.scores == {}
    assert result.best_step == 8


def test_history_and_curve_are_written(tmp_path: Path) -> None:
    run(tmp_path)
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["level"] for r in rows} == {"1", "2"}
    assert {r["metric"] for r in rows} == {"iou_per_image", "dice_per_image"}
    assert {r["step"] for r in rows} == {"4", "8"}
    draw_curve(read_history(tmp_path), tmp_path / "curve.png", "tiny")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    run(tmp_path, stop=2)
    with pytest.raises(InputError, match="belongs to a training with other settings or images"):
        run(tmp_path, replace(CONFIG, batch=3))


def test_resuming_is_said(tmp_path: Path) -> None:
    run(tmp_path, stop=2)
    events = []
    drain(train(TRAINING, HELD_OUT, CARD, CONFIG, tmp_path), events.append)
    assert Note("going on from step 2.", "resumed") in events


@pytest.mark.parametrize("damage", ["truncate", "text", "foreign"])
def test_a_damaged_checkpoint_is_refused_in_words(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, TrainState({"w": torch.ones(3)}, {}, {}, {"step": 1}))
    assert load_state(path).weights["w"].tolist() == [1, 1, 1]
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[:-4])
    elif damage == "text":
        path.write_text("hello")
    else:
        path.write_bytes(content.replace(b"training state 1", b"training state 9"))
    with pytest.raises(FileError, match="delete it to start anew"):
        load_state(path)


def test_a_checkpoint_replaces_the_old_one_only_when_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, TrainState({"w": torch.ones(3)}, {}, {}, {}))
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_unetpp.core.train.checkpoint.save_file", fail)
    with pytest.raises(FileError, match="No space left"):
        save_state(path, TrainState({"w": torch.zeros(3)}, {}, {}, {}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    assert learning_rate_factor(0.0) == pytest.approx(0.02)
    assert learning_rate_factor(0.025) == pytest.approx(0.5)
    assert learning_rate_factor(0.05) == pytest.approx(1.0)
    assert learning_rate_factor(0.525) == pytest.approx(0.5)
    assert learning_rate_factor(1.0) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"max_seconds": 0.0}, "max_seconds must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"foreground": 1.5}, "foreground must lie"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **changes)


@pytest.mark.parametrize("patch", [(30, 32), (32,), (0, 32), (2, 2)])
def test_a_patch_that_does_not_fit_is_refused(tmp_path: Path, patch: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="patch must be 2 multiples of 4"):
        run(tmp_path, replace(CONFIG, patch=patch))


@pytest.mark.parametrize("where", ["backward", "after the optimiser"])
def test_a_step_that_was_broken_off_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Ctrl-C may come anywhere in a step; the step is then done again, not twice."""
    straight = run(tmp_path / "a")
    steps = 0

    def broken(*args: object, **kwargs: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 6 and where == "backward":
            raise KeyboardInterrupt
        result = original(*args, **kwargs)
        if steps == 6:
            raise KeyboardInterrupt
        return result

    owner, name = (
        (torch.autograd, "backward")
        if where == "backward"
        else (
            torch.optim.AdamW,
            "step",
        )
    )
    original = getattr(owner, name)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b")
    resumed = run(tmp_path / "b")
    assert straight is not None
    assert resumed is not None
    for key, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[key]), key


def test_a_run_that_has_ended_is_not_trained_further(tmp_path: Path) -> None:
    frozen = replace(CONFIG, steps=50, validate_every=2, patience=2, learning_rate=1e-12)
    results = [run(tmp_path, frozen) for _ in range(3)]
    assert len({r.step for r in results if r is not None}) == 1
    timed = replace(CONFIG, steps=10_000, max_seconds=1.0, validate_every=10_000)
    first, again = (run(tmp_path / "timed", timed) for _ in range(2))
    assert first is not None
    assert again is not None
    assert (first.step, first.reason) == (again.step, "time")
    longer = run(tmp_path / "timed", replace(timed, max_seconds=again.seconds + 2.0))
    assert longer is not None
    assert longer.step > again.step


def test_held_out_images_that_say_nothing_do_not_freeze_the_first_state(tmp_path: Path) -> None:
    empty = [replace(HELD_OUT[0], labels=np.zeros_like(HELD_OUT[0].labels))]
    unknown = [replace(HELD_OUT[0], known=(False,))]
    for name, held_out in (("empty", empty), ("unknown", unknown)):
        events: list[Event] = []
        config = replace(CONFIG, validate_every=2, patience=1)
        result = drain(train(TRAINING, held_out, CARD, config, tmp_path / name), events.append)
        assert result.best_step == result.step == 8
        assert result.scores == {}
        assert any(isinstance(e, Note) and e.code == "held-out-empty" for e in events)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone(
    tmp_path: Path,
) -> None:
    bad = replace(TRAINING[0], image=np.full_like(TRAINING[0].image, np.nan))
    with pytest.raises(InputError, match=r"not finite for 20 steps .* lower learning rate"):
        drain(train([bad], HELD_OUT, CARD, replace(CONFIG, steps=40), tmp_path))
    weights = load_state(tmp_path / "state.safetensors").weights
    assert all(torch.isfinite(w).all() for k, w in weights.items() if "running" not in k)


def test_weights_of_the_heads_change_the_training(tmp_path: Path) -> None:
    first = run(tmp_path / "a")
    only_last = run(tmp_path / "b", replace(CONFIG, head_weights=(0.0, 1.0)))
    assert first is not None
    assert only_last is not None
    last = "nodes.x0_2.0.weight"
    assert not torch.equal(first.network.state_dict()[last], only_last.network.state_dict()[last])
    with pytest.raises(InputError, match="head weights must be 2 numbers"):
        run(tmp_path / "c", replace(CONFIG, head_weights=(1.0,)))


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    drain(train(TRAINING, HELD_OUT, CARD, CONFIG, tmp_path, data="one"))
    with pytest.raises(InputError, match="other settings or images"):
        drain(train(TRAINING, HELD_OUT, CARD, CONFIG, tmp_path, data="two"))
