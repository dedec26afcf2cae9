"""Hidden names: whose they are, and that nobody's stay behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_unetpp.core.data.image import Image
from napari_unetpp.core.data.io import hidden, open_sink

CHILD = """
import sys
from pathlib import Path
from napari_unetpp.core.data.io.hidden import hidden_beside
target = Path(sys.argv[1])
hidden_beside(target, ".tif").write_bytes(b"1")
hidden_beside(target, ".raw").write_bytes(b"1")
(hidden_beside(target, ".part") / "0").mkdir(parents=True)
hidden_beside(target, ".old").mkdir()
hidden_beside(target.with_name("other.tif"), ".tif").write_bytes(b"1")
"""


def test_what_a_killed_process_left_goes_with_the_next_result(tmp_path: Path) -> None:
    target = tmp_path / "out.tif"
    subprocess.run([sys.executable, "-c", CHILD, str(target)], check=True)
    assert len(list(tmp_path.iterdir())) == 5
    mine = hidden.hidden_beside(target, ".tif")
    elsewhere = tmp_path / ".out.tif.999999-0badc0de-00000000.tif"
    for path in (mine, elsewhere):
        path.touch()
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    options = {"like": like, "axes": "YX", "dtype": np.uint8, "shape": (4, 5), "kind": "labels"}
    with open_sink(target, **options) as sink:
        sink.commit()
    left = {p for p in tmp_path.iterdir() if p not in (mine, elsewhere, target)}
    # What stepped aside was the only copy then; another target's is its own business.
    assert sorted(p.suffix for p in left) == [".old", ".tif"]
    with open_sink(target, **options):
        left = {p.name for p in left if p.exists()}
    assert [name.split(".")[1] for name in left] == ["other"]


def test_a_folder_that_is_still_written_into_is_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a"
    (folder / "c").mkdir(parents=True)
    rmtree, late = shutil.rmtree, iter([True, True])

    def then_one_more_chunk(path: Path, **options: bool) -> None:
        rmtree(path, **options)
        if next(late, False):
            (path / "c").mkdir(parents=True)

    monkeypatch.setattr(hidden.shutil, "rmtree", then_one_more_chunk)
    hidden.remove(folder)
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize("extension", [".tif", ".nii.gz", ".ome.zarr"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path, extension: str) -> None:
    for folder in ("store", "work"):
        (tmp_path / folder).mkdir()
    real, link = tmp_path / "store" / f"real{extension}", tmp_path / "work" / f"out{extension}"
    link.symlink_to(real)
    like = Image.from_array(np.zeros((4, 5), np.uint8))
    for shape in ((4, 5), (4, 6)):
        with open_sink(
            link, like=like, axes="YX", dtype=np.uint8, shape=shape, kind="labels"
        ) as sink:
            assert sink.commit() == link
        assert link.is_symlink()
        assert real.exists()
    assert [len(list((tmp_path / folder).iterdir())) for folder in ("store", "work")] == [1, 1]
