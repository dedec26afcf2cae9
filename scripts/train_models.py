"""Train the bundled models from the shared data, as they were trained for the package.

    .venv/bin/python scripts/train_models.py nuclei ct-head-neck

Takes the same path as ``napari-unetpp train`` (`core.train.fit`). A run that was stopped goes
on when the command is given again. On CPU cores with native bfloat16 expect an hour or more for
each model.
"""

from __future__ import annotations

import argparse
import csv
import logging
import re
import zlib
from pathlib import Path

import torch

from napari_unetpp.core.config import (
    ClassInfo,
    InstanceRule,
    ModelCard,
    NetworkConfig,
    Normalisation,
)
from napari_unetpp.core.data.augment import AugmentConfig
from napari_unetpp.core.data.labels import LabelRule
from napari_unetpp.core.data.pairs import find_pairs
from napari_unetpp.core.events import Note, StepDone, Validated, drain
from napari_unetpp.core.model.modelfile import Model, load_model, save_model
from napari_unetpp.core.run.runtime import Runner, choose_device
from napari_unetpp.core.score.calibration import calibrate
from napari_unetpp.core.score.evaluation import evaluate
from napari_unetpp.core.train.fit import FitJob, fit
from napari_unetpp.core.train.prepare import TableRow
from napari_unetpp.core.train.settings import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "napari_unetpp" / "models"

# Training images that resemble the labelled nuclei inside the stardist wheel (normalised
# cross-correlation of a 64 x 64 patch above 0.94). They are held out, so that the wheel's
# image stays an honest test.
RESEMBLING = {"8cdbdda8b3a64c97", "4596961c789d3b41", "4a424e0cb845cf6f", "da5f98f2b8a64eee"}

# Rare modalities are drawn more often than their number says.
MODALITY_WEIGHT = {"fluorescence": 1.0, "stained_colour": 2.0, "brightfield_gray": 6.0}

ORGANS = {
    "Brainstem": ClassInfo("brainstem", "#90ee90"),
    "SpinalCord": ClassInfo("spinal cord", "#f4d631"),
    "RightParotid": ClassInfo("right parotid", "#e57373"),
    "LeftParotid": ClassInfo("left parotid", "#64b5f6"),
    "Esophagus": ClassInfo("oesophagus", "#d3a17a"),
    "Larynx": ClassInfo("larynx", "#b39ddb"),
    "Mandible": ClassInfo("mandible", "#f1d691"),
}

NUCLEI = ModelCard(
    name="nuclei",
    description="Nuclei in 2D, one channel, from fluorescence to stained tissue; touching nuclei "
    "come out as separate objects.",
    network=NetworkConfig(filters=(16, 32, 64, 128, 256), out_channels=2, norm="batch"),
    classes=(ClassInfo("nucleus", "#4fc3f7"),),
    auxiliary=("centre",),
    input_channels=("nuclei",),
    normalisation=Normalisation("percentile", 1.0, 99.8, "bright-objects", rgb="nuclear-stain"),
    instances=InstanceRule(seed_smoothing=1.5, seed_prominence=0.1, min_size=20),
    data="Data Science Bowl 2018 stage 1 (BBBC038), corrected masks, 596 images.",
    licence="Weights: BSD-3-Clause. Training data: CC0.",
    citation="Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data "
    "Science Bowl, Nature Methods 16, 1247-1253 (2019).",
)

CT_HEAD_NECK = ModelCard(
    name="ct-head-neck",
    description="Seven organs at risk in a head-and-neck CT. An organ that was not contoured in "
    "a training image was treated as unknown. Not a medical device.",
    network=NetworkConfig(ndim=3, filters=(16, 32, 64, 128, 256), out_channels=7, norm="batch"),
    classes=tuple(ORGANS.values()),
    axes="ZYX",
    input_channels=("CT",),
    spacing=(3.0, 4.0, 4.0),
    orientation="SPL",
    normalisation=Normalisation("window", -300.0, 500.0, ct_offset=True),
    data="OpenKBP, 140 head-and-neck CTs from The Cancer Imaging Archive.",
    licence="Weights: BSD-3-Clause. Training data: MIT (ababier/open-kbp).",
    citation="Babier et al., OpenKBP: the open-access knowledge-based planning grand challenge "
    "and dataset, Medical Physics 48, 5549-5561 (2021).",
)


def side(name: str) -> str:
    """Return the side of the split: a fifth is held out, by a checksum of the name."""
    held_out = name in RESEMBLING or zlib.crc32(name.encode()) % 5 == 0
    return "held-out" if held_out else "train"


def nuclei_job(
    data: Path, runs: Path, max_seconds: float | None, base: Model | None = None
) -> FitJob:
    """Return the training of ``nuclei``."""
    folder = data / "nuclei"
    with (folder / "metadata.csv").open(newline="") as file:
        table = {
            row["name"]: TableRow(side(row["name"]), weight=MODALITY_WEIGHT[row["modality"]])
            for row in csv.DictReader(file)
        }
    device = choose_device()
    config = TrainConfig(
        steps=8000,
        validate_every=500,
        augment=AugmentConfig(scale=0.45),
        max_seconds=max_seconds,
        device=device.kind,
        precision="float32" if device.precision == "float32" else "bfloat16",
    )
    return FitJob(
        find_pairs(folder / "images", folder / "masks"),
        NUCLEI,
        LabelRule("instances", dense=True),
        config,
        MODELS / "nuclei.safetensors",
        runs / "nuclei",
        table,
        base=base,
    )


def ct_job(data: Path, runs: Path, max_seconds: float | None, base: Model | None = None) -> FitJob:
    """Return the training of ``ct-head-neck``."""
    folder = data / "ct_head_neck"
    with (folder / "metadata.csv").open(newline="") as file:
        rows = [(row["name"], row["organs"].split()) for row in csv.DictReader(file)]
    # Most patients have no contour of the oesophagus, half of them none of the larynx; those who
    # have come more often.
    table = {
        name: TableRow(
            side(name),
            tuple(ORGANS[o].name for o in organs),
            weight=4.0 if "Esophagus" in organs else 2.0 if "Larynx" in organs else 1.0,
        )
        for name, organs in rows
    }
    device = choose_device()
    config = TrainConfig(
        steps=2500,
        batch=2,
        patch=(48, 64, 64),
        foreground=0.8,
        validate_every=250,
        validate_images=7,
        augment=AugmentConfig.volumes(oriented=True),
        max_seconds=max_seconds,
        device=device.kind,
        precision="float32" if device.precision == "float32" else "bfloat16",
    )
    return FitJob(
        find_pairs(folder / "images", folder / "masks"),
        CT_HEAD_NECK,
        LabelRule("classes", dense=True),
        config,
        MODELS / "ct-head-neck.safetensors",
        runs / "ct-head-neck",
        table,
        base=base,
    )


JOBS = {"nuclei": nuclei_job, "ct-head-neck": ct_job}


def listen(event: object) -> None:
    """Log what matters."""
    if isinstance(event, StepDone) and event.step % 20 == 0:
        logging.info("step %d loss %.3f %.0f s", event.step, event.loss, event.seconds)
    elif isinstance(event, Validated):
        logging.info("step %d %s%s", event.step, dict(event.scores), " best" * event.best)
    elif isinstance(event, Note):
        logging.info(event.message)


def measure(name: str, job: FitJob) -> None:
    """Measure time and memory of a finished model anew, and calibrate its "auto" level."""
    model = load_model(job.out)
    names = re.split(r",\s*", model.card.split.split("held out: ")[1].rstrip("."))
    held_out = [p for p in job.pairs if p.name in names]
    auto = drain(calibrate(Runner(model, choose_device(), None), held_out))
    logging.info("%s: %s", name, auto)
    names = names[: 12 if model.card.network.ndim == 2 else 2]
    pairs = [p for p in job.pairs if p.name in names]
    found = drain(evaluate(Runner(model, choose_device()), pairs)).for_card()
    card = model.card.replace(
        timings=found["timings"],
        timing_device=found["timing_device"],
        instances=job.card.instances,
        auto_tolerance=auto.tolerance,
    )
    save_model(job.out, model.network, card)
    logging.info("%s: %s", name, found["timings"])


def main() -> None:
    """Train what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=JOBS)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--base", help="start from this model's weights, a name or a file")
    parser.add_argument("--only-measure", action="store_true", help="time and memory of the card")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    MODELS.mkdir(exist_ok=True)
    for name in args.models:
        if args.only_measure:
            measure(name, JOBS[name](args.data, args.runs, None))
            continue
        base = load_model(args.base) if args.base else None
        report = drain(fit(JOBS[name](args.data, args.runs, args.max_seconds, base)), listen)
        logging.info("%s", report.to_json())


if __name__ == "__main__":
    main()
