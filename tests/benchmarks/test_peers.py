"""The benchmark beside others: who runs, what is kept, and what its figures mean."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_unetpp.core.config import NetworkConfig
from napari_unetpp.core.errors import FileError, InputError
from napari_unetpp.core.nn.network import NestedUNet

MODULES = (
    "measure", "peer_networks", "peer_files", "peer_jobs", "peer_runs", "peer_report", "peers"
)  # fmt: skip

MACHINE = {
    "device": "cpu (this one)", "precision": "bfloat16", "threads": 2, "cores": 2,
    "system": "Linux x86_64", "torch": "2.13.0", "amx": False,
}  # fmt: skip


def run_of(bench: SimpleNamespace, size: str, seconds: dict[str, list[float]], **more: Any) -> Any:
    rounds = len(next(iter(seconds.values())))
    told = {
        "base": "eager PyTorch, L4", "rates": [1e9] * rounds, "macs": {"1": 1e8, "4": 1e9},
        "work": dict.fromkeys(seconds, 1.0), "backend": "openvino", "precision": "bfloat16",
        "others": 0.25, "date": "2026-11-22",
    }  # fmt: skip
    return bench.peer_runs.Run(size=size, seconds=seconds, **(told | more))


# Others -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_peers_are_of_the_same_shape_and_size(bench: SimpleNamespace) -> None:
    config = NetworkConfig(filters=(8, 16, 16, 16, 16), out_channels=2)
    x = torch.rand(1, 1, 32, 48)
    with torch.inference_mode():
        port = bench.peer_networks.PortStyle(config).eval()
        assert port(x).shape == (1, 2, 32, 48)
        heads = bench.peer_networks.monai_network(config).eval()(x)
    assert tuple(heads[-1].shape) == (1, 2, 32, 48)
    ours = sum(p.numel() for p in NestedUNet(config).parameters())
    assert 0.8 < sum(p.numel() for p in port.parameters()) / ours < 1.25


def test_work_is_counted_for_a_pixel(bench: SimpleNamespace) -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(1, 4, 3, padding=1)
            self.second = torch.nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.second(self.first(x))
            return found

    assert bench.peer_networks.work_of(Two(), NetworkConfig()) == 9 * 4 + 4 * 2


def test_windows_compute_their_overlap_too(bench: SimpleNamespace) -> None:
    share = bench.peer_networks.windows_share
    assert share((96, 96)) == 1.0
    assert share((512, 512)) == 1.0
    assert share((2048, 2048)) == pytest.approx((5 * 512 / 2048) ** 2)
    assert share((128, 128, 128)) == pytest.approx((2 * 96 / 128) ** 3)


def test_files_hold_what_the_array_way_gives(bench: SimpleNamespace, tmp_path: Path) -> None:
    case = bench.peer_jobs.Case((64, 96), 1, tmp_path)
    jobs = bench.peer_jobs
    jobs.FILES.make(case, 4)()
    expected = jobs.OURS.make(case, 4)()
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "ours-4.tif"), expected)
    jobs.MONAI_FILES.make(case, 4)()
    theirs = tifffile.imread(tmp_path / "monai.tif")
    assert (theirs.shape, theirs.dtype) == ((64, 96), np.uint8)


def test_the_network_sees_what_the_model_wants(bench: SimpleNamespace, tmp_path: Path) -> None:
    plane = bench.peer_jobs.Case((64, 96), 1, tmp_path)
    volume = bench.peer_jobs.Case((16, 16, 32), 1, tmp_path)
    for case in (plane, volume):
        assert case.x.shape == (1, 1, *case.shape)
        assert case.x.dtype == np.float32
    window = volume.model.card.normalisation  # air below it, bone above it
    assert volume.image.data.min() < window.low
    assert (volume.x.min(), volume.x.max()) == pytest.approx((0.0, 1.0), abs=1e-6)


def test_who_is_not_there_is_named(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = bench.peer_jobs.absent
    monkeypatch.setattr(bench.peer_jobs.importlib.util, "find_spec", lambda name: None)
    assert absent("onnx") == "ONNX Runtime: onnx and onnxruntime not installed"
    assert absent("smp") == "segmentation_models.pytorch: not installed"
    assert absent("monai") is None

    def broken(config: NetworkConfig) -> torch.nn.Module:
        raise RuntimeError("operator\nof another torch")

    monkeypatch.setattr(bench.peer_jobs.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bench.peer_jobs, "smp_network", broken)
    assert absent("onnx") is None
    assert absent("smp") == (
        "segmentation_models.pytorch: installed, but does not load (operator of another torch)"
    )


# Runs -------------------------------------------------------------------------------------


def test_figures_are_within_a_round(bench: SimpleNamespace) -> None:
    run = run_of(
        bench, "8x8",
        {"eager PyTorch, L4": [2.0, 20.0, 4.0], "ours, array to labels, L4": [1.0, 2.0, 2.0]},
        rates=[1e9, 1e8, 1e9],
    )  # fmt: skip
    ours = run.relative("ours, array to labels, L4")
    assert (ours.median, ours.low, ours.high) == (0.5, 0.1, 0.5)
    floor = run.floor("4")  # 1, 10 and 1 s in rounds whose base took 2, 20 and 4
    assert (floor.median, floor.low, floor.high) == (0.5, 0.25, 0.5)
    assert run.floor("1", "ours, array to labels, L4").median == pytest.approx(0.1)


def test_only_what_is_missing_is_measured(bench: SimpleNamespace) -> None:
    base, quick = "eager PyTorch, L4", "eager PyTorch, L1"
    kept = bench.peer_runs.Kept(MACHINE)
    plan = bench.peers.Plan(
        [(8, 8)], [(16, 16)], [1, 4], ["eager", "port", "window", "files"], 5, 2, 1, 12.0
    )
    window = "MONAI, sliding window"
    assert set(plan.missing((8, 8), kept)) == {base, quick, window, "style of the common ports"}
    kept.runs.append(run_of(bench, "8x8", {base: [1.0], quick: [0.5], window: [2.0]}))
    assert set(plan.missing((8, 8), kept)) == {base, "style of the common ports"}
    kept.runs.append(run_of(bench, "8x8", {base: [1.0], "style of the common ports": [0.5]}))
    assert plan.missing((8, 8), kept) == {}
    assert "ours, file to file, L1" in plan.missing((16, 16), kept)
    assert window not in plan.missing((16, 16), kept)  # it slides from file to file
    assert not any("file" in row for row in plan.rows((8, 8, 8)))
    assert (plan.rounds((8, 8)), plan.rounds((2048, 2048))) == (5, 2)


def test_figures_are_kept_for_this_machine_alone(bench: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    Kept = bench.peer_runs.Kept
    kept = Kept(MACHINE, [run_of(bench, "8x8", {"eager PyTorch, L4": [1.0, 2.0]})])
    kept.write(path)
    assert list(tmp_path.iterdir()) == [path]
    again = Kept.read(path, MACHINE)
    assert again.runs == kept.runs
    assert Kept.read(tmp_path / "none.json", MACHINE).runs == []
    with pytest.raises(InputError, match="another machine or setting"):
        Kept.read(path, {**MACHINE, "threads": 1})
    path.write_text('{"runs": [{"size": "8x8"}], "machine": {}}')
    with pytest.raises(FileError, match="name another file"):
        Kept.read(path, MACHINE)


def test_load_of_others_is_what_is_not_ours(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 s on two processors 9 were busy; this process had 4 of them."""
    clock = iter([0.0, 10.0])
    fields = ("user", "nice", "system", "idle", "iowait")
    ticks = [(5.0, 1.0, 1.0, 3.0, 0.5), (11.0, 3.0, 2.0, 13.5, 1.0)]
    times = iter([_Times(dict(zip(fields, row, strict=True))) for row in ticks])
    own = iter([SimpleNamespace(user=1.0, system=1.0), SimpleNamespace(user=4.0, system=2.0)])
    fake = SimpleNamespace(
        Process=lambda: SimpleNamespace(cpu_times=lambda: next(own)),
        cpu_times=lambda: next(times),
        cpu_count=lambda: 2,
    )
    monkeypatch.setattr(bench.measure, "psutil", fake)
    monkeypatch.setattr(bench.measure, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    with bench.measure.others_share() as found:
        pass
    assert found == [pytest.approx((9.0 - 4.0) / 20.0)]


class _Times(tuple):  # type: ignore[type-arg]
    """Named values that can be summed, as psutil gives them."""

    def __new__(cls, values: dict[str, float]) -> _Times:
        made = super().__new__(cls, values.values())
        made.__dict__.update(values)
        return made


# Reports ----------------------------------------------------------------------------------


def test_aims_are_judged(bench: SimpleNamespace) -> None:
    seconds = {
        "eager PyTorch, L4": [4.0, 4.0],
        "ours, array to labels, L1": [0.5, 0.5],
        "ours, array to labels, L4": [2.0, 2.0],
    }
    files = {
        "eager PyTorch, L4": [4.0],
        "ours, file to file, L4": [1.0],
        "MONAI sliding window, file to file": [10.0],
    }
    kept = bench.peer_runs.Kept(MACHINE)
    kept.runs = [run_of(bench, "512x512", seconds), run_of(bench, "2048x2048", files)]
    text = bench.peer_report.report(kept)
    assert "L4 at 512×512, of eager PyTorch, L4: 0.500; the aim is at most 0.6: met." in text
    assert "of its L4: 0.250; the aim is at most 0.2: **missed**." in text
    assert "0.100; the aim is at most 0.15 with AMX, which this machine has not: met." in text
    assert "floor at 512×512 over ours, array to labels, L4: 0.500; " in text
    assert "| 2D, `nuclei` | work | 512×512 | 2048×2048 |" in text
    assert "| ours, file to file, L4 | 1.00 |  | 0.250 |" in text
    assert "| floor, L4 |  | 0.250 | 0.250 |" in text
    assert "others took 25 % of the processors meanwhile (too much to be fair: " in text
    kept.runs = [run_of(bench, "512x512", seconds, others=0.04)]
    assert "others took 4 % of the processors meanwhile." in bench.peer_report.report(kept)
    kept.machine["amx"] = True
    assert "the aim is at most 0.12: **missed**." in bench.peer_report.report(kept)


def test_a_page_is_written_between_its_marks(bench: SimpleNamespace, tmp_path: Path) -> None:
    report = bench.peer_report
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    for text in ("new", "newer"):
        report.write_into(page, text)
        expected = f"before\n{report.START}\n\n{text}\n\n{report.END}\nafter\n"
        assert page.read_text() == expected
    report.write_into(page, "new", tmp_path / "images" / "peers.png")
    assert "](images/peers.png)\n\n<!-- end" in page.read_text()
    page.write_text("no marks")
    with pytest.raises(FileError, match="expected to hold"):
        report.write_into(page, "new")
    assert page.read_text() == "no marks"


@pytest.mark.slow
def test_peers_run_are_kept_and_drawn(
    bench: SimpleNamespace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, drawn = tmp_path / "peers.json", tmp_path / "peers.png"
    argv = ["--quick", "--out", str(out), "--figure", str(drawn)]
    peers = "ours,network,eager,port,monai,window,files"
    assert bench.peers.main([*argv, "--peers", peers, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("about ")
    found = json.loads(printed.out)
    assert found["absent"] == []
    (run,) = found["runs"]
    assert run["base"] == "eager PyTorch, L4"
    assert len(run["seconds"]) == 3 * 2 + 2 + 2 + 1 + 2
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in run["seconds"].values())
    assert run["work"]["ours, network, L1"] == pytest.approx(0.118, abs=0.001)
    assert 1.0 < run["work"]["MONAI sliding window, file to file"] < 1.3
    assert drawn.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(bench.peers, "measure", None)  # nothing is measured again
    assert bench.peers.main([*argv, "--peers", peers]) == 0
    text = capsys.readouterr().out
    assert text.count("\n| ") == 2 + len(run["seconds"]) + 2  # header and rule, rows, two floors
    assert "| eager PyTorch, L4 | 1.00 | 1.000 |" in text


def test_what_is_unknown_is_refused(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.peers.main(["--peers", "ours,keras"])
    assert "got keras" in capsys.readouterr().err


# A guard ----------------------------------------------------------------------------------


def test_ours_is_not_slower_than_eager_pytorch(bench: SimpleNamespace) -> None:
    """A guard against regressions: the best of several rounds, with a wide bound."""
    from napari_unetpp.core.run.backends.pytorch import TorchBackend
    from napari_unetpp.core.run.runtime import Runner, choose_device

    model, _ = bench.measure.model_for("nuclei")
    x = np.random.default_rng(0).random((1, 1, 256, 256), dtype=np.float32)
    eager = TorchBackend(model.network, "cpu", "float32", tuned=False)
    for backend in ("torch", "openvino"):
        if backend == "openvino":
            pytest.importorskip("openvino")
        runner = Runner(model, choose_device("cpu"), backend)
        jobs = {
            "eager": lambda: eager.run(x, (4,)),
            "ours": lambda runner=runner: runner.probabilities(x, 4),
        }
        for job in jobs.values():
            job()
        seconds = bench.measure.interleaved(jobs, 5)
        assert min(seconds["ours"]) < 1.5 * min(seconds["eager"])
