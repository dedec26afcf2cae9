"""The loop: what it learns, what it keeps, what it leaves alone, and the smallest of paint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from napari_unetpp.core.data.augment import UNLABELLED
from napari_unetpp.core.data.image import Image
from napari_unetpp.core.errors import InputError
from napari_unetpp.core.events import Note, StepDone, Validated
from napari_unetpp.core.model.modelfile import Model
from napari_unetpp.core.tune.inputs import FREE, Painted
from napari_unetpp.core.tune.result import TeacherChosen
from napari_unetpp.core.tune.scoring import Score, head_probabilities
from napari_unetpp.core.tune.settings import TuneConfig
from napari_unetpp.core.tune.start import grown_card, scratch_card, start_network
from napari_unetpp.core.tune.strokes import HELD_OUT, TRAINING, Split
from napari_unetpp.core.tune.tune import FineTuning
from tests.core.tune.conftest import painted, run, small_model, tuning


def test_it_learns_the_discs_from_four_thin_strokes(
    image: Image, paint: NDArray[np.uint8], truth: NDArray[np.bool_]
) -> None:
    job = tuning(painted(image, paint), small_model(), steps=60)
    result, events = run(job)
    assert result.before is not None
    assert result.after is not None
    assert not result.base_kept
    assert result.after.mean > result.before.mean + 0.2
    assert result.teacher.name == "forest"
    rest = paint == 0
    for level, p in head_probabilities(result.network, job.windows[0].image).items():
        answer = p[0] > 0.5
        iou = (answer & truth & rest).sum() / ((answer | truth) & rest).sum()
        assert iou > 0.6, level
    steps = [e.step for e in events if isinstance(e, StepDone)]
    assert steps == list(range(1, 61))
    scored = [e.step for e in events if isinstance(e, Validated)]
    assert scored == [0, 4, 8, 14, 20, 40, 60]


def test_the_seed_alone_decides(image: Image, paint: NDArray[np.uint8]) -> None:
    weights = []
    for seed in (3, 3, 4):
        job = tuning(painted(image, paint), small_model(), seed=seed, teacher="forest")
        run(job)
        weights.append(torch.cat([p.detach().flatten() for p in job.network.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_batch_norm_does_not_drift(image: Image, paint: NDArray[np.uint8]) -> None:
    base = small_model("batch")
    job = tuning(painted(image, paint), base)
    run(job)
    before, after = base.network.state_dict(), job.network.state_dict()
    running = [k for k in before if "running_" in k or "num_batches" in k]
    assert len(running) > 5
    assert all(torch.equal(before[k], after[k]) for k in running)
    assert all(torch.equal(before[k], job.best().state_dict()[k]) for k in running)
    moved = [k for k in before if k.endswith("weight") and not torch.equal(before[k], after[k])]
    assert {"heads.1.weight", "heads.2.weight"} <= set(moved)


def test_the_base_itself_is_never_changed(image: Image, paint: NDArray[np.uint8]) -> None:
    base = small_model()
    before = {k: v.clone() for k, v in base.network.state_dict().items()}
    run(tuning(painted(image, paint), base))
    assert all(torch.equal(v, base.network.state_dict()[k]) for k, v in before.items())


def test_what_is_not_painted_pulls_in_no_direction(image: Image, paint: NDArray[np.uint8]) -> None:
    """Without a teacher the loss sees training strokes alone."""
    job = tuning(painted(image, paint), small_model(), teacher="none")
    _, events = run(job)
    assert [e.name for e in events if isinstance(e, TeacherChosen)] == ["none"]
    batch = job._drawer().batch(0)
    assert float(batch.sure.abs().sum()) == 0
    assert 0 < float((batch.known > 0).float().mean()) < 0.05


def test_held_out_strokes_are_never_trained_on(image: Image, paint: NDArray[np.uint8]) -> None:
    job = tuning(painted(image, paint), small_model())
    job._read()
    job._choose_teacher()
    window = job.windows[0]
    assert {TRAINING, HELD_OUT} <= set(np.unique(window.sides))
    drawer = job._drawer()
    for number in range(12):
        drawer.windows[0].labels[window.sides == HELD_OUT] = number % 2
        target = drawer.batch(0).target
        if number == 0:
            first = target
        assert torch.equal(first, target)


def test_closing_keeps_the_best_so_far(image: Image, paint: NDArray[np.uint8]) -> None:
    job = tuning(painted(image, paint), small_model(), steps=60)
    events = job.run()
    best: Validated | None = None
    for event in events:
        if isinstance(event, Validated):
            best = event if event.best else best
            if event.step == 14:
                break
    events.close()
    result = job.result()
    assert best is not None
    assert result.steps == 14
    assert result.best_step == best.step
    assert result.after is not None
    assert {k: {"iou_strokes": v} for k, v in result.after.iou.items()} == best.scores
    again = head_probabilities(result.network, job.windows[0].image)
    assert all(np.isfinite(p).all() for p in again.values())


def test_a_base_that_is_better_stays(image: Image, paint: NDArray[np.uint8]) -> None:
    good, _ = run(tuning(painted(image, paint), small_model(), steps=60))
    base = Model(small_model().card, good.network, small_model().path, "cd" * 32)
    job = tuning(painted(image, paint), base, steps=4, learning_rate=0.3)
    result, _ = run(job)
    assert result.base_kept
    assert result.best_step == 0
    assert result.after == result.before
    kept = result.network.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in base.network.state_dict().items())


@pytest.mark.parametrize(("centre", "softmax"), [(True, False), (False, True)])
def test_objects_and_softmax(
    image: Image, paint: NDArray[np.uint8], centre: bool, softmax: bool
) -> None:
    base = small_model(centre=centre, softmax=softmax)
    job = tuning(painted(image, paint), base, steps=8)
    result, _ = run(job)
    assert result.after is not None
    batch = job._drawer().batch(1)
    if centre:  # no stroke says where the middle of an object is
        assert float(batch.known[:, 1].sum()) == 0
        assert float(batch.sure[:, 1].sum()) > 0
    else:
        assert torch.allclose(batch.soft.sum(dim=1), torch.ones_like(batch.soft[:, 0]), atol=1e-4)


def test_a_new_class_gets_a_channel_and_the_old_ones_their_weights(image: Image) -> None:
    base = small_model(centre=True)
    card = grown_card(base.card, ["cell", "debris"])
    assert card.channel_names == ("cell", "debris", "centre")
    network = start_network(card, base, 0)
    own, old = network.state_dict(), base.network.state_dict()
    for level in ("1", "2"):
        assert torch.equal(own[f"heads.{level}.weight"][[0, 2]], old[f"heads.{level}.weight"])
        assert float(own[f"heads.{level}.bias"][1]) == -2.0
    labels = np.zeros((96, 112), np.uint8)
    labels[5, 10:60], labels[30, 15:45], labels[60, 62:98] = 1, 2, 3
    result, _ = run(tuning(painted(image, labels), base, names=["cell", "debris"]))
    assert not result.base_kept
    assert result.network.config.out_channels == 3


def test_from_scratch(image: Image, paint: NDArray[np.uint8]) -> None:
    result, _ = run(tuning(painted(image, paint), None, steps=2))
    assert result.before is None
    assert result.after is not None
    assert not result.base_kept


def test_dense_labels_leave_nothing_to_a_teacher(image: Image, truth: NDArray[np.bool_]) -> None:
    job = tuning(painted(image, truth.astype(np.uint8), dense=True), small_model())
    run(job)
    batch = job._drawer().batch(0)
    painted_share = float((batch.known > 0).float().mean())
    assert 0.4 < painted_share < 0.9  # the rest is held out
    assert float((batch.sure * (batch.known == 1)).sum()) == 0


def test_an_image_far_larger_than_memory_is_read_around_the_paint() -> None:
    class Lazy:
        shape, dtype, ndim = (2000, 20_000), np.dtype(np.uint8), 2
        read = 0

        def __getitem__(self, index: Any) -> NDArray[np.uint8]:
            sizes = [len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True)]
            Lazy.read = max(Lazy.read, int(np.prod(sizes)))
            return np.full(sizes, 7, np.uint8)

    class Paint(Lazy):
        def __getitem__(self, index: Any) -> NDArray[np.uint8]:
            out = np.zeros(self.shape, np.uint8)
            out[100, 5_000:5_030], out[900, 5_000:5_030] = 1, 2
            return out[index]

    pair = Painted("big", Image(Lazy(), "YX"), Image(Paint(), "YX"))
    job = tuning(pair, small_model())
    job._read()
    with_paint = [w for w in job.windows if (w.labels != UNLABELLED).any()]
    assert len(with_paint) == 2
    assert job.windows[:2] == with_paint
    assert len(job.windows) == 2 + FREE[2]
    assert Lazy.read < 5_000_000  # a sample for the intensities, of 40 million pixels


def test_two_images_share_windows_and_a_split() -> None:
    """Every image's best window comes before any image's second; strokes are dealt together."""
    pairs = []
    for k in range(2):
        labels = np.zeros((600, 1200), np.uint8)
        labels[100 + k, 10:40], labels[500, 900:920] = 1, 2
        pixels = np.random.default_rng(k).random((600, 1200)).astype(np.float32)
        pairs.append(Painted(f"image {k}", Image(pixels, "YX"), Image(labels, "YX")))
    base = small_model()
    job = FineTuning(pairs, base.card, base, Split(0), TuneConfig())
    job._read()
    painted_windows = [w for w in job.windows if (w.labels != UNLABELLED).any()]
    assert sorted(w.name for w in painted_windows) == ["image 0", "image 0", "image 1", "image 1"]
    assert [int((w.labels != UNLABELLED).sum()) for w in painted_windows] == [30, 30, 20, 20]
    for value in (0, 1):  # one stroke of each is on each side, over both images
        sides = {int(s) for w in painted_windows for s in np.unique(w.sides[w.labels == value])}
        assert sides == {TRAINING, HELD_OUT}


# The smallest of paint


def test_an_empty_layer(image: Image) -> None:
    with pytest.raises(InputError, match="nothing is painted"):
        run(tuning(painted(image, np.zeros((96, 112), np.uint8)), small_model()))


def test_labels_of_another_shape(image: Image) -> None:
    with pytest.raises(InputError, match="must have the image's shape Y=96 x X=112, got Y=50"):
        run(tuning(painted(image, np.ones((50, 112), np.uint8)), small_model()))


def test_negative_labels(image: Image) -> None:
    with pytest.raises(InputError, match="0 or more, got -1"):
        run(tuning(painted(image, np.full((96, 112), -1, np.int16)), small_model()))


def test_a_value_beyond_the_classes(image: Image, paint: NDArray[np.uint8]) -> None:
    paint[50, 3:9] = 4
    with pytest.raises(InputError, match=r"label 4 is painted, but the classes end with 2 \(cell"):
        run(tuning(painted(image, paint), small_model()))


@pytest.mark.parametrize(
    ("value", "words"),
    [(1, "only background is painted"), (2, "only cell is painted")],
)
def test_one_class_from_scratch_has_nothing_to_differ_from(
    image: Image, value: int, words: str
) -> None:
    labels = np.zeros((96, 112), np.uint8)
    labels[30, 15:45] = value
    with pytest.raises(InputError, match=words):
        run(tuning(painted(image, labels), None))


@pytest.mark.parametrize("length", [1, 30])
def test_one_stroke_or_one_pixel_on_a_base(image: Image, length: int) -> None:
    labels = np.zeros((96, 112), np.uint8)
    labels[30, 15 : 15 + length] = 2
    result, events = run(tuning(painted(image, labels), small_model()))
    assert result.before is None
    assert result.after is None
    assert result.scope == "decoder"
    assert result.painted == {2: (length, 0)}
    assert result.best_step == 6  # nothing says that the base was better
    assert result.teacher.name == "base"
    notes = [e.message for e in events if isinstance(e, Note)]
    assert notes == [
        "No background (1) is painted, so what is outside the classes rests on the base alone."
    ]


def test_little_paint_leaves_the_encoder_alone(image: Image) -> None:
    labels = np.zeros((96, 112), np.uint8)
    labels[30, 15:45], labels[5, 5:30] = 2, 1
    base = small_model()
    job = tuning(painted(image, labels), base)
    run(job)
    before, after = base.network.state_dict(), job.network.state_dict()
    column = [k for k in before if k.startswith(("nodes.x0_0.", "nodes.x1_0.", "nodes.x2_0."))]
    assert len(column) > 10
    assert all(torch.equal(before[k], after[k]) for k in column)
    assert not torch.equal(before["nodes.x0_1.0.weight"], after["nodes.x0_1.0.weight"])


def test_a_class_without_strokes_is_named(image: Image, paint: NDArray[np.uint8]) -> None:
    result, _ = run(tuning(painted(image, paint), None, steps=1, names=["cell", "debris"]))
    assert result.notes == ("No stroke shows debris, so nothing new is learned about it.",)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_seconds": 0}, "above 0 seconds, got 0"),
        ({"steps": 0}, "at least 1, got 0"),
        ({"teacher": "me"}, "got 'me'"),
        ({"scope": "half"}, "got 'half'"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        TuneConfig(**values)


def test_scores_compare_by_hundredths_and_then_by_surprise() -> None:
    low, high = Score({1: 0.5, 2: 0.7}, 1.0), Score({1: 0.6, 2: 0.7}, 2.0)
    assert high.better_than(low)
    assert not low.better_than(high)
    assert Score({1: 0.501, 2: 0.7}, 0.9).better_than(low)
    assert not Score({1: 0.503, 2: 0.7}, 1.1).better_than(low)
    assert low.better_than(None)


def test_a_plane_and_a_volume_of_one_name_are_two_parts() -> None:
    """The same paint may teach a model in 2D and then one in 3D."""
    labels = np.zeros((6, 32, 32), np.uint8)
    labels[0, 4, 4:20], labels[0, 20, 4:20], labels[0, 10, 4:20], labels[0, 28, 4:20] = 1, 1, 2, 2
    pixels = np.random.default_rng(0).random(labels.shape).astype(np.float32)
    pair = Painted("stack", Image(pixels, "ZYX"), Image(labels, "ZYX"))
    split = Split(0)
    for axes in ("YX", "ZYX"):
        job = FineTuning([pair], scratch_card("new", ["cell"], axes, 1), None, split, TuneConfig())
        job._read()
        painted_windows = [w for w in job.windows if (w.labels != UNLABELLED).any()]
        assert len(painted_windows) == 1
        assert {int(v) for v in np.unique(painted_windows[0].sides)} == {0, TRAINING, HELD_OUT}
    assert split.shapes == {"stack#0": (32, 32), "stack#v0": (6, 32, 32)}


def test_background_alone_is_no_score_of_a_class(image: Image) -> None:
    paint = np.zeros(image.shape, np.uint8)
    paint[30, 20:40] = 2  # one stroke of the class, which is for training
    paint[5, 10:60] = paint[88, 5:50] = 1
    job = tuning(painted(image, paint), small_model(), steps=2)
    result, _ = run(job)
    assert result.painted[1][1] > 0
    assert (result.before, result.after) == (None, None)
    assert result.best_step == 2
