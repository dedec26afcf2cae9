"""The list of models, and the figures of a card."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from napari_unetpp.core.config import ClassInfo, ModelCard, NetworkConfig
from napari_unetpp.core.errors import FileError, InputError, ModelFileError
from napari_unetpp.core.model.cards import bundled_models, read_card
from napari_unetpp.widget.models import ModelEntry, ModelList, figures
from napari_unetpp.widget.settings import read_recent, write_recent


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAPARI_UNETPP_CONFIG", str(tmp_path / "config"))


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "größe 1" / "mine.safetensors"
    path.parent.mkdir()
    shutil.copy(bundled_models()["nuclei"], path)
    return path


def of_group(entries: list[ModelEntry], group: str) -> list[str]:
    return [e.value for e in entries if e.group == group]


def test_bundled_models_come_first_and_nuclei_before_them() -> None:
    entries = ModelList().entries()
    assert [e.value for e in entries] == ["nuclei", *sorted(set(bundled_models()) - {"nuclei"})]
    assert {e.group for e in entries} == {"bundled"}
    assert entries[0].label == "nuclei"
    assert entries[0].tooltip.startswith("nuclei: 2D, nucleus")


def test_a_chosen_file_is_offered_and_remembered(model_file: Path) -> None:
    models = ModelList()
    card = models.add_file(model_file)
    assert card == read_card("nuclei")
    (entry,) = [e for e in models.entries() if e.group == "file"]
    assert (entry.label, entry.value) == ("mine", str(model_file))
    assert str(model_file) in entry.tooltip
    assert models.card(entry.value) == card
    models.add_file(str(model_file))
    assert of_group(models.entries(), "file") == [str(model_file)]
    # The next window has it among those used lately.
    assert read_recent() == [str(model_file)]
    assert of_group(ModelList().entries(), "recent") == [str(model_file)]


def test_bundled_names_are_not_remembered() -> None:
    ModelList().remember("nuclei")
    assert read_recent() == []


def test_the_last_used_is_on_top_and_once(tmp_path: Path) -> None:
    models = ModelList()
    names = [str(tmp_path / f"{k}.safetensors") for k in range(10)]
    for name in [*names, names[8]]:
        models.remember(name)
    assert read_recent() == [names[8], names[9], *names[7:1:-1]]


def test_files_of_one_name_are_told_apart(model_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b" / model_file.name
    other.parent.mkdir()
    shutil.copy(model_file, other)
    models = ModelList()
    models.add_file(model_file)
    models.add_file(other)
    labels = [e.label for e in models.entries() if e.group == "file"]
    assert labels == ["mine (b)", "mine (größe 1)"]


def test_missing_files_are_said_or_left_out(model_file: Path) -> None:
    write_recent([str(model_file.with_name("gone.safetensors"))])
    models = ModelList()
    assert of_group(models.entries(), "recent") == []
    models.add_file(model_file)
    model_file.unlink()
    (entry,) = [e for e in models.entries() if e.group == "file"]
    assert entry.label == "mine (missing)"
    assert "There is no file" in entry.tooltip
    with pytest.raises(FileError, match="there is no model file"):
        models.card(entry.value)


def test_a_file_that_was_replaced_is_read_again(model_file: Path) -> None:
    models = ModelList()
    assert models.add_file(model_file).axes == "YX"
    shutil.copy(bundled_models()["ct-head-neck"], model_file)
    assert models.card(str(model_file)).axes == "ZYX"


@pytest.mark.parametrize(
    ("name", "content", "error", "match"),
    [
        ("none.safetensors", None, FileError, "there is no model file"),
        ("image.tif", b"II*\0", InputError, "ends in .safetensors, got image.tif"),
        ("bad.safetensors", b"not a model at all", ModelFileError, "is not a model file"),
        ("empty.safetensors", b"", ModelFileError, "is not a model file"),
    ],
)
def test_other_files_are_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], match: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    models = ModelList()
    with pytest.raises(error, match=match) as caught:
        models.add_file(path)
    assert "\n" not in str(caught.value)
    assert of_group(models.entries(), "file") == []
    assert read_recent() == []


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="got the folder"):
        ModelList().add_file(tmp_path)


def test_a_recent_file_that_is_no_model_says_so_in_its_tooltip(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"not a model at all")
    write_recent([str(path)])
    (entry,) = [e for e in ModelList().entries() if e.group == "recent"]
    assert "is not a model file" in entry.tooltip


def test_figures_of_the_bundled_models() -> None:
    card = read_card("nuclei")
    found = figures(card)
    assert list(found) == [1, 2, 3, 4, "ensemble"]
    for level, figure in found.items():
        assert figure.score == card.scores[str(level)]["iou_per_image"]
        assert figure.seconds == card.timings[str(level)]["seconds_per_megapixel"]
        assert (figure.score_name, figure.unit) == ("IoU", "megapixel")
        assert not figure.strokes
    organs = figures(read_card("ct-head-neck"))[4]
    assert (organs.score_name, organs.unit) == ("Dice", "megavoxel")
    assert organs.score == read_card("ct-head-neck").scores["4"]["dice_per_image"]


def test_figures_of_a_card_without_scores() -> None:
    net = NetworkConfig(in_channels=1, out_channels=2, filters=(4, 8, 16))
    two = ModelCard("m", net, (ClassInfo("a", "#ff0000"), ClassInfo("b", "#00ff00")),
                    levels_trained=(1, 2))  # fmt: skip
    assert figures(two) == {
        1: (None, "Dice", None, "megapixel", False),
        2: (None, "Dice", None, "megapixel", False),
    }
    pooled = two.replace(scores={"2": {"dice_pooled": 0.5}})
    assert figures(pooled)[2].score == 0.5
