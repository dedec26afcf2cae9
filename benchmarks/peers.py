"""The same network, or one like it, by others: time relative to plain eager float32 PyTorch at L4.

In one run, on one input and as many threads: ours through the public API and the bare network,
plain eager PyTorch of the same network as it was built, MONAI's BasicUNetPlusPlus with the same
filters alone and with MONAI's sliding window around it, a network in the style of the common
ports, ONNX Runtime, segmentation_models.pytorch; from file to file; and the floor, the network's
multiply-accumulates over the matrix rate that this machine reaches in the precision that ours runs
in. What is not installed is left out and named. Every round does all of them in turn. With
``--out`` the figures are kept, and a later run measures only what is missing. Run with ``--help``
for the options.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from measure import (
    interleaved,
    machine,
    matrix_rate,
    model_for,
    others_share,
    parse_sizes,
    set_threads,
    size_text,
)
from peer_jobs import CONTESTANTS, EAGER, Case, Contestant, Job, absent, row, works
from peer_networks import windows_share
from peer_report import draw, report, write_into
from peer_runs import Kept, Run

from napari_unetpp.core.errors import UNetPPError
from napari_unetpp.core.nn.variants import multiply_accumulates
from napari_unetpp.core.run.runtime import choose_device

SIZES = "96x96,512x512,2048x2048,64x64x64,128x128x128"
LARGE = 2**20  # pixels, from which on there are fewer rounds
_LEAST_SECONDS = 0.1  # a job that takes less is called several times in a round


@dataclass(frozen=True)
class Plan:
    """What is asked for."""

    sizes: list[tuple[int, ...]]
    files: list[tuple[int, ...]]
    levels: list[int]
    peers: list[str]
    repeats: int
    large_repeats: int
    threads: int
    minutes: float

    def rounds(self, shape: tuple[int, ...]) -> int:
        """Return how often everyone runs."""
        return self.large_repeats if math.prod(shape) > LARGE else self.repeats

    def rows(self, shape: tuple[int, ...]) -> dict[str, tuple[Contestant, int]]:
        """Return who runs at a size, by the name of the row."""
        filed = "files" in self.peers and shape in self.files and len(shape) == 2
        # From file to file MONAI's window slides too: once is slow enough.
        unasked = "window" if filed else "files"
        found = {}
        for peer in (p for p in CONTESTANTS if p in self.peers and p != unasked):
            for one in CONTESTANTS[peer]:
                if len(shape) in one.ndims:
                    levels = self.levels if one.by_level else [max(self.levels)]
                    found |= {row(one, k): (one, k) for k in levels}
        return found

    @property
    def base(self) -> str:
        """The row that everyone is compared with."""
        return row(EAGER, max(self.levels))

    def missing(self, shape: tuple[int, ...], kept: Kept) -> dict[str, tuple[Contestant, int]]:
        """Return who has not been measured yet, with the base if there is anyone."""
        known = kept.rows(size_text(shape))
        left = {name: one for name, one in self.rows(shape).items() if name not in known}
        return {self.base: (EAGER, max(self.levels))} | left if left else {}


def estimate(plan: Plan, kept: Kept) -> dict[str, float]:
    """Return about how many seconds each size will take, from one short pass of the base."""
    found = {}
    rate = 0.0
    with tempfile.TemporaryDirectory(prefix="unetpp-peers-") as folder:
        for shape in plan.sizes:
            left = plan.missing(shape, kept)
            if left and not rate:
                probe = Case((256, 256), plan.threads, Path(folder))
                job = EAGER.make(probe, max(plan.levels))
                seconds = min(interleaved({"base": job}, 3)["base"])
                rate = multiply_accumulates(probe.config, probe.shape, max(plan.levels)) / seconds
            if left:
                found[size_text(shape)] = _seconds(plan, shape, left, rate)
    return found


def _seconds(
    plan: Plan, shape: tuple[int, ...], rows: dict[str, tuple[Contestant, int]], rate: float
) -> float:
    config = model_for("nuclei" if len(shape) == 2 else "ct-head-neck")[0].card.network
    total = 5.0  # models are loaded, graphs exported
    for one, level in rows.values():
        seconds = one.rough * multiply_accumulates(config, shape, level) / rate
        if "sliding" in one.title:
            seconds *= windows_share(shape)
        calls = plan.rounds(shape) + (one.prepares or math.prod(shape) <= LARGE)
        total += max(seconds, _LEAST_SECONDS) * calls
    return total


def measure(
    plan: Plan, shape: tuple[int, ...], kept: Kept, folder: Path, deadline: float = math.inf
) -> Run | None:
    """Time whoever is missing at a size; None if memory is too small."""
    left = plan.missing(shape, kept)
    case = Case(shape, plan.threads, folder)
    if not case.fits:
        kept.absent.append(f"{size_text(shape)}: too little memory is free")
        return None
    jobs: dict[str, Job] = {}
    calls: dict[str, int] = {}
    for name, (one, level) in left.items():
        jobs[name] = one.make(case, level)
        calls[name] = 1
        if one.prepares or math.prod(shape) <= LARGE:
            jobs[name]()  # kernels are chosen, graphs compiled, numbers checked
            start = time.perf_counter()
            if math.prod(shape) <= LARGE:
                jobs[name]()
                spent = time.perf_counter() - start
                calls[name] = max(1, math.ceil(_LEAST_SECONDS / spent))
    precision = case.runner.precision_of(max(plan.levels))
    rates: list[float] = []
    repeated = {name: _times(job, calls[name]) for name, job in jobs.items()}
    repeated["rate"] = lambda: rates.append(matrix_rate(precision))
    with others_share() as others:
        found = interleaved(repeated, plan.rounds(shape), deadline=deadline)
    del found["rate"]
    return Run(
        size=size_text(shape),
        base=plan.base,
        seconds={name: [s / calls[name] for s in found[name]] for name in found},
        rates=rates,
        macs={str(k): multiply_accumulates(case.config, shape, k) for k in plan.levels},
        work={n: w for n, w in works(case, plan.peers, plan.levels).items() if n in found},
        backend=case.runner.backend_of(max(plan.levels)),
        precision=precision,
        others=others[0],
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    )


def _times(job: Job, count: int) -> Job:
    def call() -> None:
        for _ in range(count):
            job()

    return call


def run(plan: Plan, kept: Kept, out: Path | None) -> None:
    """Measure size after size, telling how long it takes; kept after each."""
    guess = estimate(plan, kept)
    if guess:
        each = ", ".join(f"{size} {seconds / 60:.1f}" for size, seconds in guess.items())
        total = sum(guess.values())
        _say(f"about {total / 60:.0f} minutes ({each})")
        if total > 60 * plan.minutes:
            _say(f"there will be fewer rounds, for about {plan.minutes:g} minutes")
    begin, done = time.perf_counter(), 0.0
    for shape in plan.sizes:
        if size_text(shape) not in guess:
            continue
        start = time.perf_counter()
        done += guess[size_text(shape)]
        # What one size leaves of its share is for the next ones.
        deadline = begin + 60 * plan.minutes * done / sum(guess.values())
        with tempfile.TemporaryDirectory(prefix="unetpp-peers-") as folder:
            found = measure(plan, shape, kept, Path(folder), deadline)
        if found is not None:
            kept.runs.append(found)
            minutes = (time.perf_counter() - start) / 60
            rows = len(found.seconds)
            _say(f"{found.size}: {rows} rows, {found.rounds} rounds in {minutes:.1f} minutes")
        if out is not None:
            kept.write(out)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=parse_sizes, default=parse_sizes(SIZES))
    parser.add_argument("--files", type=parse_sizes, default=parse_sizes("2048x2048"),
                        help="sizes that also go from file to file")  # fmt: skip
    parser.add_argument("--levels", default="1,2,3,4", help="of ours and the same network's")
    parser.add_argument("--peers", default=",".join(CONTESTANTS), help="some of %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--large-repeats", type=int, default=3, help="rounds from a megapixel on")
    parser.add_argument("--minutes", type=float, default=12.0, help="in all: fewer rounds, but one")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, help="keep the figures here; what it holds stays")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the table into this file")
    parser.add_argument("--page", type=Path, help="write the tables into this page, at its marks")
    parser.add_argument("--quick", action="store_true", help="64 × 64, L1 and L4, two rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    args = parser.parse_args(argv)
    if args.quick:
        args.sizes = args.files = [(64, 64)]
        args.levels, args.repeats = "1,4", 2
    args.peers = args.peers.split(",")
    if unknown := set(args.peers) - set(CONTESTANTS):
        parser.error(f"--peers takes {', '.join(CONTESTANTS)}, got {', '.join(sorted(unknown))}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    args = parse(argv)
    try:
        threads = set_threads(args.threads)
        seen = {**machine(choose_device("cpu"), threads), "amx": _has_amx()}
        kept = Kept.read(args.out, seen) if args.out else Kept(seen)
        why = {peer: absent(peer) for peer in args.peers}
        kept.absent = [text for text in why.values() if text]
        levels = sorted(int(k) for k in args.levels.split(","))
        plan = Plan(
            args.sizes, args.files, levels, [p for p in args.peers if not why[p]],
            args.repeats, args.large_repeats, threads, args.minutes,
        )  # fmt: skip
        run(plan, kept, args.out)
        if args.figure:
            draw(kept, args.figure)
        if args.page:
            write_into(args.page, report(kept), args.figure)
    except UNetPPError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(kept.to_json(), indent=2) if args.json else report(kept))
    return 0


def _has_amx() -> bool:
    with contextlib.suppress(OSError):
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    return False


if __name__ == "__main__":
    sys.exit(main())
